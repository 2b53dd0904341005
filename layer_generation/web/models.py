"""The models that the app offers: `app_config.json`, and whether each can be used.

Keys never are in the file: a model names the environment variable that holds its
key, and what a page is told of a model has neither key nor address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from layer_generation.endpoints.base import Endpoint
from layer_generation.endpoints.open import open_endpoint
from layer_generation.errors import AppConfigInvalid, EndpointInvalid, ItemInvalid, LayerConfigInvalid
from layer_generation.layer_config import EndpointConfig, endpoints_from, refuse_secrets
from layer_generation.web.items import RENDER_LANE, checked_parameters

FILENAME = "app_config.json"
_MODEL_ID = re.compile(r"[A-Za-z0-9._:/-]{1,100}")
_OWN = ("model_id", "endpoint", "endpoint_env", "negative_prompt", "parameters")
_KNOWN_ELSEWHERE = ("model_type", "use_base64", "num_inference_steps")
_BUILTIN = (
    ("pixelart-summer", "Pixel art: summer", "summer"),
    ("pixelart-autumn", "Pixel art: autumn", "autumn"),
    ("pixelart-snow", "Pixel art: snow", "snow"),
    ("pixelart-night", "Pixel art: night", "night"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that pictures can be asked of."""

    model_id: str
    name: str
    endpoint: EndpointConfig
    prompt: str = ""
    """What it is asked for where a request says nothing."""
    negative_prompt: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Steps, guidance, strength and what its protocol knows beyond."""

    def open(self, environment: Mapping[str, str], folder: Path) -> Endpoint:
        """Return its endpoint. Raises EndpointInvalid, also where its key is not set."""
        return open_endpoint(self.endpoint, environment, folder=folder)

    def reason(self, environment: Mapping[str, str], folder: Path) -> str:
        """Return why it cannot be used; empty where it can."""
        try:
            self.open(environment, folder).close()
        except EndpointInvalid as error:
            return self.told(str(error))
        return ""

    def told(self, text: str) -> str:
        """Return a text about it as a page may read it: without its address."""
        parts = urlsplit(self.endpoint.url)
        for one in (self.endpoint.url, self.endpoint.url.rstrip("/"), parts.netloc, parts.hostname or ""):
            if one and not self.endpoint.url.startswith("builtin:"):
                text = text.replace(one, "its server")
        return text

    def public(self, reason: str) -> dict[str, object]:
        """Return what a page may know."""
        return {
            "model_id": self.model_id,
            "name": self.name,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "parameters": {key: value for key, value in self.parameters.items() if _is_plain(value)},
            "ready": not reason,
            "reason": reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """What `app_config.json` says."""

    models: tuple[Model, ...]
    default_model_id: str
    path: Path

    def model(self, model_id: str | None) -> Model | None:
        """Return a model by its id, the default one for None; None where there is none of that id."""
        wanted = self.default_model_id if model_id is None else model_id
        return next((one for one in self.models if one.model_id == wanted), None)


def read_app_config(path: Path | None, folder: Path, environment: Mapping[str, str]) -> AppConfig:
    """Return the configuration of a file.

    Without a file named, that of the map's folder, and where that has none, the
    embedded models. Raises AppConfigInvalid.
    """
    found = path or folder / FILENAME
    if path is None and not found.exists():
        models = tuple(_builtin(*one) for one in _BUILTIN)
        return AppConfig(models=models, default_model_id=models[0].model_id, path=found)
    try:
        document = json.loads(found.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AppConfigInvalid(found, error.strerror or str(error)) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise AppConfigInvalid(found, f"is no JSON ({error})") from error
    return app_config_from(document, found, environment)


def app_config_from(document: object, path: Path, environment: Mapping[str, str]) -> AppConfig:
    """Return the configuration that JSON values state. Raises AppConfigInvalid."""
    if not isinstance(document, Mapping):
        raise AppConfigInvalid(path, "expected a JSON object with `models`")
    for key in document:
        if key not in ("models", "default_model_id"):
            raise AppConfigInvalid(path, f"{key!r}: expected models or default_model_id")
    try:
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise AppConfigInvalid(path, "expected finite numbers and text that UTF-8 can hold") from error
    stated = document.get("models")
    if not isinstance(stated, list) or not stated:
        raise AppConfigInvalid(path, "models: expected a list of at least one model")
    models = tuple(_model(one, number, path, environment) for number, one in enumerate(stated, 1))
    ids = [one.model_id for one in models]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise AppConfigInvalid(path, f"model_id {model_id!r} is there twice; give each an id of its own")
    default = document.get("default_model_id") or ids[0]
    if default not in ids:
        raise AppConfigInvalid(path, f"default_model_id = {default!r}: expected one of {', '.join(ids)}")
    return AppConfig(models=models, default_model_id=default, path=path)


def _builtin(model_id: str, name: str, prompt: str) -> Model:
    endpoint = EndpointConfig(name=model_id, url="builtin:pixelart", protocol="builtin", context="mask")
    return Model(model_id=model_id, name=name, endpoint=endpoint, prompt=prompt)


def _model(stated: object, number: int, path: Path, environment: Mapping[str, str]) -> Model:
    if not isinstance(stated, Mapping):
        raise AppConfigInvalid(path, f"model {number}: expected an object")
    label = f"model {stated.get('model_id') or number}"
    model_id, name = stated.get("model_id"), stated.get("name")
    if not isinstance(model_id, str) or not _MODEL_ID.fullmatch(model_id) or model_id == RENDER_LANE:
        raise AppConfigInvalid(
            path,
            f"{label}: model_id = {model_id!r}: expected letters, digits and . _ : / - (not {RENDER_LANE})",
        )
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise AppConfigInvalid(path, f"{label}: name: expected a text of at most 200 characters")
    for key in ("prompt", "negative_prompt", "endpoint_env", "endpoint"):
        if not isinstance(stated.get(key, ""), str):
            raise AppConfigInvalid(path, f"{label}: {key} = {stated[key]!r}: expected a text")
    parameters = stated.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise AppConfigInvalid(path, f"{label}: parameters: expected an object")
    try:
        refuse_secrets(parameters, path, f"{label}: parameters")
    except LayerConfigInvalid as error:
        raise AppConfigInvalid(path, str(error).removeprefix(f"{path}: ")) from error
    try:
        checked_parameters(parameters)
    except ItemInvalid as error:
        raise AppConfigInvalid(path, f"{label}: {error}") from error
    endpoint = _endpoint(stated, model_id, label, path, environment)
    steps = stated.get("num_inference_steps")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise AppConfigInvalid(
            path, f"{label}: num_inference_steps = {steps!r}: expected a whole number from 1"
        )
    return Model(
        model_id=model_id,
        name=name.strip(),
        endpoint=replace(endpoint, prompt=""),
        prompt=stated.get("prompt", ""),
        negative_prompt=stated.get("negative_prompt", ""),
        parameters={**({} if steps is None else {"steps": steps}), **parameters},
    )


def _endpoint(
    stated: Mapping[str, Any], model_id: str, label: str, path: Path, environment: Mapping[str, str]
) -> EndpointConfig:
    """Return the endpoint of a model; words of known configurations are understood."""
    kept = {
        key: value
        for key, value in stated.items()
        if key not in (*_OWN, *_KNOWN_ELSEWHERE, "name", "prompt") and value not in ("", None)
    }
    url = (
        environment.get(stated.get("endpoint_env") or "", "") or stated.get("endpoint") or kept.pop("url", "")
    )
    kept.pop("url", None)
    if not url:
        variable = stated.get("endpoint_env")
        remedy = f" or set the environment variable {variable}" if variable else ""
        raise AppConfigInvalid(path, f"{label}: endpoint: expected the address of its server{remedy}")
    if not isinstance(url, str) or any(ord(one) <= 32 or ord(one) == 127 for one in url):
        raise AppConfigInvalid(
            path, f"{label}: endpoint: expected an address without blanks and control characters"
        )
    kind = stated.get("model_type", "url")
    if kind not in ("url", "local"):
        raise AppConfigInvalid(
            path,
            f"{label}: model_type = {kind!r}: is of another program; say `protocol` and `endpoint` instead",
        )
    protocol = "base64" if stated.get("use_base64", True) else "multipart"
    fields = {"protocol": protocol, **kept} if not str(url).startswith("builtin:") else kept
    try:
        return endpoints_from([{**fields, "name": model_id, "url": url}], path)[0]
    except LayerConfigInvalid as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix(f"endpoint {model_id}: ")
        raise AppConfigInvalid(path, f"{label}: {reason}") from error


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)

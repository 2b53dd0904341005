"""What a layer is: `layer_config.json`, with the model servers that draw it.

Keys are never in it: an endpoint names the environment variable that holds its key.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fusi_pipeline.tiles.files import replacing
from layer_generation.errors import LayerConfigInvalid, LayerMissing

FILENAME = "layer_config.json"
PROTOCOLS = ("builtin", "base64", "multipart", "openai", "a1111", "comfyui", "sdcpp", "fusi")
CONTEXTS = ("frame", "mask", "none")
SOURCE_LAYERS = ("generations", "renders")
_SECRET_KEYS = ("api_key", "key", "token", "secret", "password", "authorization")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """A model server and how it is spoken to."""

    name: str
    url: str
    """`http(s)://...`, or `builtin:pixelart` for the embedded model."""
    protocol: str = "base64"
    """One of PROTOCOLS; `builtin` for urls that begin so."""
    api_key_env: str = ""
    """Environment variable that holds its key; none is sent where empty."""
    model: str = ""
    concurrency: int = 1
    """Requests that it takes at a time."""
    context: str = ""
    """How finished neighbours are shown: `frame` (red frame), `mask`, or `none` (the bare block).

    Empty: a mask where the protocol has one, else a frame.
    """
    frame_px: int = 2
    """Width of the red frame."""
    timeout_s: float = 600.0
    """For one picture, from request to result."""
    prompt: str = ""
    """In place of the layer's."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, as the protocol has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """What `layer_config.json` says."""

    name: str
    generation_dir: str
    """Folder of the map, absolute, or relative to the layer's folder."""
    source_layer: str = "generations"
    model_endpoints: tuple[EndpointConfig, ...] = ()
    generation_params: Mapping[str, Any] = field(default_factory=dict)
    """`prompt`, `negative_prompt`, `steps` (or `num_inference_steps`), `guidance`, `strength`, `seed`,
    `match_colors`, `max_drift`, `max_attempts` and what protocols know beyond."""
    bounds: tuple[int, int, int, int] | None = None
    """(min_x, min_y, max_x, max_y) of quadrants, inclusive; None for the whole map."""

    @property
    def source_kind(self) -> str:
        """The kind of picture in the map: `generation` or `render`."""
        return self.source_layer.removesuffix("s")

    def map_folder(self, layer_dir: Path) -> Path:
        """Return the folder of the map."""
        return layer_dir / self.generation_dir

    @property
    def prompt(self) -> str:
        """What the models are asked for."""
        return str(self.generation_params.get("prompt") or DEFAULT_PROMPT)


DEFAULT_PROMPT = (
    "Redraw the marked part of this map in the style of its surroundings; keep every shape where it is."
)


def read_layer(layer_dir: Path) -> LayerConfig:
    """Return the configuration of a layer. Raises LayerMissing and LayerConfigInvalid."""
    path = layer_dir / FILENAME
    if not path.is_file():
        raise LayerMissing(layer_dir)
    return layer_from(_json(path), path)


def read_endpoints(path: Path) -> tuple[EndpointConfig, ...]:
    """Return the endpoints of a file: a JSON list, or an object with `model_endpoints`."""
    document = _json(path)
    if isinstance(document, Mapping):
        document = document.get("model_endpoints")
    found = endpoints_from(document, path)
    if not found:
        raise LayerConfigInvalid(path, "lists no endpoint; without --model-endpoints the embedded one draws")
    return found


def moved(endpoints: Sequence[EndpointConfig], old: Path, new: Path) -> tuple[EndpointConfig, ...]:
    """Return endpoints whose relative paths begin in the folder `new` and no longer in `old`."""
    found = []
    for one in endpoints:
        stated = one.params.get("workflow")
        if isinstance(stated, str) and not Path(stated).is_absolute():
            path = os.path.relpath(old.resolve() / stated, new.resolve())
            one = replace(one, params={**one.params, "workflow": path})
        found.append(one)
    return tuple(found)


def write_layer(layer_dir: Path, config: LayerConfig) -> None:
    """Write the configuration of a layer, absent or complete."""
    with replacing(layer_dir / FILENAME) as scratch:
        scratch.write_text(
            json.dumps(layer_json(config), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def layer_json(config: LayerConfig) -> dict[str, object]:
    """Return a configuration as JSON values; what is at its default in an endpoint is left out."""
    endpoints = []
    for endpoint in config.model_endpoints:
        default = EndpointConfig(name=endpoint.name, url=endpoint.url)
        kept = {key: value for key, value in asdict(endpoint).items() if value != getattr(default, key)}
        endpoints.append({"name": endpoint.name, "url": endpoint.url, **kept})
    return {
        "name": config.name,
        "generation_dir": config.generation_dir,
        "source_layer": config.source_layer,
        "bounds": None if config.bounds is None else list(config.bounds),
        "model_endpoints": endpoints,
        "generation_params": dict(config.generation_params),
    }


def layer_from(document: object, path: Path | str) -> LayerConfig:
    """Return the configuration that JSON values state. Raises LayerConfigInvalid."""
    if not isinstance(document, Mapping):
        raise LayerConfigInvalid(path, "expected a JSON object")
    known = {one.name for one in fields(LayerConfig)} | {"created_at"}
    for key in document:
        if key not in known:
            raise LayerConfigInvalid(path, f"{key!r}: expected one of {', '.join(sorted(known))}")
    for key in ("name", "generation_dir"):
        if not isinstance(document.get(key), str) or not document[key]:
            raise LayerConfigInvalid(path, f"{key}: expected a text")
    source = document.get("source_layer", "generations")
    if source not in SOURCE_LAYERS:
        raise LayerConfigInvalid(path, f"source_layer = {source!r}: expected {' or '.join(SOURCE_LAYERS)}")
    params = document.get("generation_params", {})
    if not isinstance(params, Mapping):
        raise LayerConfigInvalid(path, "generation_params: expected an object")
    refuse_secrets(params, path, "generation_params")
    _check_params(params, path)
    return LayerConfig(
        name=document["name"],
        generation_dir=document["generation_dir"],
        source_layer=source,
        model_endpoints=endpoints_from(document.get("model_endpoints", []), path),
        generation_params=dict(params),
        bounds=_bounds(document.get("bounds"), path),
    )


def _check_params(params: Mapping[str, Any], path: Path | str) -> None:
    """Look that what is known of `generation_params` is of its kind; null is as if it were not there."""
    checks: Mapping[str, tuple[Callable[[object], bool], str]] = {
        **dict.fromkeys(("prompt", "negative_prompt"), (_is_text, "a text")),
        **dict.fromkeys(
            ("steps", "num_inference_steps", "max_attempts"), (_is_count, "a whole number from 1")
        ),
        **dict.fromkeys(("guidance", "strength", "max_drift"), (_is_at_least_0, "a number from 0")),
        "seed": (_is_whole_number, "a whole number"),
        "match_colors": (_is_flag, "true or false"),
    }
    for key, (is_good, kind) in checks.items():
        value = params.get(key)
        if value is not None and not is_good(value):
            raise LayerConfigInvalid(path, f"generation_params: {key} = {value!r}: expected {kind}")


def endpoints_from(document: object, path: Path | str) -> tuple[EndpointConfig, ...]:
    """Return the endpoints that a JSON list states. Raises LayerConfigInvalid."""
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise LayerConfigInvalid(path, "expected a list of endpoints")
    found = tuple(_endpoint(one, number, path) for number, one in enumerate(document, 1))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise LayerConfigInvalid(path, f"endpoint {name!r} is there twice; give each a name of its own")
    return found


def _endpoint(stated: object, number: int, path: Path | str) -> EndpointConfig:
    if not isinstance(stated, Mapping):
        raise LayerConfigInvalid(path, f"endpoint {number}: expected an object")
    label = f"endpoint {stated.get('name') or number}"
    refuse_secrets(stated, path, label)
    known = [one.name for one in fields(EndpointConfig)]
    for key in stated:
        if key not in known:
            raise LayerConfigInvalid(path, f"{label}: {key!r}: expected one of {', '.join(known)}")
    values: dict[str, Any] = dict(stated)
    for key in ("name", "url"):
        if not isinstance(values.get(key), str) or not values[key]:
            raise LayerConfigInvalid(path, f"{label}: {key}: expected a text")
    if values["url"].startswith("builtin:"):
        values.setdefault("protocol", "builtin")
    checks = {
        "protocol": (values.get("protocol", "base64") in PROTOCOLS, f"one of {', '.join(PROTOCOLS)}"),
        "context": (values.get("context", "") in ("", *CONTEXTS), f"one of {', '.join(CONTEXTS)}"),
        "concurrency": (_is_whole(values.get("concurrency", 1), 1, 256), "a whole number of 1..256"),
        "frame_px": (_is_whole(values.get("frame_px", 2), 1, 64), "a whole number of 1..64"),
        "timeout_s": (_is_positive(values.get("timeout_s", 600.0)), "seconds, more than 0"),
        "params": (isinstance(values.get("params", {}), Mapping), "an object"),
        "url": (
            values["url"].startswith(("http://", "https://", "builtin:")),
            "http://, https:// or builtin:",
        ),
    }
    for key in ("api_key_env", "model", "prompt"):
        checks[key] = (isinstance(values.get(key, ""), str), "a text")
    for key, (good, expected) in checks.items():
        if not good:
            raise LayerConfigInvalid(path, f"{label}: {key} = {values.get(key)!r}: expected {expected}")
    return EndpointConfig(**values)


def refuse_secrets(values: Mapping[str, Any], path: Path | str, label: str) -> None:
    """Raise LayerConfigInvalid where a key of JSON values says that a secret is written there."""
    for key, value in values.items():
        if key.lower() in _SECRET_KEYS:
            raise LayerConfigInvalid(
                path,
                f"{label}: {key} must not be written into a file, where it would be copied and shared; "
                'put it into an environment variable and name that: "api_key_env": "MY_KEY"',
            )
        if isinstance(value, Mapping):
            refuse_secrets(value, path, f"{label}: {key}")


def _bounds(stated: object, path: Path | str) -> tuple[int, int, int, int] | None:
    if stated is None:
        return None
    if isinstance(stated, Mapping):  # as known layers have it
        stated = [stated.get(key) for key in ("min_x", "min_y", "max_x", "max_y")]
    if (
        not isinstance(stated, Sequence)
        or len(stated) != 4
        or not all(type(value) is int for value in stated)
        or stated[0] > stated[2]
        or stated[1] > stated[3]
    ):
        raise LayerConfigInvalid(path, f"bounds = {stated!r}: expected [min_x, min_y, max_x, max_y]")
    return stated[0], stated[1], stated[2], stated[3]


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return _is_whole(value, 1, 10**6)


def _is_whole_number(value: object) -> bool:
    return type(value) is int


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_at_least_0(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayerConfigInvalid(path, error.strerror or str(error)) from error
    except (UnicodeDecodeError, ValueError) as error:
        raise LayerConfigInvalid(path, f"is no JSON ({error})") from error

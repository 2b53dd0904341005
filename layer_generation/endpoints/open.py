"""Opens the model server that a configuration describes: its protocol's adapter, with its key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx

from layer_generation.endpoints.a1111 import A1111
from layer_generation.endpoints.adapter import Adapter
from layer_generation.endpoints.base import Endpoint
from layer_generation.endpoints.base64_json import Base64Json
from layer_generation.endpoints.comfyui import ComfyUI
from layer_generation.endpoints.fusi import Fusi
from layer_generation.endpoints.multipart import Multipart
from layer_generation.endpoints.openai import OpenAI
from layer_generation.endpoints.pixelart import PixelArt
from layer_generation.endpoints.sdcpp import SdCpp
from layer_generation.errors import EndpointInvalid
from layer_generation.layer_config import EndpointConfig

BUILTINS = ("pixelart",)
_SECRET = ("key", "api_key", "apikey", "api-key", "token", "access_token", "secret", "password")
"""Names in the query of a url whose values are none of a file's business."""
ADAPTERS: Mapping[str, type[Adapter]] = {
    "base64": Base64Json,
    "multipart": Multipart,
    "openai": OpenAI,
    "a1111": A1111,
    "comfyui": ComfyUI,
    "sdcpp": SdCpp,
    "fusi": Fusi,
}


def open_endpoint(
    config: EndpointConfig,
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Endpoint:
    """Return the endpoint of a configuration; nothing is sent yet.

    `environment` holds the keys by the names of variables, `folder` is where
    relative paths in `params` begin, and `transport` stands in for the network.
    Raises EndpointInvalid.
    """
    _check_address(config)
    return _opened(config, _key(config, environment), folder, transport)


def check_endpoint(config: EndpointConfig, folder: Path | None = None) -> None:
    """Raise EndpointInvalid for all that can be told without its key: url, protocol, params, files.

    `folder` is where relative paths in `params` begin; it need not be there yet.
    """
    _check_address(config)
    opened = _opened(config, "", folder, None)
    if isinstance(opened, Adapter):
        opened.close()


def check_key(config: EndpointConfig, environment: Mapping[str, str]) -> None:
    """Raise EndpointInvalid where the key that a configuration names is not in the environment."""
    _key(config, environment)


def _opened(
    config: EndpointConfig, key: str, folder: Path | None, transport: httpx.BaseTransport | None
) -> Endpoint:
    if config.protocol == "builtin":
        return PixelArt(config.name, config.params)
    if config.protocol not in ADAPTERS:
        raise EndpointInvalid(
            config.name, f"protocol {config.protocol!r}: expected builtin or one of {', '.join(ADAPTERS)}"
        )
    if config.protocol == "comfyui":
        return ComfyUI(config, key, transport, folder)
    adapter = ADAPTERS[config.protocol](config, key, transport)
    if config.context == "mask" and not adapter.takes_mask:
        adapter.close()
        raise EndpointInvalid(
            config.name,
            f"context 'mask': {config.protocol} sends a mask only where params say in which field"
            ' ("mask_field": "mask_b64", say); use that, or context frame',
        )
    return adapter


def _check_address(config: EndpointConfig) -> None:
    """Raise EndpointInvalid for a url that is none, goes not with the protocol, or holds a key."""
    scheme, _, builtin = config.url.partition(":")
    if (scheme == "builtin") != (config.protocol == "builtin"):
        raise EndpointInvalid(
            config.name, f"url {_shown(config.url)} does not go with protocol {config.protocol!r}"
        )
    if scheme != "builtin":
        _check_url(config)
    elif builtin not in BUILTINS:
        raise EndpointInvalid(
            config.name,
            f"url builtin:{builtin}: expected one of {', '.join(f'builtin:{one}' for one in BUILTINS)}",
        )


def _check_url(config: EndpointConfig) -> None:
    try:
        url = httpx.URL(config.url)
    except httpx.InvalidURL as error:
        raise EndpointInvalid(config.name, f"url {_shown(config.url)}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise EndpointInvalid(config.name, f"url {_shown(config.url)}: expected http(s)://host[:port][/path]")
    if url.userinfo or any(name.lower() in _SECRET for name in url.params):
        raise EndpointInvalid(
            config.name,
            "url holds a key or a password, which would be copied and shared with the file; put it into an "
            'environment variable and name that: "api_key_env": "MY_KEY"',
        )


def _key(config: EndpointConfig, environment: Mapping[str, str]) -> str:
    """Return the key that the environment holds."""
    if not config.api_key_env:
        return ""
    key = environment.get(config.api_key_env, "").strip()
    if not key:
        raise EndpointInvalid(
            config.name,
            f"the environment variable {config.api_key_env} (api_key_env) is not set; put the key into it",
        )
    if not (key.isascii() and key.isprintable()):
        raise EndpointInvalid(
            config.name, f"the environment variable {config.api_key_env} holds characters that no key has"
        )
    return key


def _shown(url: str) -> str:
    """Return an address without what may be secret in it: a password, a query."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.partition('?')[0].rpartition('@')[2]}" if mark else url

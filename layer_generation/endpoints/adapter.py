"""What the adapters of protocols have in common: their server, their options, their fields."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import httpx

from layer_generation.endpoints.base import PLACE, EditRequest, EditResult, Stop
from layer_generation.endpoints.exchange import Server
from layer_generation.errors import EndpointInvalid
from layer_generation.layer_config import EndpointConfig

_PROBE_S = 10.0


class Adapter:
    """A model server, spoken to by one protocol. Threads may share it."""

    size_multiple = 8
    takes_mask = True
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {}
    """Of `params`, those that say how to speak to the server, with their types; all others are sent."""

    def __init__(
        self, config: EndpointConfig, key: str = "", transport: httpx.BaseTransport | None = None
    ) -> None:
        """Take a server's configuration and its key. Raises EndpointInvalid."""
        self.name = config.name
        self._config = config
        for option, kind in self.options.items():
            value = config.params.get(option)
            if value is not None and (
                not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
            ):
                kinds = kind if isinstance(kind, tuple) else (kind,)
                expected = " or ".join(_WORDS[one] for one in kinds)
                raise EndpointInvalid(self.name, f"params: {option} = {value!r}: expected {expected}")
        self._server = Server(
            config.url, key=key, timeout_s=config.timeout_s, basic=self._is_basic(key), transport=transport
        )

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn. Raises the errors of `endpoints.base`."""
        raise NotImplementedError

    def probe(self) -> None:
        """Ask for something small. Raises like `edit`."""
        path = self._probe_address()
        self._server.call(threading.Event(), min(_PROBE_S, self._server.timeout_s)).get(
            path, also=self._probe_also
        )

    _probe_also: tuple[int, ...] = ()
    """Statuses that are no bad sign."""

    def _probe_address(self) -> httpx.URL:
        return self._server.url

    def _is_basic(self, key: str) -> bool:
        """Tell whether a key is user and password rather than a token."""
        return False

    def close(self) -> None:
        """Release connections."""
        self._server.close()

    def _option(self, name: str, default: Any) -> Any:
        value = self._config.params.get(name)
        return default if value is None else value

    def _extra(self, request: EditRequest) -> dict[str, Any]:
        """Return the further fields: the endpoint's, and over them the request's."""
        given = {**self._config.params, **request.params}
        return {name: value for name, value in given.items() if name not in (*self.options, *PLACE)}


_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def stated(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def merged(fields: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with others laid over them, objects within objects too."""
    out = dict(fields)
    for name, value in over.items():
        known = out.get(name)
        out[name] = (
            merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
        )
    return out


def as_form(fields: dict[str, Any]) -> dict[str, str]:
    """Return fields as the texts of a form; those that are None are left out."""
    words = {True: "true", False: "false"}
    return {
        name: words[value] if isinstance(value, bool) else str(value)
        for name, value in fields.items()
        if value is not None
    }

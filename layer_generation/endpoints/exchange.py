"""Requests to one model server: keys, redirects, limits of size and time, and what refusals mean."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from layer_generation.endpoints.base import (
    EndpointCancelled,
    EndpointRetryable,
    EndpointUnavailable,
    EndpointUnreached,
    Stop,
)
from layer_generation.endpoints.failures import cleaned, failure, message_of
from layer_generation.endpoints.transport import BoundedTransport, DeadlineOver, Limits, Stopped

MOST_BYTES = 64 << 20
"""Longest body of an answer."""
_MOST_REDIRECTS = 30
"""A server that answers after 150 s with a redirect to itself may be followed for an hour."""
_MOVED = (301, 302, 303, 307, 308)
_SAME_METHOD = (307, 308)
_ERROR_BYTES = 1 << 20
"""Read of an answer that is a refusal."""

Part = tuple[str, tuple[str, bytes, str]]
"""A file of a form: (field, (file name, bytes, media type))."""


class AnswerUnusable(EndpointRetryable):
    """The answer holds no picture that could be used."""


class TooLate(EndpointRetryable):
    """The time for the picture is over; the server may still be drawing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    secrets: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        """The kind of its body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> dict[str, Any]:
        """Return its body as a JSON object. Raises AnswerUnusable."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise AnswerUnusable(self.text_only())
        return document

    def text_only(self) -> str:
        """Say that there is no picture, and what is there instead."""
        said = "" if b"\0" in self.body[:1024] else message_of(self.body, self.secrets)
        kind = self.media_type or "unknown kind"
        return f"answers without a picture ({kind}{': ' + said if said else ''})"


class Server:
    """The HTTP side of a model server. Threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 600.0,
        basic: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Take the server's address and its key, sent as a bearer token, or `user:password` where `basic`.

        `transport` stands in for the network.
        """
        self.url = httpx.URL(url)
        self.timeout_s = timeout_s
        self._limits = Limits()
        token = base64.b64encode(key.encode()).decode() if basic else key
        self._authorization = f"{'Basic' if basic else 'Bearer'} {token}" if key else ""
        self._secrets = tuple({key, token, *(key.split(":", 1) if basic else ())}) if key else ()
        self._client = httpx.Client(
            transport=transport or BoundedTransport(self._limits),
            headers={"accept-encoding": "identity", "user-agent": "fusi"},
            timeout=timeout_s,
            trust_env=False,
        )

    def call(self, stop: Stop, timeout_s: float | None = None) -> Call:
        """Begin the requests for one picture, which together take no longer than the server has."""
        return Call(self, stop, self.timeout_s if timeout_s is None else timeout_s)

    def at(self, path: str, ending: str = "") -> httpx.URL:
        """Return the address of a route; of the server's own, `ending` is taken off first."""
        base = self.url.path.rstrip("/")
        return self.url.copy_with(path=base.removesuffix(ending).rstrip("/") + path)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Call:
    """Requests that together have one deadline, and end soon after their caller wants to stop."""

    def __init__(self, server: Server, stop: Stop, timeout_s: float) -> None:
        self._server = server
        self._stop = stop
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def stopped_by(self, stop: Stop) -> Call:
        """Return requests with the same deadline that end by another wish to stop."""
        other = Call(self._server, stop, self._timeout_s)
        other._deadline = self._deadline
        return other

    def get(self, url: httpx.URL | str, *, also: Collection[int] = (), accept: str = "*/*") -> Answer:
        """Return the answer to a GET. Statuses other than 2xx raise, except those in `also`."""
        return self._send("GET", httpx.URL(url), also, accept, {})

    def post(
        self,
        url: httpx.URL | str,
        *,
        fields: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        files: Sequence[Part] = (),
        also: Collection[int] = (),
        accept: str = "application/json",
    ) -> Answer:
        """Return the answer to a POST of JSON (`fields`), or of a form with files."""
        if fields is not None:
            return self._send("POST", httpx.URL(url), also, accept, {"json": dict(fields)})
        return self._send(
            "POST", httpx.URL(url), also, accept, {"data": dict(form or {}), "files": list(files)}
        )

    def request(self, method: str, url: httpx.URL | str, *, also: Collection[int] = ()) -> Answer:
        """Return the answer to a request without a body."""
        return self._send(method, httpx.URL(url), also, "*/*", {})

    def sleep(self, seconds: float) -> None:
        """Wait. Raises EndpointCancelled and EndpointRetryable where the time is over."""
        left = self._deadline - time.monotonic()
        if self._stop.is_set() or (left > 0 and self._stop.wait(min(seconds, left))):
            raise EndpointCancelled("stopped while waiting for the picture")
        if left <= seconds:
            raise self._too_late()

    def _limits_hold(self) -> None:
        """Raise EndpointCancelled or EndpointRetryable where no request may begin any more."""
        if self._stop.is_set():
            raise EndpointCancelled("stopped while waiting for the picture")
        if time.monotonic() >= self._deadline:
            raise self._too_late()

    def _too_late(self) -> TooLate:
        return TooLate(f"no picture within {self._timeout_s:g} s (timeout_s)")

    def _send(
        self, method: str, url: httpx.URL, also: Collection[int], accept: str, body: dict[str, Any]
    ) -> Answer:
        self._limits_hold()
        try:
            with self._server._limits.of(self._deadline, self._stop):
                answer = self._followed(method, url, accept, body)
        except Stopped:
            raise EndpointCancelled("stopped while waiting for the picture") from None
        except DeadlineOver:
            raise self._too_late() from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreached(error) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EndpointRetryable(f"the connection broke ({self._said(error)})") from error
        if 200 <= answer.status < 300 or answer.status in also:
            return answer
        raise failure(answer.status, answer.headers, answer.body, self._server._secrets)

    def _unreached(self, error: httpx.TransportError) -> EndpointUnreached | EndpointUnavailable:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return EndpointUnavailable(f"its certificate is not accepted ({self._said(error)})")
        return EndpointUnreached(f"cannot be reached ({self._said(error)})")

    def _said(self, error: Exception) -> str:
        return cleaned(str(error), self._server._secrets) or type(error).__name__

    def _followed(self, method: str, url: httpx.URL, accept: str, body: dict[str, Any]) -> Answer:
        """Return the answer behind redirects. Raises also what the transport raises."""
        for _ in range(_MOST_REDIRECTS):
            answer = self._answer(method, url, accept, body)
            target = answer.headers.get("location", "")
            if answer.status not in _MOVED or not target:
                return answer
            url = url.join(target)
            if url.scheme not in ("http", "https"):
                raise EndpointUnavailable(f"redirects to a {cleaned(url.scheme)}: address")
            if answer.status == 303 or method == "GET":
                method, body = "GET", {}
            elif answer.status not in _SAME_METHOD:
                place = f"{url.scheme}://{url.netloc.decode()}{url.path}"
                raise EndpointUnavailable(f"has moved to {cleaned(place)}; name that address instead")
        raise EndpointRetryable(f"redirects in circles ({_MOST_REDIRECTS} times)")

    def _answer(self, method: str, url: httpx.URL, accept: str, body: dict[str, Any]) -> Answer:
        server = self._server
        headers = {"accept": accept}
        if server._authorization and _origin(url) == _origin(server.url):
            headers["authorization"] = server._authorization
        request = server._client.build_request(method, url, headers=headers, **body)
        response = server._client.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            return Answer(response.status_code, response.headers, _body(response), server._secrets)
        finally:
            response.close()


def _body(response: httpx.Response) -> bytes:
    """Return the body of an answer; of a refusal no more than its beginning. Raises EndpointRetryable."""
    good = response.is_success
    most = MOST_BYTES if good else _ERROR_BYTES
    read = bytearray()
    for piece in response.iter_bytes():
        read += piece
        if len(read) > most:
            if good:
                raise AnswerUnusable(f"answers with more than {MOST_BYTES >> 20} MiB")
            break
    return bytes(read[:most])


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"https": 443}.get(url.scheme, 80)

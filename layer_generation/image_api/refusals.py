"""What a request is refused with: typed errors, each with its status, its code and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Code = Literal[
    "INVALID_REQUEST",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "REQUEST_TIMEOUT",
    "ALREADY_TERMINAL",
    "PAYLOAD_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
    "MISDIRECTED_REQUEST",
    "IDEMPOTENCY_KEY_REUSED",
    "INTERNAL_ERROR",
    "SERVER_BUSY",
    "SHUTTING_DOWN",
]


class Refusal(Exception):
    """A request that is answered with an error. The message holds no prompt, no picture and no path."""

    status: int = 400
    code: Code = "INVALID_REQUEST"
    suggestion: str = ""

    def __init__(self, message: str, suggestion: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion or self.suggestion
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        told = {"message": str(self), "code": self.code}
        return {"error": {**told, "suggestion": self.suggestion} if self.suggestion else told}


class RequestInvalid(Refusal):
    """The body, a field or a header says something that cannot be used."""


class Unauthorized(Refusal):
    """The token is missing or wrong."""

    status, code = 401, "UNAUTHORIZED"
    suggestion = "Send the header Authorization: Bearer TOKEN"

    def __init__(self, message: str = "The token is missing or wrong") -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class OriginRefused(Refusal):
    """A page of another origin asks for something to be done."""

    status, code = 403, "FORBIDDEN"
    suggestion = "Start the server with --cors-origin for that page, or ask without a browser"


class NotFound(Refusal):
    """There is no such generation, not any more, or no such address."""

    status, code = 404, "NOT_FOUND"


class MethodNotAllowed(Refusal):
    """An address that answers other methods."""

    status, code = 405, "METHOD_NOT_ALLOWED"


class TooSlow(Refusal):
    """The body did not arrive in time."""

    status, code = 408, "REQUEST_TIMEOUT"
    suggestion = "Send the request again, over a faster connection or with a smaller picture"


class AlreadyTerminal(Refusal):
    """A generation that is to be cancelled has ended."""

    status, code = 409, "ALREADY_TERMINAL"


class TooLarge(Refusal):
    """The body has more bytes than any request needs."""

    status, code = 413, "PAYLOAD_TOO_LARGE"
    suggestion = "Send a smaller picture"


class NotJson(Refusal):
    """The body is said to be something other than JSON."""

    status, code = 415, "UNSUPPORTED_MEDIA_TYPE"
    suggestion = "Send JSON, and the header Content-Type: application/json"


class Misdirected(Refusal):
    """The Host header names another machine."""

    status, code = 421, "MISDIRECTED_REQUEST"
    suggestion = "Use the address that the server printed"


class KeyReused(Refusal):
    """An Idempotency-Key comes with another body than before."""

    status, code = 409, "IDEMPOTENCY_KEY_REUSED"
    suggestion = "Use a new key for a new request"


class Broken(Refusal):
    """The server itself failed."""

    status, code = 500, "INTERNAL_ERROR"


class Busy(Refusal):
    """As many generations as the server takes are under way."""

    status, code = 503, "SERVER_BUSY"
    suggestion = "Wait for current generation to complete and try again"

    def __init__(self, message: str = "Server is busy generating another image", retry_s: int = 1) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_s)})


class ShuttingDown(Refusal):
    """The server is about to end."""

    status, code = 503, "SHUTTING_DOWN"
    suggestion = "Try again once the server has been started again"

    def __init__(self) -> None:
        super().__init__("Server is shutting down", headers={"Retry-After": "10"})


ALL: tuple[type[Refusal], ...] = (
    RequestInvalid, Unauthorized, OriginRefused, NotFound, MethodNotAllowed, TooSlow, AlreadyTerminal,
    TooLarge, NotJson, Misdirected, KeyReused, Broken, Busy, ShuttingDown,
)  # fmt: skip

"""What a model server's refusal means: an answer's status and text to a typed error.

Nothing that could be a key or a picture gets into a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from layer_generation.endpoints.base import (
    EndpointBusy,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    EndpointUnavailable,
)

_BUSY = (429, 503)
_UNAVAILABLE = {
    401: "the key is refused",
    402: "payment is required",
    403: "access is refused",
    404: "no such address or model there",
    405: "the address does not take such requests",
    407: "a proxy asks for a password",
}
_PASSING = (408, 425)
_NEVER = (501, 505)
_QUOTA = re.compile(
    r"insufficient[_ ]quota|quota[_ ](?:exceeded|exhausted)|exceeded (?:your|the) (?:current )?quota"
    r"|billing[_ ](?:hard[_ ])?limit|billing[_ ]not[_ ]active|insufficient[_ ](?:credits?|funds|balance)",
    re.IGNORECASE,
)
_LONGEST_TEXT = 300
_READ_BYTES = 1 << 16
_ENCODED = re.compile(r"(?:data:[\w/+.-]{1,80};base64,)?[A-Za-z0-9+/_-]{64,}={0,2}")
_KEYS = (
    re.compile(r"\b(bearer|basic)(\s+)[\w.~+/=-]{8,}", re.IGNORECASE),
    re.compile(
        r"\b(api[_-]?key|token|key|secret|password)(\"?\s*[:=]\s*[\"']?)[\w.~+/=-]{8,}", re.IGNORECASE
    ),
    re.compile(r"\b(sk)(-)[\w-]{8,}"),
)


def failure(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: tuple[str, ...] = (),
    now: datetime | None = None,
) -> EndpointError:
    """Return the error that an answer stands for; `secrets` are kept out of its message."""
    said, codes = _said(body)
    text = cleaned(said, secrets)
    message = f"HTTP {status}" + (f": {text}" if text else "")
    if 400 <= status < 500 and _QUOTA.search(" ".join((*codes, said[:2000]))):
        return EndpointUnavailable(f"the quota is used up ({message})")
    if status in _UNAVAILABLE:
        return EndpointUnavailable(f"{_UNAVAILABLE[status]} ({message})")
    wait_s = retry_after_s(headers, now)
    if status in _BUSY:
        asks = f", and asks to wait {_seconds(wait_s)} s" if wait_s else ""
        return EndpointBusy(f"is busy ({message}){asks}", wait_s)
    if status in _PASSING or (status >= 500 and status not in _NEVER):
        return EndpointRetryable(f"fails ({message})", wait_s)
    return EndpointPermanent(f"refuses the request ({message})")


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return how long an answer asks to wait, in seconds; None where it does not say so, or not readably.

    `retry-after-ms` holds milliseconds, `Retry-After` seconds or an HTTP date (RFC 9110, section 10.2.3).
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    stated = headers.get("retry-after", "").strip()
    seconds = _number(stated)
    if seconds is not None:
        return seconds
    try:
        until = parsedate_to_datetime(stated)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _seconds(value: float) -> str:
    """Return a wait as a person reads it: whole seconds, or less than ten with one decimal."""
    return f"{value:.0f}" if value >= 10 else f"{max(value, 0.1):.1f}".removesuffix(".0")


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII) else None


def message_of(body: bytes, secrets: tuple[str, ...] = ()) -> str:
    """Return what an answer says in words: of JSON the message, of a page its title, else the text."""
    return cleaned(_said(body)[0], secrets)


def _said(body: bytes) -> tuple[str, tuple[str, ...]]:
    """Return (what an answer says, the codes that it gives)."""
    text = body[:_READ_BYTES].decode("utf-8", errors="replace").strip()
    try:
        document = json.loads(body) if len(body) <= 1 << 20 else None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, Mapping):
        return _of_json(document)
    return (_of_page(text) if text[:1] == "<" else text), ()


def _of_json(document: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Read `{"error": {...}}`, `{"error": "text"}`, `{"detail": ...}`, `{"message": ...}` and the like."""
    error = document.get("error")
    inner = error if isinstance(error, Mapping) else document
    codes = tuple(str(inner[key]) for key in ("code", "type", "status") if isinstance(inner.get(key), str))
    texts = [error] if isinstance(error, str) and error else []
    for key in ("message", "detail", "details", "errors"):
        texts += [text for text in _texts(inner.get(key)) if text not in texts]
    said = "; ".join(texts) or ", ".join(codes)
    return (f"{said} [{codes[0]}]" if codes and codes[0] not in said else said), codes


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the texts of a value: itself, those of its items, or the message of each finding in it."""
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, list) and depth < 3:
        for one in value[:5]:
            yield from _texts(one, depth + 1)
    elif isinstance(value, Mapping) and depth < 3:
        said = value.get("msg") or value.get("message")
        place = value.get("loc")
        where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        yield from (where + text for text in _texts(said, depth + 1))


def _of_page(text: str) -> str:
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    if title and title[1].strip():
        return title[1]
    bare = re.sub(r"<(script|style)\b.*?</\1\s*>", " ", text[:16384], flags=re.IGNORECASE | re.DOTALL)
    return re.sub(r"<[^>]*>", " ", bare)


def cleaned(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return a text for a message: one line of bounded length, without keys and encoded pictures."""
    text = text[:_READ_BYTES]
    for secret in secrets:
        if secret:
            text = text.replace(secret, "...")
    text = _ENCODED.sub("...", text)
    for key in _KEYS:
        text = key.sub(r"\1\2...", text)
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rstrip() + "..."

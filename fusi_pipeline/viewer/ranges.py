"""What part of a file a request asks for. Pure.

Source: RFC 9110, sections 8.8.3 (entity tags), 13.1 (conditions) and 14 (ranges).
"""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class RangeUnsatisfiable(ValueError):
    """A range begins behind the end of the file, or asks for no byte at all."""


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open (first, end) that a Range header asks of `size` bytes; None for all of them.

    A header that is malformed, in other units, or of several ranges is ignored,
    as section 14.2 allows. Raises RangeUnsatisfiable.
    """
    match = _RANGE.fullmatch(header) if header else None
    if match is None:
        return None
    first_text, last_text, suffix = match.groups()
    if suffix is not None:
        first, end = max(size - int(suffix), 0), size
    else:
        first = int(first_text)
        if last_text and int(last_text) < first:
            return None
        end = min(int(last_text) + 1, size) if last_text else size
    if first >= end:
        raise RangeUnsatisfiable
    return first, end


def still_valid(if_range: str | None, etag: str, modified: str) -> bool:
    """Tell whether a range may be sent: no condition, or the very file that If-Range names."""
    return if_range is None or if_range.strip() in (etag, modified)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Tell whether a client has the content of a strong tag already."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)

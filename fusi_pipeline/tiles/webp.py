"""What a WebP file consists of, read from its bytes without decoding it.

Source: WebP Container Specification (RIFF chunks) and WebP Lossless Bitstream
Specification, section 3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_RIFF_HEADER = 12
_CHUNK_HEADER = 8
_VP8L_SIGNATURE = 0x2F


class WebPInvalid(ValueError):
    """Bytes that are no whole WebP file; the message completes "it ..."."""


@dataclass(frozen=True, slots=True)
class WebPFacts:
    """What the chunks of a WebP say."""

    chunks: tuple[str, ...]
    """Their names in order: `VP8L` alone for a plain lossless picture."""
    width: int
    """Of the lossless picture in pixels; 0 where there is none."""
    height: int
    alpha: bool
    """Whether the lossless picture announces an alpha channel."""

    @property
    def lossless(self) -> bool:
        """Whether there is one picture, a lossless one."""
        return is_lossless(self.chunks)


def chunk_names(data: bytes) -> tuple[str, ...]:
    """Return the names of the chunks of a WebP as far as they go; none of other bytes.

    For files of others: bytes behind the end, or an end too early, do not matter.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return ()
    names, position = [], _RIFF_HEADER
    end = min(len(data), int.from_bytes(data[4:8], "little") + _CHUNK_HEADER)
    while position + _CHUNK_HEADER <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        names.append(name.decode("latin-1"))
        position += _CHUNK_HEADER + length + length % 2
    return tuple(names)


def is_lossless(chunks: Sequence[str]) -> bool:
    """Tell whether there is one picture among the chunks of a WebP, a lossless one."""
    return [name for name in chunks if name in ("VP8 ", "VP8L", "ANMF")] == ["VP8L"]


def facts(data: bytes) -> WebPFacts:
    """Return what the chunks of a WebP say. Raises WebPInvalid where they do not fill the bytes exactly."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise WebPInvalid("is no WebP")
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 != len(data):
        raise WebPInvalid(f"has {len(data)} bytes and says {size + 8}")
    names: list[str] = []
    width = height = 0
    alpha = False
    position = _RIFF_HEADER
    while position < len(data):
        if position + _CHUNK_HEADER > len(data):
            raise WebPInvalid("ends within the header of a chunk")
        name, length = struct.unpack_from("<4sI", data, position)
        position += _CHUNK_HEADER
        end = position + length + length % 2
        if end > len(data) or data[position + length : end].strip(b"\0"):
            raise WebPInvalid("has a chunk that does not end where it says")
        names.append(name.decode("latin-1"))
        if name == b"VP8L":
            width, height, alpha = _lossless(data[position : position + 5])
        position = end
    return WebPFacts(tuple(names), width, height, alpha)


def _lossless(head: bytes) -> tuple[int, int, bool]:
    """Return (width, height, whether it has alpha) from the start of a lossless picture."""
    if len(head) < 5 or head[0] != _VP8L_SIGNATURE:
        raise WebPInvalid("has a lossless picture without its signature")
    (bits,) = struct.unpack_from("<I", head, 1)
    if bits >> 29:
        raise WebPInvalid("has a lossless picture of an unknown version")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)

"""How the model server of the tests goes wrong, and the pictures that it and the tests exchange."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True)
class Fault:
    """How a request for a picture goes wrong; make one with the functions below."""

    kind: str
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)


def status(code: int, body: object = b"", **headers: str) -> Fault:
    """Answer with a status; underscores in names of headers are hyphens."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault("status", status=code, headers=named, body=raw)


HANG = Fault("hang")
"""Never answer."""
CLOSE = Fault("close")
"""Close the connection without an answer."""
TRUNCATED = Fault("truncated")
"""Close the connection within the body."""
DRIBBLE = Fault("dribble")
"""Send a byte now and then, for ever."""
DRIBBLE_HEADERS = Fault("dribble-headers")
NOT_IMAGE = Fault("picture", body=b"this is no picture at all")
HALF_IMAGE = Fault("half")
"""A picture that ends too early."""
TEXT_ONLY = Fault("text")
"""Words in place of a picture, as a model that refuses."""
BOMB = Fault("bomb")
"""A small file of a huge picture."""
HUGE = Fault("huge")
"""An answer without end."""
LOOP = Fault("loop")
"""Redirect to where it redirects from."""


def wrong_size(width: int, height: int) -> Fault:
    """Answer with a picture of another size."""
    return Fault("size", size=(width, height))


def slow(seconds: float) -> Fault:
    """Wait, then answer well."""
    return Fault("slow", seconds=seconds)


def later(times: int = 1) -> Fault:
    """Redirect (303) so many times, then to the result, as a server whose requests may not last."""
    return Fault("later", status=times)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def unpacked(data: bytes | str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture in bytes, or in base64."""
    raw = base64.b64decode(data) if isinstance(data, str) else data
    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image)


def bomb(width: int = 60000, height: int = 60000) -> bytes:
    """Return a PNG that says it has so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

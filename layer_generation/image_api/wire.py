"""What passes between the server and a backend's process: frames of JSON with bytes behind it.

A frame is the length of its JSON and the length of its bytes, four octets each,
big-endian, then both. Nothing is pickled: the process may have been talked into
sending anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")
MOST_FACTS_BYTES = 1 << 20
MOST_DATA_BYTES = 1 << 28


class FrameInvalid(Exception):
    """What arrived is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message."""

    kind: str
    facts: Mapping[str, Any]
    data: bytes = b""

    def encoded(self) -> bytes:
        """Return its bytes."""
        facts = json.dumps({"kind": self.kind, **self.facts}).encode()
        return LENGTHS.pack(len(facts), len(self.data)) + facts + self.data


def lengths(head: bytes) -> tuple[int, int]:
    """Return the lengths that a frame begins with. Raises FrameInvalid."""
    facts, data = LENGTHS.unpack(head)
    if facts > MOST_FACTS_BYTES or data > MOST_DATA_BYTES:
        raise FrameInvalid(f"a frame of {facts} + {data} bytes")
    return facts, data


def decoded(facts: bytes, data: bytes) -> Frame:
    """Return the frame of some bytes. Raises FrameInvalid."""
    try:
        document = json.loads(facts)
    except (ValueError, RecursionError) as error:
        raise FrameInvalid("a frame without JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise FrameInvalid("a frame without a kind")
    return Frame(document.pop("kind"), document, data)


def read(stream: BinaryIO) -> Frame | None:
    """Return the next frame of a stream, or None where it has ended. Raises FrameInvalid."""
    head = stream.read(LENGTHS.size)
    if len(head) < LENGTHS.size:
        return None
    first, second = lengths(head)
    facts, data = stream.read(first), stream.read(second)
    return None if len(facts) < first or len(data) < second else decoded(facts, data)

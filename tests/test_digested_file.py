"""A file written in the background."""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path

import pytest

from fusi_pipeline.tiles.digested_file import DigestedFile


def test_what_is_appended_is_written_in_order_and_hashed(tmp_path: Path) -> None:
    parts = [bytes([number % 251]) * (number * 977 % 200_000) for number in range(300)]
    with (tmp_path / "a").open("w+b", buffering=0) as file:
        file.write(b"head")
        with DigestedFile(file) as tiles:
            for part in parts:
                tiles.append(part)
            digest = tiles.finish()
        file.write(b"tail")
    assert (tmp_path / "a").read_bytes() == b"head" + b"".join(parts) + b"tail"
    assert digest == hashlib.sha256(b"".join(parts)).hexdigest()


def test_what_waits_to_be_written_is_there_too(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b", buffering=0) as file, DigestedFile(file) as tiles:
        tiles.append(b"one")
        tiles.append(b"two")
        assert tiles.holds(b"two", 3)
        assert not tiles.holds(b"tw0", 3)
        tiles.append(b"three")
        assert tiles.holds(b"one", 0)
        assert tiles.holds(b"three", 6)


class _Full(io.FileIO):
    """A file on a volume that is full after some bytes."""

    def write(self, data: object) -> int:  # type: ignore[override]
        if self.tell() > 1 << 20:
            raise OSError(errno.ENOSPC, "no space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_disk_is_said_while_appending(tmp_path: Path) -> None:
    def append_many(tiles: DigestedFile) -> None:
        for _ in range(10_000):
            tiles.append(bytes(100_000))

    with (
        _Full(tmp_path / "a", "w+b") as file,
        DigestedFile(file) as tiles,  # type: ignore[arg-type]
        pytest.raises(OSError, match="no space left"),
    ):
        append_many(tiles)


def test_a_full_disk_is_said_at_the_end(tmp_path: Path) -> None:
    with _Full(tmp_path / "a", "w+b") as file, DigestedFile(file) as tiles:  # type: ignore[arg-type]
        for _ in range(5):
            tiles.append(bytes(500_000))
        with pytest.raises(OSError, match="no space left"):
            tiles.finish()


def test_one_that_is_given_up_ends_its_threads(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b", buffering=0) as file, DigestedFile(file) as tiles:
        tiles.append(bytes(3_000_000))
    assert not tiles._thread.is_alive()
    assert not tiles._handing.is_alive()

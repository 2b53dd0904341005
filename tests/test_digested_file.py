"""A file written in the background."""

from __future__ import annotations

import errno
import hashlib
import os
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


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the volume be full after 3 MiB."""
    write = os.pwrite

    def limited(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= 3 << 20:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", limited)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_said_while_appending(tmp_path: Path) -> None:
    def append_many(tiles: DigestedFile) -> None:
        for _ in range(10_000):
            tiles.append(bytes(100_000))

    with (
        (tmp_path / "a").open("w+b", buffering=0) as file,
        DigestedFile(file) as tiles,
        pytest.raises(OSError, match="no space left"),
    ):
        append_many(tiles)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_said_at_the_end(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b", buffering=0) as file, DigestedFile(file) as tiles:
        for _ in range(7):
            tiles.append(bytes(500_000))
        with pytest.raises(OSError, match="no space left"):
            tiles.finish()


@pytest.mark.parametrize("refusing", [False, True], ids=["past the cache", "refused"])
def test_all_arrives_whether_or_not_the_file_system_writes_past_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, refusing: bool
) -> None:
    write, ordinary = os.pwrite, []

    def asked(descriptor: int, data: bytes, offset: int) -> int:
        if descriptor != file.fileno() and refusing:
            raise OSError(errno.EINVAL, "invalid argument")
        ordinary.append(descriptor == file.fileno())
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", asked)
    part = os.urandom(700_001)
    with (tmp_path / "a").open("w+b", buffering=0) as file:
        file.write(bytes(1 << 14))
        with DigestedFile(file) as tiles:
            for number in range(20):
                tiles.append(part)
                assert tiles.holds(part, (1 << 14) + (number // 2) * len(part))
            assert not tiles.holds(part, (1 << 14) + 20 * len(part) - 1)
            digest = tiles.finish()
        file.write(b"tail")
    assert (tmp_path / "a").read_bytes() == bytes(1 << 14) + 20 * part + b"tail"
    assert digest == hashlib.sha256(20 * part).hexdigest()
    assert all(ordinary) or not refusing


def test_one_that_is_given_up_ends_its_threads(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b", buffering=0) as file, DigestedFile(file) as tiles:
        tiles.append(bytes(3_000_000))
    assert not any(thread.is_alive() for thread in tiles._threads)

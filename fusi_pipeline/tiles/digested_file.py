"""A file that grows at its end: what is appended is hashed by one thread and written by another.

Hashing and waiting for a disk leave the interpreter to others, so that whoever
appends meanwhile reads on. Pieces go to the disk past the system's cache of
pages where it allows that (O_DIRECT): the processor copies them once less, no
gigabytes of unwritten pages pile up on a small machine, and at the end nothing
is left to wait for.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Queue
from typing import BinaryIO, Self

_PIECE_BYTES = 1 << 20
_PIECES = 8
"""Under way at most, the one that is being filled among them."""
_ALIGNED_BYTES = 1 << 14
"""A write past the cache begins and ends at multiples of it, as of the blocks of any disk."""
_STRIDE_BYTES = 1 << 26
"""Written between two waits for the disk where writes go through the cache."""

_REFUSED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""How a file system says that it does not write past its cache."""


@dataclass(slots=True, eq=False)
class _Piece:
    """A part of the file on its way there."""

    memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _PIECE_BYTES))
    """Begins at a page, as the disk wants it."""
    offset: int = 0
    """Where it belongs in the file."""
    length: int = 0


class DigestedFile:
    """Appends to a file in the background. Use it as a context manager.

    `file` is open for writing without a buffer, and reading, and nobody else's
    until the block ends, when it stands at its end. Errors of the disk come with a later
    append, or with `finish`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._filling = _Piece(offset=file.tell())
        self._written = self._filling.offset
        self._free: Queue[_Piece] = Queue()
        self._to_hash: Queue[_Piece | None] = Queue()
        self._to_write: Queue[_Piece | None] = Queue()
        self._failed: Exception | None = None
        self._direct = _direct(file)
        self._threads = [
            threading.Thread(target=work, name=f"archive {name}", daemon=True)
            for name, work in (("digest", self._hash_all), ("to disk", self._write_all))
        ]

    def __enter__(self) -> Self:
        for _ in range(_PIECES - 1):
            self._free.put(_Piece())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def append(self, data: bytes) -> None:
        """Append bytes. Raises OSError for what became of earlier ones."""
        start = 0
        while start < len(data):
            piece = self._filling
            count = min(_PIECE_BYTES - piece.length, len(data) - start)
            whole = count == len(data)
            piece.memory[piece.length : piece.length + count] = data if whole else data[start : start + count]
            piece.length += count
            start += count
            if piece.length == _PIECE_BYTES:
                self._hand_on()

    def holds(self, data: bytes, offset: int) -> bool:
        """Tell whether `data` was appended at an offset in the file. Raises OSError as `append` does."""
        piece = self._filling
        start, end = offset - piece.offset, offset - piece.offset + len(data)
        if end > piece.length:
            return False
        earlier, here = (data[:-start], data[-start:]) if start < 0 else (b"", data)
        if here and piece.memory[max(start, 0) : end] != here:
            return False
        if offset + len(earlier) > self._written:
            self._wait()
        return os.pread(self._file.fileno(), len(earlier), offset) == earlier

    def finish(self) -> str:
        """Wait until all is written, and return the SHA-256 of what was appended, in hexadecimal digits."""
        if self._filling.length:
            self._hand_on()
        self._end()
        self._raise()
        return self._digest.hexdigest()

    def _hand_on(self) -> None:
        """Give the piece that was filled to the threads, and begin another."""
        self._raise()
        end = self._filling.offset + self._filling.length
        self._to_hash.put(self._filling)
        self._filling = self._free.get()
        self._filling.offset, self._filling.length = end, 0

    def _wait(self) -> None:
        """Wait until all pieces but the one being filled are written."""
        for piece in [self._free.get() for _ in range(_PIECES - 1)]:
            self._free.put(piece)
        self._raise()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _end(self) -> None:
        if self._threads[0].is_alive():
            self._to_hash.put(None)
            for thread in self._threads:
                thread.join()
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
        self._file.seek(self._written)

    def _hash_all(self) -> None:
        """Hash pieces and hand them on. Runs in a thread of its own."""
        while (piece := self._to_hash.get()) is not None:
            with memoryview(piece.memory) as view:
                self._digest.update(view[: piece.length])
            self._to_write.put(piece)
        self._to_write.put(None)

    def _write_all(self) -> None:
        """Write pieces. Runs in a thread of its own; goes on taking them after a failure."""
        while (piece := self._to_write.get()) is not None:
            try:
                if self._failed is None:
                    self._write(piece)
            except Exception as error:  # noqa: BLE001 - raised again where somebody appends
                self._failed = error
            finally:
                self._free.put(piece)

    def _write(self, piece: _Piece) -> None:
        done = 0
        with memoryview(piece.memory) as whole, whole[: piece.length] as view:
            while done < len(view):
                with view[done:] as rest:
                    done += self._write_at(rest, piece.offset + done)
        before, self._written = self._written, piece.offset + piece.length
        if self._direct is None and before // _STRIDE_BYTES != self._written // _STRIDE_BYTES:
            with suppress(OSError):  # left to the last sync
                getattr(os, "fdatasync", os.fsync)(self._file.fileno())

    def _write_at(self, data: memoryview, offset: int) -> int:
        """Write some of `data`, past the cache if that can be; return how many bytes."""
        if self._direct is not None and not (offset % _ALIGNED_BYTES or len(data) % _ALIGNED_BYTES):
            try:
                return os.pwrite(self._direct, data, offset)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                os.close(self._direct)
                self._direct = None
        return os.pwrite(self._file.fileno(), data, offset)


def _direct(file: BinaryIO) -> int | None:
    """Open a file once more, to write past the system's cache; None where that cannot be."""
    try:
        return os.open(file.name, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except (AttributeError, OSError):
        return None

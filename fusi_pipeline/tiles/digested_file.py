"""A file that grows at its end: hashed and written by a thread, handed to the disk by another.

Hashing, writing and waiting for a disk leave the interpreter to others, so that
whoever appends meanwhile reads on. What is written is given to the disk as it
comes: at the end little is left to wait for, and the memory that holds what
is not there yet stays small.
"""

from __future__ import annotations

import hashlib
import os
import threading
from queue import Queue
from typing import BinaryIO, Self

_PIECE_BYTES = 1 << 19
"""What is gathered before it is handed on; so much stays in the cache of a processor."""
_PIECES_WAITING = 16
_STRIDE_BYTES = 1 << 26
"""Written between two requests that the disk take it."""


class DigestedFile:
    """Appends to a file in the background. Use it as a context manager.

    `file` is open for writing without a buffer, and reading, and nobody else's
    until the block ends. Errors of the disk come with a later append, or with `finish`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._start = self._length = file.tell()
        self._written = self._start
        self._piece: list[bytes] = []
        self._piece_bytes = 0
        self._pieces: Queue[list[bytes] | None] = Queue(_PIECES_WAITING)
        self._failed: Exception | None = None
        self._handing = _Handing(file.fileno())
        self._thread = threading.Thread(target=self._work, name="archive", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._handing.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def append(self, data: bytes) -> None:
        """Append bytes. Raises OSError for what became of earlier ones."""
        self._piece.append(data)
        self._piece_bytes += len(data)
        self._length += len(data)
        if self._piece_bytes >= _PIECE_BYTES:
            self._hand_on()

    def holds(self, data: bytes, offset: int) -> bool:
        """Tell whether `data` was appended at an offset in the file."""
        if offset + len(data) > self._written:
            self._hand_on()
            self._pieces.join()
            self._raise()
        return os.pread(self._file.fileno(), len(data), offset) == data

    def finish(self) -> str:
        """Wait until all is written, and return the SHA-256 of what was appended, in hexadecimal digits."""
        self._hand_on()
        self._end()
        self._raise()
        return self._digest.hexdigest()

    def _hand_on(self) -> None:
        self._raise()
        if self._piece:
            self._pieces.put(self._piece)
            self._piece, self._piece_bytes = [], 0

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _end(self) -> None:
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()
        self._handing.end()

    def _work(self) -> None:
        """Hash and write the pieces. Runs in a thread of its own; goes on taking them after a failure."""
        while (piece := self._pieces.get()) is not None:
            try:
                if self._failed is None:
                    self._write(b"".join(piece))
            except Exception as error:  # noqa: BLE001 - raised again where somebody appends
                self._failed = error
            finally:
                self._pieces.task_done()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        before, self._written = self._written, self._written + len(data)
        if before // _STRIDE_BYTES != self._written // _STRIDE_BYTES:
            self._handing.wanted.set()
        self._digest.update(data)


class _Handing(threading.Thread):
    """Asks the disk to take what was written, when that is wanted. A failure is left to the last sync."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(name="archive to disk", daemon=True)
        self.wanted = threading.Event()
        self._descriptor = descriptor
        self._ending = False

    def run(self) -> None:
        """Serve until the end."""
        while self.wanted.wait() and not self._ending:
            self.wanted.clear()
            try:
                getattr(os, "fdatasync", os.fsync)(self._descriptor)
            except OSError:
                return

    def end(self) -> None:
        """Do no more."""
        self._ending = True
        self.wanted.set()
        if self.is_alive():
            self.join()

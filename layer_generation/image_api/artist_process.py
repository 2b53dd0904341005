"""The process of a backend: draws what it is sent, one picture after another, until it is left alone.

    python -P -m layer_generation.image_api.artist_process PARENT MODULE:FUNCTION OPTIONS

It speaks over what were its standard input and output; whatever a backend
prints goes to standard error. It ends with its server, however that ends.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from layer_generation.image_api import wire
from layer_generation.image_api.backend import (
    Backend,
    BackendFailed,
    Cancelled,
    Picture,
    Pixels,
    Stage,
)
from layer_generation.image_api.reference import mask_of, picture_of
from layer_generation.image_api.wire import Frame

_PR_SET_PDEATHSIG = 1


class Desk:
    """The process's end of the pipe. Frames are written whole, whichever thread writes them."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._jobs: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._stopped: set[int] = set()

    def listen(self) -> None:
        """Take in frames for ever; end the process where there are no more."""
        while (frame := wire.read(self._incoming)) is not None:
            if frame.kind == "stop":
                self._stopped.add(int(frame.facts["job"]))
            else:
                self._jobs.put(frame)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def next_job(self) -> Frame:
        """Return the next picture that is asked for, once there is one."""
        return self._jobs.get()

    def is_stopped(self, job: int) -> bool:
        """Tell whether a picture is not wanted any more."""
        return job in self._stopped

    def send(self, kind: str, data: bytes = b"", **facts: Any) -> None:
        """Send a frame."""
        self._outgoing.write(Frame(kind, facts, data).encoded())
        self._outgoing.flush()


def main(parent: int, factory: str, options: str) -> None:
    """Open the backend, say what it has, and draw."""
    _end_with(parent)
    desk = Desk(*_own_streams())
    threading.Thread(target=desk.listen, daemon=True).start()
    try:
        module, _, function = factory.partition(":")
        backend: Backend = getattr(importlib.import_module(module), function)(json.loads(options))
    except BackendFailed as error:
        desk.send("failed", message=str(error), code=error.code)
        return
    desk.send("hello", name=backend.name, models=list(backend.models), samplers=list(backend.samplers))
    while True:
        _answer(desk, backend, desk.next_job())


def _answer(desk: Desk, backend: Backend, frame: Frame) -> None:
    job = int(frame.facts["job"])

    def report(stage: Stage, done: int, total: int) -> None:
        if desk.is_stopped(job):
            raise Cancelled
        desk.send("progress", job=job, stage=stage, done=int(done), total=int(total))

    try:
        pixels = drawn(backend, _picture(frame), report)
        if desk.is_stopped(job):
            raise Cancelled
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    except Cancelled:
        desk.send("cancelled", job=job)
    except BackendFailed as error:
        desk.send("failed", job=job, message=str(error), code=error.code)
    except MemoryError:
        desk.send("failed", job=job, message="the backend ran out of memory", code="OUT_OF_MEMORY")
    except Exception as error:  # noqa: BLE001 - whatever a backend does wrong fails one picture
        sys.excepthook(type(error), error, error.__traceback__)
        name = type(error).__name__
        desk.send("failed", job=job, message=f"the backend failed ({name})", code="BACKEND_ERROR")
    else:
        desk.send("drawn", job=job, data=buffer.getvalue())


def drawn(backend: Backend, picture: Picture, report: Any) -> Pixels:
    """Return what a backend draws, checked, and with the known pixels as they were. Raises BackendFailed."""
    report("loading", 0, 1)
    pixels = backend.draw(picture, report)
    shape = (picture.height, picture.width, 3)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != shape:
        raise BackendFailed(f"the backend drew something other than {picture.width} x {picture.height} px")
    if picture.image is not None and picture.mask is not None:
        return np.where(picture.mask[..., None], pixels, picture.image)
    return pixels


def _picture(frame: Frame) -> Picture:
    facts = dict(frame.facts)
    del facts["job"]
    cut, size = int(facts.pop("image_bytes")), (int(facts["width"]), int(facts["height"]))
    image, mask = frame.data[:cut], frame.data[cut:]
    return Picture(
        **facts,
        image=picture_of(image, "image", size) if image else None,
        mask=mask_of(mask, "mask", size) if mask else None,
    )


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to and from the server; what the backend reads is empty, what it prints is a log."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb")


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its server, where it can; elsewhere the closed pipe does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

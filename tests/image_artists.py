"""Backends for the tests of the image server; the first word of the prompt says how one behaves."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping

import numpy as np

from layer_generation.image_api.backend import BackendFailed, Cancelled, Picture, Pixels, Report


class Actor:
    """Draws one colour, which follows from the seed, and does on the way what the prompt says."""

    name = "actor"
    models = ("actor", "understudy")
    samplers = ("euler_a", "euler")

    def __init__(self, pace_s: float = 0.0) -> None:
        self._pace_s = pace_s

    def draw(self, picture: Picture, report: Report) -> Pixels:
        sys.stdout.write("printed by the backend\n")
        word = picture.prompt.split()[0]
        report("loading", 1, 1)
        if word == "odd" and picture.seed % 2:
            raise BackendFailed("an odd seed")
        if word == "stalls" and picture.seed % 2:
            self._hangs()
        getattr(self, f"_{word}", lambda: None)()
        if word == "boasts":
            for stage, done, total in (("diffusion", 99, 5), ("diffusion", -3, 5), ("decoding", 7, 0)):
                report(stage, done, total)  # type: ignore[arg-type]
        for step in range(picture.steps):
            self._step(word, step, picture.steps, report)
        report("decoding", 0, 1)
        size = (8, 8) if word == "small" else (picture.height, picture.width)
        drawn = np.empty((*size, 3), np.uint8)
        drawn[:] = [picture.seed % 256, picture.seed // 256 % 256, picture.steps]
        return drawn

    def _step(self, word: str, step: int, steps: int, report: Report) -> None:
        time.sleep(0.05 if word in ("slow", "deaf") else self._pace_s)
        try:
            report("diffusion", step + 1, steps)
        except Cancelled:
            if word != "deaf":
                raise

    def _hangs(self) -> None:
        time.sleep(3600)

    def _exits(self) -> None:
        os._exit(3)

    def _dies(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _fails(self) -> None:
        raise BackendFailed("no such colour")

    def _raises(self) -> None:
        raise RuntimeError("raises /home/somebody/model with a private prompt")

    def _starves(self) -> None:
        raise MemoryError

    def _babbles(self) -> None:
        os.write(sys.stdout.fileno(), b"\xff" * 64)


def opened(options: Mapping[str, object]) -> Actor:
    return Actor(float(str(options.get("pace_s", 0.0))))


def unopened(_options: Mapping[str, object]) -> Actor:
    raise BackendFailed("the model is not there")


def never(_options: Mapping[str, object]) -> Actor:
    time.sleep(3600)
    raise AssertionError


def once(options: Mapping[str, object]) -> Actor:
    """Open a backend the first time only."""
    flag = str(options["flag"])
    if os.path.exists(flag):  # noqa: PTH110
        raise BackendFailed(f"{flag} is there")
    open(flag, "w").close()  # noqa: PTH123
    return Actor()

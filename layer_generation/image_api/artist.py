"""A backend in a process of its own, seen from the server: it draws, is stopped, is ended, is begun anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layer_generation.image_api import wire
from layer_generation.image_api.backend import STAGES, BackendFailed, Cancelled, FailureCode, Stage
from layer_generation.image_api.journal import note
from layer_generation.image_api.wire import Frame

_PROCESS = "layer_generation.image_api.artist_process"
_CODES: tuple[FailureCode, ...] = ("BACKEND_ERROR", "OUT_OF_MEMORY", "TIMEOUT_ERROR")
_LAST_WORDS_S = 2.0

Heard = Callable[[Stage, int, int], None]
"""Takes the stage, its steps done and in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """Which backend, and how it is opened."""

    factory: str
    """`module:function`, which takes the options and returns the backend; called in its process."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What JSON has words for."""
    start_s: float = 120.0
    """How long it may take until it says what it has."""
    stop_s: float = 5.0
    """How long it may take to stop a picture; then its process is ended."""
    log: Path | None = None
    """Where what it prints goes: tracebacks, and perhaps prompts. Nowhere by default."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend says that it has."""

    name: str
    models: tuple[str, ...]
    samplers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A picture as the process is told of it: facts, and PNGs."""

    facts: Mapping[str, Any]
    """The fields of `Picture` but image and mask."""
    image: bytes = b""
    mask: bytes = b""


class _Lost(BackendFailed):
    """The process ended by itself."""


class _NeverBegun(BackendFailed):
    """It did so before anything was heard of the picture that it was sent."""


class Artist:
    """A backend's process. For one event loop, and one picture at a time."""

    def __init__(self, config: BackendConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._jobs = 0

    @property
    def pid(self) -> int | None:
        """The number of its process, where there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> Abilities:
        """Begin the process; return what the backend has. Raises BackendFailed."""
        await self._end()
        log = None if self._config.log is None else os.open(self._config.log, _APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", _PROCESS, str(os.getpid()), self._config.factory,
                json.dumps(dict(self._config.options)),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL if log is None else log,
                start_new_session=True,
            )  # fmt: skip
        finally:
            if log is not None:
                os.close(log)
        try:
            async with asyncio.timeout(self._config.start_s):
                has = _abilities(await self._heard())
        except TimeoutError:
            await self._end()
            raise BackendFailed(f"the backend did not start within {self._config.start_s:g} s") from None
        except BaseException:
            await self._end()
            raise
        note("backend-started", pid=self._process.pid)
        return has

    async def ready(self) -> None:
        """Begin the process anew where it has ended.

        Raises BackendFailed, which says nothing that a client need not know.
        """
        if self._process is not None and self._process.returncode is None:
            return
        try:
            await self.start()
        except BackendFailed as error:
            note("backend-failed", logging.ERROR, reason=str(error))
            raise BackendFailed("the backend could not be started again", error.code) from error

    async def draw(self, job: Job, heard: Heard, stop: asyncio.Event) -> bytes:
        """Return a picture as PNG, drawn by a process that is there (see `ready`).

        Raises Cancelled once `stop` is set and the process has stopped or was
        ended, BackendFailed where it says so or ended by itself. One that had
        ended before it began with the picture is begun anew, once. A task that is
        cancelled meanwhile leaves no process behind that still draws.
        """
        try:
            return await self._ordered(job, heard, stop)
        except _NeverBegun:
            if stop.is_set():
                raise Cancelled from None
            return await self._ordered(job, heard, stop)

    async def _ordered(self, job: Job, heard: Heard, stop: asyncio.Event) -> bytes:
        await self.ready()
        self._jobs += 1
        number = self._jobs
        facts = {**job.facts, "job": number, "image_bytes": len(job.image)}
        try:
            return await self._drawn(number, Frame("draw", facts, job.image + job.mask), heard, stop)
        except (BackendFailed, Cancelled):
            raise
        except BaseException:
            await self._end()
            raise

    async def _drawn(self, number: int, order: Frame, heard: Heard, stop: asyncio.Event) -> bytes:
        answers = asyncio.ensure_future(self._answer(number, order, heard))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({answers, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                with contextlib.suppress(ConnectionError):
                    await self._send(Frame("stop", {"job": number}))
                await asyncio.wait({answers}, timeout=self._config.stop_s)
            if not answers.done():
                note("backend-ended", reason="did not stop", pid=self.pid)
                await self._end()
                raise Cancelled
            png = await answers
            if stop.is_set():
                raise Cancelled
            return png
        finally:
            for task in (answers, stopping):
                task.cancel()
            await asyncio.gather(answers, stopping, return_exceptions=True)

    async def _answer(self, number: int, order: Frame, heard: Heard) -> bytes:
        """Send a job; pass on how far it is until it ends."""
        frame = await self._first(number, order)
        while True:
            if frame.kind == "progress":
                _pass_on(frame.facts, heard)
            elif frame.kind == "drawn":
                return frame.data
            elif frame.kind == "cancelled":
                raise Cancelled
            elif frame.kind == "failed":
                raise _failure(frame)
            frame = await self._next(number)

    async def _first(self, number: int, order: Frame) -> Frame:
        """Send a job and return the first frame of it."""
        try:
            try:
                await self._send(order)
            except ConnectionError:
                raise await self._lost() from None
            return await self._next(number)
        except _Lost as error:
            raise _NeverBegun(str(error)) from error

    async def _next(self, number: int) -> Frame:
        while (frame := await self._heard()).facts.get("job") != number:
            pass
        return frame

    async def _send(self, frame: Frame) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(frame.encoded())
        await self._process.stdin.drain()

    async def _heard(self) -> Frame:
        """Return the next frame. Raises BackendFailed where the process has ended or sends none."""
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout
        try:
            facts, data = wire.lengths(await stream.readexactly(wire.LENGTHS.size))
            return wire.decoded(await stream.readexactly(facts), await stream.readexactly(data))
        except asyncio.IncompleteReadError:
            raise await self._lost() from None
        except wire.FrameInvalid as error:
            await self._end()
            raise BackendFailed(f"the backend's process sends what is no answer ({error})") from error

    async def _lost(self) -> _Lost:
        """Return what to say of a process that ended by itself."""
        process = self._process
        if process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await process.wait()
        await self._end()
        code = None if process is None else process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        note("backend-ended", reason="by itself", how=how)
        return _Lost(f"the backend's process ended ({how}); the next picture begins it anew")

    async def close(self) -> None:
        """End the process."""
        await self._end()

    async def _end(self) -> None:
        """End the process and those that it began, and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        kill(process.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await process.wait()
        if process.stdin is not None:
            process.stdin.close()


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def kill(pid: int) -> None:
    """End a backend's process and all of its session that are still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _pass_on(facts: Mapping[str, Any], heard: Heard) -> None:
    stage, done, total = (facts.get(name) for name in ("stage", "done", "total"))
    if stage in STAGES and type(done) is int and type(total) is int:
        heard(stage, done, total)


def _failure(frame: Frame) -> BackendFailed:
    code = frame.facts.get("code")
    known: FailureCode = code if code in _CODES else "BACKEND_ERROR"
    return BackendFailed(str(frame.facts.get("message")), known)


def _abilities(frame: Frame) -> Abilities:
    if frame.kind == "failed":
        raise _failure(frame)
    name, models, samplers = (frame.facts.get(key) for key in ("name", "models", "samplers"))
    if frame.kind != "hello" or not models or not samplers:
        raise BackendFailed("the backend's process does not say what it has")
    return Abilities(str(name), tuple(models), tuple(samplers))

"""The drawing process as its owner holds it: started, asked with a deadline, ended with all it started."""

from __future__ import annotations

import collections
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from layer_generation.renderer.scratch import end_all, new_scratch

_LINES_KEPT = 40
_LONGEST_LINE = 1 << 16
_log = logging.getLogger(__name__)


class ProcessBroken(Exception):
    """The drawing process died, hung or lost its browser; it has to be started again."""


class DrawingProcess:
    """A running process, for one thread; `kill` is for any."""

    def __init__(self, browser: Path, environment: Mapping[str, str]) -> None:
        """Start the process; `wait` for it. Raises ProcessBroken where the system refuses."""
        self.version = ""
        self.scratch = new_scratch()
        self._buffer = b""
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "layer_generation.renderer.child", str(browser), str(self.scratch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment, "TMPDIR": str(self.scratch)},
                start_new_session=True,  # Ctrl-C is the owner's
            )
        except OSError as error:
            end_all(self.scratch)
            raise ProcessBroken(f"it does not start ({error})") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        threading.Thread(target=self._drain, args=(self._process.stderr,), daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Wait until its page is ready. Raises ProcessBroken."""
        self.version = str(self._answer(time.monotonic() + timeout_s)[0]["ready"])

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Return what is answered, and the bytes behind it. Raises ProcessBroken."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except (OSError, ValueError) as error:
            raise ProcessBroken(self._why("died")) from error
        return self._answer(time.monotonic() + timeout_s)

    def kill(self) -> None:
        """Kill the process, which wakes the thread that waits for its answer."""
        self._process.kill()

    def end(self) -> None:
        """End the process, its browser and all that they started; return when they are gone."""
        self._process.kill()
        end_all(self.scratch)
        self._process.wait()
        for pipe in (self._requests, self._answers):
            try:
                pipe.close()
            except OSError:
                _log.debug("a pipe of the renderer was broken")

    def _answer(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        while b"\n" not in self._buffer:
            self._read(deadline)
        line, self._buffer = self._buffer.split(b"\n", 1)
        facts: dict[str, Any] = json.loads(line)
        if "broken" in facts:
            raise ProcessBroken(f"its browser failed ({facts['broken']})")
        parts, size = [self._buffer], int(facts.pop("bytes"))
        there = len(self._buffer)
        while there < size:
            self._buffer = b""
            self._read(deadline)
            parts.append(self._buffer)
            there += len(self._buffer)
        data = b"".join(parts)
        self._buffer = data[size:]
        return facts, data[:size]

    def _read(self, deadline: float) -> None:
        """Add what there is to the buffer. Raises ProcessBroken at the deadline and at the process's end."""
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN | select.POLLHUP)
        if not waiting.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise ProcessBroken("it did not answer in time")
        data = os.read(self._answers.fileno(), 1 << 20)
        if not data:
            raise ProcessBroken(self._why("died"))
        self._buffer += data

    def _why(self, what: str) -> str:
        last = next((line for line in reversed(self._lines) if line.strip()), "")
        return f"it {what} ({last.strip()[:300]})" if last else f"it {what}"

    def _drain(self, log: IO[bytes]) -> None:
        """Read all that the process says, so that it never waits to say it."""
        with log:
            while line := log.readline(_LONGEST_LINE):
                text = line.decode(errors="replace").rstrip()
                self._lines.append(text)
                _log.info("renderer: %s", text)

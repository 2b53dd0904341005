"""What happens in the server, as lines of JSON: one event to a line, without prompts, pictures and keys."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import IO

_LOG = logging.getLogger("layer_generation.image_api")
_OTHERS = ("uvicorn.error", "asyncio")
"""Loggers of what the server stands on; their warnings are lines of the same kind."""
_MOST_LINES = 2000
_LAST_LINES_S = 1.0


def note(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Log an event with its facts; those that are None are left out."""
    _LOG.log(level, event, extra={"facts": {name: fact for name, fact in facts.items() if fact is not None}})


class Lines(logging.Formatter):
    """Writes a record as one line of JSON. Of an exception it names the kind and the place, no more."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage() if record.name == _LOG.name else record.name,
        }
        if record.name != _LOG.name:
            line["said"] = str(record.msg)[:200]
        line.update(getattr(record, "facts", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line.update(where(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=True, default=str)


def where(error: BaseException) -> dict[str, str]:
    """Return the kind of an error and the place that raised it; its text may hold what a person wrote."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = (
        "" if frame is None else f"{frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}"
    )
    return {"error": type(error).__name__, "place": place}


class _Writer(logging.Handler):
    """Hands lines to a thread that writes them: a reader that stands still holds up no request.

    Lines that it does not take are dropped, and counted when it reads on.
    """

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self.setFormatter(Lines())
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, as far as somebody reads it."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(_LAST_LINES_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._dropped:
                line, self._dropped = f'{{"event": "dropped", "lines": {self._dropped}}}\n{line}', 0
            if not self._written(line + "\n"):
                return

    def _written(self, text: str) -> bool:
        """Write past the stream's buffer, whose lock a thread that never returns would keep; tell whether."""
        try:
            if (number := _number_of(self._stream)) is None:
                self._stream.write(text)
                return True
            left = text.encode()
            while left:
                left = left[os.write(number, left) :]
        except (OSError, ValueError):
            return False
        return True


def _number_of(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError):
        return None


@contextmanager
def written_to(stream: IO[str]) -> Iterator[None]:
    """Write the lines to a stream meanwhile."""
    handler = _Writer(stream)
    before = _LOG.level, _LOG.propagate
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    loggers = [_LOG, *map(logging.getLogger, _OTHERS)]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        _LOG.level, _LOG.propagate = before[0], before[1]
        handler.close()


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000

"""What happens in the server, as lines of JSON: one event to a line, without prompts, pictures and keys."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

_LOG = logging.getLogger("layer_generation.image_api")
_OTHERS = ("uvicorn.error", "asyncio")
"""Loggers of what the server stands on; their warnings are lines of the same kind."""


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


@contextmanager
def written_to(stream: IO[str]) -> Iterator[None]:
    """Write the lines to a stream meanwhile."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines())
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


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000

"""Work inside a run: its progress as lines of the run's log, its errors as failures of the asset."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import dagster as dg

from fusi_pipeline.console import progress_line
from fusi_pipeline.errors import FusiError, UsageError
from fusi_pipeline.forecast import Forecast
from fusi_pipeline.progress import Progress

Result = TypeVar("Result")

_LEAST_INTERVAL_S = 5.0
"""A line costs the instance some 25 ms, so that more would be felt."""
_LONGEST_DESCRIPTION = 400
_AS_CONFIGURED = (
    ("--skip-broken", "skip_broken in the configuration of a run of source_index"),
    ("--mode feather needs the width of the band: --feather-m METRES",
     "mode 'feather' needs the width of the band: feather_m in the configuration of the run"),
    ("--feather-m goes with --mode feather, not with --mode",
     "feather_m goes with mode feather, not with mode"),
    ("--feather-m", "feather_m"),
    ("merge without --lineage", "merge with lineage 'none' in the configuration of the run"),
    ("choose another name or give --overwrite", "move it away, or remove it"),
    ("--memory-mb", "FUSI_MEMORY_MB"),
    ("--on-disk-full wait", "FUSI_ON_DISK_FULL=wait"),
    ("give another --output-dir", "set another FUSI_OUTPUT_DIR"),
    ("higher --watchdog limits", "higher limits of workers"),
    ("--workers", "FUSI_WORKERS"),
)  # fmt: skip
"""Options of the command line, and how the same is asked for here."""


def followed(
    work: Generator[Progress, None, Result], log: Callable[[str], object], interval_s: float
) -> Result:
    """Drive a piece of work to its end and return its result; log its first, its last and some lines between.

    Ended from outside, the work is closed: workers end, what is committed stays.
    """
    lines = _Lines(log, max(interval_s, _LEAST_INTERVAL_S))
    try:
        while True:
            lines.take(next(work))
    except StopIteration as end:
        lines.last()
        result: Result = end.value
        return result
    finally:
        work.close()


@contextmanager
def failures() -> Iterator[None]:
    """Turn the errors that fusi states in a line into failures that show that line and no traceback."""
    try:
        yield
    except FusiError as error:
        message = str(error)
        for option, here in _AS_CONFIGURED:
            message = message.replace(option, here)
        lines = [line.strip() for line in message.splitlines()]
        description = "; ".join(lines)
        if len(description) > _LONGEST_DESCRIPTION:
            description = f"{description[:_LONGEST_DESCRIPTION]} ..."
        raise dg.Failure(
            description,
            metadata={"message": dg.MetadataValue.text(message)} if len(lines) > 1 else None,
            allow_retries=not isinstance(error, UsageError),
        ) from None


class _Lines:
    """Lines of a log: the first moment of each stage, one per interval, and the last moment of it."""

    def __init__(self, log: Callable[[str], object], interval_s: float) -> None:
        self._log = log
        self._interval_s = interval_s
        self._at = 0.0
        self._latest: Progress | None = None
        self._said: Progress | None = None
        self._forecast = Forecast()
        self._left_s: float | None = None

    def take(self, progress: Progress) -> None:
        """Note a moment, and log it if it is time to; log what it says beyond figures at once."""
        left_s = self._forecast.take(progress, time.monotonic())
        if progress.note:
            self._log(progress.note)
            return
        if self._latest is not None and self._latest.stage != progress.stage:
            self.last()
        new = self._said is None or self._said.stage != progress.stage
        self._latest, self._left_s = progress, left_s
        if new or time.monotonic() - self._at >= self._interval_s:
            self._say(progress)

    def last(self) -> None:
        """Log the latest moment unless that was done."""
        if self._latest is not None and self._latest != self._said:
            self._say(self._latest)

    def _say(self, progress: Progress) -> None:
        self._log(progress_line(progress, self._left_s))
        self._at, self._said = time.monotonic(), progress

"""How a run looks to a person: a bar on a terminal, a line per interval elsewhere; facts, tables, JSON.

Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from fusi_pipeline.errors import Interrupted
from layer_generation.advance import Advance

Result = TypeVar("Result")


def run(work: Generator[Advance, None, Result], interval_s: float) -> Result:
    """Drive a piece of work to its end, showing how far it is; return its result.

    Ctrl-C and SIGTERM close the work and become Interrupted.
    """
    with _stoppable(), _display(interval_s) as show:
        while True:
            try:
                show(next(work))
            except StopIteration as end:
                result: Result = end.value
                return result
            except BaseException as error:
                work.close()
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted from None
                raise


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM into Interrupted meanwhile, as Ctrl-C is KeyboardInterrupt."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _display(interval_s: float) -> Iterator[Callable[[Advance], None]]:
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _Lines(interval_s).show


class _Lines:
    """One plain line at the start of each stage, at each interval and at its end."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._stage = ""
        self._shown = -math.inf

    def show(self, now: Advance) -> None:
        moment = time.monotonic()
        finished = 0 < now.total == now.done
        if now.stage == self._stage and not finished and moment - self._shown < self._interval_s:
            return
        self._stage, self._shown = now.stage, moment
        count = f"{now.done}/{now.total}" if now.total else str(now.done)
        note = f", {now.note}" if now.note else ""
        click.echo(f"{now.stage} {count} {now.unit}{note}", err=True)


@contextmanager
def _bars() -> Iterator[Callable[[Advance], None]]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[unit]} {task.fields[note]}", markup=False),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    tasks: dict[str, bars.TaskID] = {}
    with bars.Progress(*columns, console=Console(stderr=True)) as drawn:

        def show(now: Advance) -> None:
            if now.stage not in tasks:
                tasks[now.stage] = drawn.add_task(now.stage, total=None, unit="", note="")
            drawn.update(
                tasks[now.stage], completed=now.done, total=now.total or None, unit=now.unit, note=now.note
            )

        yield show


def print_json(value: object) -> None:
    """Print a report as JSON."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: object) -> object:
    """Return a value as what JSON has words for."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_facts(rows: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair to a line, the values below each other."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(header, *cells, strict=True)]
    right = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(header))]
    for line in (list(header), *cells):
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())

"""How a run looks to a person: bars on a terminal, a line per interval elsewhere, tables, JSON.

Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import click

from fusi_pipeline import log_lines
from fusi_pipeline.errors import FusiError, Interrupted
from fusi_pipeline.forecast import Forecast
from fusi_pipeline.monitor import Watch, observed
from fusi_pipeline.progress import Progress

Result = TypeVar("Result")
Show = Callable[[Progress, float | None], None]
"""Shows a moment of a run, and how many seconds are left where that is known."""
EXIT_INTERRUPTED = 130


def main(command: click.Command, *interruptions: type[BaseException]) -> NoReturn:
    """Run a command line; end with 0, 1 for a failure, 2 for a wrong command, 130 when interrupted."""
    stops: tuple[type[BaseException], ...] = (Interrupted, KeyboardInterrupt, click.Abort, *interruptions)
    try:
        command.main(standalone_mode=False)
        sys.exit(0)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FusiError as error:
        log_lines.say(f"fusi: {error}")
        sys.exit(error.exit_code)
    except stops as stop:
        left = str(stop) if isinstance(stop, Interrupted) else ""
        log_lines.say(f"fusi: interrupted; {left or 'the same command goes on where this stopped'}")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        log_lines.say(f"fusi: {error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)


def run(work: Generator[Progress, None, Result], interval_s: float, watch: Watch | None = None) -> Result:
    """Drive a piece of work to its end, showing how far it is; return its result.

    What others are told of it meanwhile is what `watch` says.
    """
    forecast = Forecast()
    with stoppable(), observed(watch) as tell, _display(interval_s) as show:
        while True:
            try:
                moment = next(work)
                left_s = forecast.take(moment, time.monotonic())
                tell(moment, left_s)
                show(moment, left_s)
            except StopIteration as end:
                result: Result = end.value
                return result
            except BaseException as error:
                work.close()
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted from None  # click would print an empty line for it
                raise


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into Interrupted meanwhile, as Ctrl-C is KeyboardInterrupt."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _display(interval_s: float) -> Iterator[Show]:
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        log_lines.begin()
        started = time.monotonic()
        yield _Lines(interval_s).show
        if log_lines.is_file():
            log_lines.say(f"finished after {duration(time.monotonic() - started)}")


class _Lines:
    """One plain line at the start of each stage, at each interval and at its end."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._title = ""
        self._shown = 0.0

    def show(self, progress: Progress, left_s: float | None) -> None:
        """Write a line if it is time to."""
        if progress.note:
            log_lines.say(progress.note)
            return
        now = time.monotonic()
        if progress.title != self._title:
            self._title = progress.title
        elif now - self._shown < self._interval_s and progress.done != progress.total:
            return
        self._shown = now
        log_lines.say(progress_line(progress, left_s))


def progress_line(progress: Progress, left_s: float | None) -> str:
    """Return a moment of a run, and how long it will still take, as a line of a log."""
    line = f"{progress.title} {progress.done}/{progress.total} {progress.unit}"
    if progress.bytes_written:
        line += f", {size(progress.bytes_written)}"
    if left_s is not None and (progress.done < progress.total or progress.ahead):
        line += f", {duration(left_s)} left"
    return line


@contextmanager
def _bars() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    tasks: dict[str, object] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[size]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def show(progress: Progress, left_s: float | None) -> None:
            if progress.note:
                bars.console.print(progress.note, markup=False, highlight=False)
                return
            if progress.title not in tasks:
                total = progress.total or None
                tasks[progress.title] = bars.add_task(progress.title, total=total, unit="", size="", left="")
                for title, task in tasks.items():
                    if title != progress.title:
                        bars.update(task, left="")  # type: ignore[arg-type]
            bars.update(
                tasks[progress.title],  # type: ignore[arg-type]
                completed=progress.done,
                total=progress.total or None,
                unit=progress.unit,
                size=size(progress.bytes_written) if progress.bytes_written else "",
                left="" if left_s is None else f"{duration(left_s)} left",
            )

        yield show


def print_json(value: object) -> None:
    """Print a report as JSON."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: object) -> object:
    """Return a value as what JSON has words for."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain({**asdict(value), **_derived(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def _derived(value: object) -> dict[str, object]:
    """Return the properties of a report that belong to it as much as its fields."""
    names = [name for name in ("sound", "center") if isinstance(getattr(type(value), name, None), property)]
    return {name: getattr(value, name) for name in names}


def print_facts(rows: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair to a line, the values below each other."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
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


def size(count: float) -> str:
    """Return a number of bytes as a person says it."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Return a time span as a person says it."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"

"""What a run of an asset says: lines of its log, failures, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import dagster as dg

from fusi_pipeline.errors import FusiError, UsageError
from layer_generation.advance import Advance
from layer_generation.defs.stopping import NEVER, Stop

Result = TypeVar("Result")
Metadata: TypeAlias = dict[str, Any]
"""What dagster takes as metadata: plain values and its own `MetadataValue`s."""
LINE_INTERVAL_S = 10.0
"""A line costs the instance some 25 ms."""
_AS_ASSETS = (
    ("; fill it in and use --retry-errors", "; fill it in"),
    ("; run the command again to have it remade", ""),
    (
        "; make a layer with `fusi layer init`",
        "; make a layer with `fusi layer init` and reload the location",
    ),
)
"""Advice of the command line, and how it reads where a partition is materialized."""
_MOST_ROWS = 100
_MOST_CHARS = 400
_MOST_CELL_CHARS = 200


@contextmanager
def failures() -> Iterator[None]:
    """Turn the errors that fusi states in a line into failures without a traceback.

    Those of a wrong configuration are not worth another try.
    """
    try:
        yield
    except FusiError as error:
        raise failure(str(error), allow_retries=not isinstance(error, UsageError)) from None


def failure(text: str, metadata: Metadata | None = None, *, allow_retries: bool) -> dg.Failure:
    """Return a failure that says a text in one line."""
    words = " ".join(text.split())
    for told, here in _AS_ASSETS:
        words = words.replace(told, here)
    shown = words if len(words) <= _MOST_CHARS else f"{words[:_MOST_CHARS]} ..."
    return dg.Failure(shown, metadata=metadata or {}, allow_retries=allow_retries)


def followed(
    work: Generator[Advance, None, Result], log: Callable[[str], object], stop: Stop = NEVER
) -> Result:
    """Drive a piece of work to its end and return its result; log where each stage of it is, now and then.

    Raises Failure where it was asked to stop before.
    """
    said, stage = 0.0, ""
    try:
        while True:
            now = next(work)
            check_asked(stop)
            if now.stage != stage or time.monotonic() - said >= LINE_INTERVAL_S:
                log(f"{now.stage} {now.done}/{now.total} {now.unit}{f', {now.note}' if now.note else ''}")
                said, stage = time.monotonic(), now.stage
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        work.close()


def check_asked(stop: Stop) -> None:
    """Raise Failure where a person asked to stop."""
    if stop.asked:
        raise failure(
            "interrupted; what is finished is kept, materialize it again to go on", allow_retries=False
        )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """Return a table of at most a hundred rows; a column whose name ends in a blank is set to the right."""
    lines = [[_cell(one) for one in row] for row in rows]
    more = len(lines) - _MOST_ROWS
    text = [
        _row([name.strip() for name in header]),
        _row(["--:" if name.endswith(" ") else "---" for name in header]),
        *(_row(line) for line in lines[:_MOST_ROWS]),
    ]
    return dg.MetadataValue.md("\n".join([*text, *([f"\nand {more} more"] if more > 0 else [])]))


def _cell(value: object) -> str:
    words = " ".join(str(value).split()).replace("|", "\\|")
    return words if len(words) <= _MOST_CELL_CHARS else f"{words[:_MOST_CELL_CHARS]} ..."


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

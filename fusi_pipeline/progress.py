"""How far a long piece of work has come, as a value.

Builders yield these; the command line draws a bar of them, Dagster logs a
line, a test counts. What is left of the time is for `forecast` to say.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TypeVar

Result = TypeVar("Result")
Ahead = tuple[tuple[str, float], ...]
"""(stage, predicted seconds) of what comes later."""


TILES = 1
"""Which kind of work, where there are several, is that of tiles that are made."""


@dataclass(frozen=True, slots=True)
class Work:
    """Work as the plan predicts it, by kinds, each of which may turn out dearer or cheaper than predicted."""

    done: tuple[float, ...]
    """Predicted seconds of what is done of each kind."""
    total: tuple[float, ...]
    """Predicted seconds of all of each kind."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a long run."""

    stage: str
    """What is being done, as a verb: `scan`, `build`, `merge`, `pack`."""
    done: int
    """Units finished so far."""
    total: int
    """Units there are; 0 where nobody knows yet."""
    unit: str
    """What is counted, in the plural: `tiles`, `blocks`, `files`."""
    bytes_written: int = 0
    """Bytes of output written so far."""
    subject: str = ""
    """What it is done to, where there are several: the name of a source."""

    note: str = ""
    """A line for a person, of something that happened or that the run waits for; no new figures then."""
    tiles: int = 0
    """Tiles finished so far, where `unit` counts something else."""
    work: Work | None = field(default=None, compare=False)
    """Where units differ in what they take: how much of it is done."""
    ahead: Ahead = field(default=(), compare=False)
    """What comes after this stage, as far as that is known."""

    @property
    def title(self) -> str:
        """Stage and subject, as a person reads them."""
        return f"{self.stage} {self.subject}".rstrip()

    @property
    def tiles_done(self) -> int:
        """Tiles finished so far in this stage."""
        return self.done if self.unit == "tiles" else self.tiles


def followed_by(work: Generator[Progress, None, Result], ahead: Ahead) -> Generator[Progress, None, Result]:
    """Return what `work` returns, and yield its moments with what comes after it."""
    try:
        while True:
            moment = next(work)
            yield replace(moment, ahead=moment.ahead + ahead) if ahead else moment
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        work.close()

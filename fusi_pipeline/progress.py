"""How far a long piece of work has come, as a value.

Builders yield these; the command line draws a bar of them, Dagster logs a
line, a test counts.
"""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def title(self) -> str:
        """Stage and subject, as a person reads them."""
        return f"{self.stage} {self.subject}".rstrip()

"""How far a long piece of work on maps and layers has come, as a value that generators yield."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advance:
    """A moment of a long run."""

    stage: str
    """What is being done, as a verb: `render`, `import`, `export`."""
    done: int
    """Units finished so far."""
    total: int
    """Units there are; 0 where nobody knows yet."""
    unit: str
    """What is counted, in the plural: `quadrants`, `tiles`, `blocks`."""
    note: str = ""
    """What else a person wants to know meanwhile, in a few words."""

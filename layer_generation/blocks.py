"""The blocks of a layer as values: planned ones, and those that `progress.db` holds."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("pending", "in_progress", "complete", "error")


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One block of a layer."""

    id: int
    step: int
    wave: int
    x: int
    y: int
    width: int
    height: int
    status: str
    attempts: int
    """How often it was tried."""
    model_name: str | None
    error_message: str | None
    extension: int
    """0 for what was planned first, then 1, 2, ... for what came into the map later."""
    reason: str | None
    """Why the map, as it was when planned, allowed less context here than a block should have; None where
    it has all."""

    @property
    def quadrants(self) -> tuple[tuple[int, int], ...]:
        """The (x, y) of its quadrants, row by row."""
        return tuple(
            (x, y) for y in range(self.y, self.y + self.height) for x in range(self.x, self.x + self.width)
        )

    def __str__(self) -> str:
        return f"block {self.id} ({self.width}x{self.height} at {self.x},{self.y})"


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A block to be added to a plan."""

    step: int
    wave: int
    x: int
    y: int
    width: int
    height: int
    extension: int = 0
    """0 for what was planned first, then 1, 2, ... for what came into the map later."""
    reason: str | None = None

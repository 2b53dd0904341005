"""What a merge did: counted while it runs, and told at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.merge_ledger import TileRecord
from fusi_pipeline.tasks import ABSENT
from fusi_pipeline.tiles.archive import ArchiveMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    path: Path
    lineage: Path | None
    metadata: ArchiveMetadata
    changed: bool
    """Whether anything was written; False where the archive already was what was asked for."""
    tiles: int
    merged: int
    """Tiles encoded anew, because more than one archive or a missing pixel was involved."""
    copied: int
    """Tiles taken over from an input byte for byte."""
    reused: int
    """Tiles whose contributors are those of the merge before, or that an interrupted run had made."""
    removed: int
    """Tiles of the merge before that are no more."""
    bytes: int
    """Size of the archive."""
    bytes_merged: int
    """Size of the tiles encoded anew."""
    bytes_copied: int
    """Size of the tiles taken over from an input."""
    bytes_reused: int
    """Size of the tiles that were reused."""
    warnings: tuple[str, ...]
    seconds: float


class MergeTally:
    """The figures of a merge under way; named as in its report."""

    def __init__(self, inputs: int) -> None:
        self.merged = self.copied = self.reused = self.removed = 0
        self.bytes_merged = self.bytes_copied = self.bytes_reused = 0
        self.pixels = [0] * inputs
        """How many pixels are from each input."""
        self.tiles: dict[int, int] = {}
        """How many tiles there are at each zoom that has some."""
        self.kept = 0
        """Tiles of the merge before that are still there."""

    def count(self, record: TileRecord) -> None:
        """Take in what became of a tile."""
        if record.choice == ABSENT:
            return
        self.tiles[record.tile.z] = self.tiles.get(record.tile.z, 0) + 1
        for number, count in zip(record.inputs, record.counts, strict=True):
            self.pixels[number] += count

    @property
    def total(self) -> int:
        """How many tiles there are."""
        return sum(self.tiles.values())

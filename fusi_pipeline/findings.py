"""What a deep check of an archive passes between the command and its workers: tasks, findings, figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fusi_pipeline.tiles.grid import Tile


@dataclass(frozen=True, slots=True)
class DeepContext:
    """The archive that is checked, and the lineage archive that belongs to it."""

    archive: Path
    lineage: Path | None = None


@dataclass(frozen=True, slots=True)
class DeepBlock:
    """All tiles of a square from `low` to `high` zoom, to be checked with their parents and neighbours."""

    square: Tile
    """The tile, at `low` or above, that holds them all."""
    low: int
    """Lowest zoom whose tiles are checked."""
    high: int
    """Highest zoom whose tiles are checked."""


@dataclass(frozen=True, slots=True)
class DeepPlaces:
    """Single tiles, which are checked with their parents, children and neighbours."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a tile, or looks so."""

    kind: str
    """A key of `ADVICE`."""
    tile: Tile
    text: str
    """A sentence that begins with the place."""
    weight: float = 0.0
    """How bad it is among others of its kind."""
    suspect: bool = False
    """Whether it may be right all the same."""


@dataclass(slots=True)
class ZoomTally:
    """Figures of one zoom, summed up over tiles; those of parents stand at the parent's zoom."""

    tiles: int = 0
    compared: int = 0
    """Pixels of parents that were compared with the mean of their children."""
    within: int = 0
    """Those that agree within the bound."""
    judged: int = 0
    """Pixels of parents that only all together were held against their children."""
    not_compared: int = 0
    """Pixels of parents, over children with heights, that were held against nothing."""
    largest_m: float = 0.0
    total_m: float = 0.0
    """Sum of parent less children where the children differ among each other."""
    uneven: int = 0
    """Number of these pixels."""
    across_m: float = 0.0
    """Sum of the steps across tile borders."""
    inside_m: float = 0.0
    """Sum of the steps beside them, one pixel inside."""
    border_px: int = 0

    def add(self, other: ZoomTally) -> None:
        """Take in the figures of other tiles of the zoom."""
        self.tiles += other.tiles
        self.compared += other.compared
        self.within += other.within
        self.judged += other.judged
        self.not_compared += other.not_compared
        self.largest_m = max(self.largest_m, other.largest_m)
        self.total_m += other.total_m
        self.uneven += other.uneven
        self.across_m += other.across_m
        self.inside_m += other.inside_m
        self.border_px += other.border_px


@dataclass(slots=True)
class DeepAnswer:
    """What a worker found."""

    tiles: int = 0
    """Tiles of the task that are in the archive."""
    minimum_m: float = float("inf")
    maximum_m: float = float("-inf")
    findings: list[Finding] = field(default_factory=list)
    tallies: dict[int, ZoomTally] = field(default_factory=dict)
    """By zoom."""
    ends: list[Tile] = field(default_factory=list)
    """Tiles that are not there beside others, where a finer source may end or a tile be lost."""
    winners: dict[int, int] = field(default_factory=dict)
    """Pixels in which a source has a part, by its index, where there is a lineage."""

    def tally(self, z: int) -> ZoomTally:
        """Return the figures of a zoom, to be added to."""
        return self.tallies.setdefault(z, ZoomTally())


ADVICE = {
    "image": "tiles that do not decode or are of another kind: make the archive again, or fetch it again",
    "range": "heights that no place on Earth has: look at `nodata`, `unit_factor` and `offset_m` of the "
    "source, run `fusi scan` on it and build it again",
    "step": "heights that fusi does not write at that zoom: the tiles were changed or belong elsewhere; make "
    "the archive again",
    "parent": "parents that are not the mean of their children: a tile was changed, swapped or lost; make "
    "the archive again (`fusi build NAME --overwrite`, then `fusi merge`)",
    "likeness": "parents that are unlike their children: where sources meet or are enlarged they may be "
    "right; a lineage (`fusi merge ... --lineage`) tells",
    "missing": "tiles that may be lost: the edge of a finer source looks the same; a lineage "
    "(`fusi merge ... --lineage`) tells",
    "border": "tiles that meet none of their neighbours: they are of another place or another height; look "
    "at them with `fusi tile`, and make the archive again",
    "lineage": "a lineage that does not fit: make both again by one `fusi merge ... --lineage`",
    "seam": "steps along a tile border: look at the files of the source there; where a file or a source ends "
    "they may be right",
    "spike": "heights that stick out: look at them with `fusi tile ... --elevation LON,LAT`; towers and "
    "rocks may be right, fill values are not (`nodata` in source.toml)",
    "drift": "zooms that lie above or below the next one on the whole: on nearly flat land it may be right, "
    "else make the archive again",
}
"""What a person can do about each kind of finding."""

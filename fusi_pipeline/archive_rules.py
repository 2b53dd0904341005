"""Which laws an archive has to obey, from what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fusi_pipeline import lineage
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata

_GREATEST_STEP_M = 1024.0
"""A coarser vertical step is a slip: Everest would be nine of them."""


@dataclass(frozen=True, slots=True)
class SourceZooms:
    """The zooms at which a source of a merge has tiles of its own."""

    minzoom: int
    maxzoom: int
    overviews: str = ""
    """`mean` where they are stated to be means of its tiles, rounded once; empty where nothing is stated."""

    def has(self, z: int) -> bool:
        """Tell whether it has tiles at a zoom."""
        return self.minzoom <= z <= self.maxzoom


@dataclass(frozen=True, slots=True)
class ArchiveRules:
    """The laws of one archive."""

    minzoom: int
    maxzoom: int
    ours: bool
    """Whether fusi wrote it."""
    merged: bool
    """Whether it was merged: every zoom by itself, 0 m where no source has a height."""
    final: bool
    """Whether it states that its pixels hide no missing ones: no alpha then."""
    is_lineage: bool
    """Whether its pixels name sources instead of heights."""
    mode: str
    """How it was merged, as `fusi merge --mode` names it; empty where it was not."""
    sources: Mapping[int, SourceZooms]
    """By index, of a merged archive; empty where it does not tell."""
    indices: frozenset[int]
    """What the legend of a lineage archive explains."""
    _steps: Mapping[int, float]

    def step_m(self, z: int) -> float:
        """Return the vertical step at a zoom: as stated, else as fusi has it."""
        return self._steps.get(z, terrarium.step_m(z))

    @property
    def exact(self) -> bool:
        """Whether every parent is the mean of its children, missing pixels included."""
        return self.ours and not self.merged

    @property
    def picks(self) -> bool:
        """Whether it was merged by largest or smallest height: the largest of means is no mean of largest."""
        return self.mode in ("max", "min")

    def all_have(self, z: int) -> bool:
        """Tell whether every source of a merge has tiles of its own at a zoom."""
        return bool(self.sources) and all(one.has(z) for one in self.sources.values())

    def begins_at(self, z: int) -> bool:
        """Tell whether a source of a merge has this as its lowest zoom, and the archive does not."""
        return z > self.minzoom and any(one.minzoom == z for one in self.sources.values())

    def binds(self, index: int, z: int) -> bool:
        """Tell whether pixels of a source obey the law between a zoom and the next, one by one."""
        one = self.sources.get(index)
        return one is not None and one.overviews in ("", "mean") and one.has(z) and one.has(z + 1)

    def means(self, index: int, z: int) -> bool:
        """Tell whether a source states that its pixels are means of those of the next zoom but for voids."""
        return self.binds(index, z) and self.sources[index].overviews == "mean"

    @property
    def rounded_once(self) -> bool:
        """Whether heights are known to have been rounded once: a merge with an offset rounds them again."""
        return self.exact or all(one.overviews == "mean" for one in self.sources.values())

    def ends_at(self, z: int) -> bool:
        """Tell whether a source of a merge has this as its highest zoom, and is enlarged beyond it."""
        return z < self.maxzoom and any(one.maxzoom == z for one in self.sources.values())

    def reaches_up_to(self, z: int) -> bool:
        """Tell whether a tile below zoom `z` must have an ancestor at it."""
        if not self.ours or z < self.minzoom:
            return False
        below = [one for one in self.sources.values() if one.maxzoom > z]
        return self.exact or (bool(below) and all(one.minzoom <= z for one in below))


def rules_of(metadata: ArchiveMetadata) -> ArchiveRules:
    """Return the laws of an archive."""
    extra = metadata.extra
    return ArchiveRules(
        minzoom=metadata.minzoom,
        maxzoom=metadata.maxzoom,
        ours=extra.get("generator") == GENERATOR,
        merged="merge_mode" in extra,
        mode=str(extra.get("merge_mode", "")),
        final="nodata" in extra,
        is_lineage=metadata.encoding == lineage.ENCODING,
        sources=_sources(extra.get("sources"), metadata),
        indices=frozenset(entry.index for entry in lineage.legend(metadata)),
        _steps=_steps(extra.get("vertical_step_m")),
    )


def _sources(stated: object, metadata: ArchiveMetadata) -> dict[int, SourceZooms]:
    found = {}
    for position, one in enumerate(stated if isinstance(stated, list) else ()):
        if not isinstance(one, Mapping):
            continue
        index = one.get("index", position + 1)
        low, high = one.get("minzoom", metadata.minzoom), one.get("maxzoom", metadata.maxzoom)
        if isinstance(index, int) and isinstance(low, int) and isinstance(high, int):
            found[index] = SourceZooms(low, high, str(one.get("overviews", "")))
    return found


def _steps(stated: object) -> dict[int, float]:
    """Return the vertical steps that metadata states, in metres by zoom."""
    if not isinstance(stated, Mapping):
        return {}
    return {
        int(z): float(step)
        for z, step in stated.items()
        if str(z).isdigit() and isinstance(step, int | float) and 0 < step <= _GREATEST_STEP_M
    }

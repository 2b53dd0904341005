"""Whether a terrain archive and a lineage archive belong together, and what either says of the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline import lineage, lineage_files
from fusi_pipeline.errors import ArchiveMissing, UsageError
from fusi_pipeline.tiles.archive import ArchiveMetadata, TileReader
from fusi_pipeline.tiles.grid import Tile


def lineage_for(
    path: Path, metadata: ArchiveMetadata, named: Path | None, suspects: list[str]
) -> Path | None:
    """Return the lineage archive to check a terrain archive with: the one named, else the one it names.

    None where there is none; that it should be there is noted. Raises UsageError
    for a lineage to check a lineage with, and ArchiveMissing.
    """
    if lineage_files.is_lineage(metadata):
        if named is not None:
            raise UsageError(f"{path}: is a lineage archive itself; give --lineage with the terrain archive")
        return None
    if named is not None:
        if not named.is_file():
            raise ArchiveMissing(named)
        return named
    stated = lineage_files.named(path, metadata, lineage_files.LINEAGE_KEY)
    if stated is None:
        return None
    if not stated.is_file():
        suspects.append(
            f"it names the lineage {stated.name}, which is not beside it: without it parents are judged by "
            "tiles, not by pixels; name it with --lineage"
        )
        return None
    return stated


def pair_problems(terrain: TileReader, sources: TileReader) -> list[str]:
    """Return where a terrain archive and its lineage archive do not fit each other."""
    found = []
    if not lineage_files.belong(terrain.metadata, sources.metadata):
        found.append("terrain and lineage are of different merges, by the content key that each states")
    stated, explained = _names(terrain.metadata), _legend(sources.metadata)
    if stated and explained and stated != explained:
        wrong = sorted(index for index in {*stated, *explained} if stated.get(index) != explained.get(index))
        found.append(
            f"the lineage's legend and the terrain's list of sources differ at index {wrong[0]}: "
            f"{explained.get(wrong[0])!r} and {stated.get(wrong[0])!r}"
        )
    return found + _tile_set_problems(terrain, sources)


def credit_problems(metadata: ArchiveMetadata, winners: Mapping[int, int]) -> list[str]:
    """Return where credits and figures of the sources are not what the pixels show.

    `winners` has the number of pixels in which each source has a part, by index.
    """
    found = []
    sources = metadata.extra.get("sources")
    for one in sources if isinstance(sources, list) else ():
        if not isinstance(one, Mapping) or not isinstance(one.get("index"), int):
            continue
        wins, credit, pixels = winners.get(one["index"], 0), one.get("attribution"), one.get("pixels")
        if wins and credit and str(credit) not in metadata.attribution:
            found.append(f"source {one.get('name')} has {wins} pixels, and the attribution does not name it")
        if isinstance(pixels, int) and bool(pixels) != bool(wins):
            found.append(
                f"source {one.get('name')} is said to have {pixels} pixels; by the lineage it has {wins}"
            )
    return found


def _names(metadata: ArchiveMetadata) -> dict[int, str]:
    """Return the names of a terrain archive's sources by index."""
    sources = metadata.extra.get("sources")
    return {
        one["index"]: str(one.get("name"))
        for one in (sources if isinstance(sources, list) else ())
        if isinstance(one, Mapping) and isinstance(one.get("index"), int)
    }


def _legend(metadata: ArchiveMetadata) -> dict[int, str]:
    return {entry.index: entry.name for entry in lineage.legend(metadata)}


def _tile_set_problems(terrain: TileReader, sources: TileReader) -> list[str]:
    found = []
    for z in sorted({*terrain.counts(), *sources.counts()}):
        ours, theirs = _codes(terrain, z), _codes(sources, z)
        for name, codes in (
            ("lineage", np.setdiff1d(ours, theirs, assume_unique=True)),
            ("terrain", np.setdiff1d(theirs, ours, assume_unique=True)),
        ):
            if len(codes):
                first = Tile(z, int(codes[0] >> 32), int(codes[0] & 0xFFFFFFFF))
                found.append(f"the {name} lacks {len(codes)} tiles of zoom {z} (the first is {first})")
    return found


def _codes(reader: TileReader, z: int) -> npt.NDArray[np.int64]:
    """Return one number for each tile of a zoom, in ascending order."""
    coordinates = reader.coordinates(z).astype(np.int64)
    return np.unique(coordinates[:, 0] << 32 | coordinates[:, 1])

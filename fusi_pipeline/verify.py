"""What is true of an archive, re-derived from its bytes and not from what it says."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusi_pipeline.errors import ArchiveUnreadable, PackerUnavailable
from fusi_pipeline.pack import cli_path, cli_verify
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp, is_lossless_webp
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from fusi_pipeline.tiles.structure import problems

_MOST_PROBLEMS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was checked of an archive, and what is wrong with it."""

    path: Path
    format: str
    """`mbtiles` or `pmtiles`."""
    tiles: int
    decoded: int
    """Tiles that were decoded and looked at."""
    minimum_m: float | None
    """Least and greatest height among them; None where none was."""
    maximum_m: float | None
    second_opinion: str
    """What the `pmtiles` command said: `ok`, its complaint, or `not installed`."""
    problems: tuple[str, ...]
    """One sentence each; empty where the archive is sound."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(path: Path, *, sample: int = 1000) -> Generator[Progress, None, VerifyReport]:
    """Check the structure of an archive and decode `sample` tiles spread over it, 0 for all.

    Raises ArchiveMissing, and ArchiveUnreadable where the file cannot be read at all.
    """
    found: list[str] = []
    with open_archive(path) as reader:
        found.extend(_structure(reader))
        counts = _counts(reader, found)
        found.extend(_metadata_problems(reader, counts))
        total = sum(counts.values())
        stride = max(1, total // sample) if sample else 1
        wanted = len(range(0, total, stride))
        decoded, low, high = 0, np.inf, -np.inf
        for tile in _spread(reader, counts, stride):
            decoded += 1
            problem, limits = _tile_problem(reader, tile)
            if problem:
                found.append(f"tile {tile}: {problem}")
            low, high = min(low, limits[0]), max(high, limits[1])
            if decoded % 20 == 0 or decoded == wanted:
                yield Progress("verify", decoded, wanted, "tiles")
            if len(found) >= _MOST_PROBLEMS:
                found.append(f"and perhaps more: stopped after {_MOST_PROBLEMS} problems")
                break
        kind = "mbtiles" if isinstance(reader, MBTilesReader) else "pmtiles"
    opinion = _second_opinion(path, kind)
    if opinion not in ("ok", "not installed", "not asked"):
        found.append(f"pmtiles verify: {opinion}")
    return VerifyReport(
        path=path,
        format=kind,
        tiles=total,
        decoded=decoded,
        minimum_m=float(low) if decoded and np.isfinite(low) else None,
        maximum_m=float(high) if decoded and np.isfinite(high) else None,
        second_opinion=opinion,
        problems=tuple(found),
    )


def _structure(reader: TileReader) -> list[str]:
    if isinstance(reader, PMTilesReader):
        return problems(reader.path)
    assert isinstance(reader, MBTilesReader)
    found = []
    trouble = reader.integrity_problem()
    if trouble:
        found.append(f"SQLite: {trouble}")
    for suffix in ("-wal", "-shm"):
        if reader.path.with_name(reader.path.name + suffix).exists():
            found.append(f"{reader.path.name}{suffix} is left beside it: it was not finished")
    if reader.has_ledger:
        recorded = sum(record.tiles for record in reader.ledger())
        held = sum(reader.counts().values())
        if recorded != held:
            found.append(f"the ledger accounts for {recorded} tiles, the archive holds {held}")
    return found


def _counts(reader: TileReader, found: list[str]) -> dict[int, int]:
    try:
        return reader.counts()
    except ArchiveUnreadable as error:
        found.append(str(error))
        return {}


def _metadata_problems(reader: TileReader, counts: dict[int, int]) -> list[str]:
    metadata, found = reader.metadata, []
    if not counts:
        return ["it holds no tile"]
    if metadata.encoding != "terrarium":
        found.append(f"metadata states encoding {metadata.encoding!r}, not terrarium")
    if (metadata.minzoom, metadata.maxzoom) != (min(counts), max(counts)):
        stated, held = f"{metadata.minzoom}..{metadata.maxzoom}", f"{min(counts)}..{max(counts)}"
        found.append(f"metadata states zooms {stated}, tiles are at {held}")
    gaps = sorted(set(range(min(counts), max(counts) + 1)) - set(counts))
    if gaps:
        found.append(f"no tile at zoom {', '.join(str(z) for z in gaps)}")
    return found


def _spread(reader: TileReader, counts: dict[int, int], stride: int) -> Iterator[Tile]:
    """Yield every `stride`-th tile of an archive, zoom by zoom."""
    position = 0
    for z in sorted(counts):
        coordinates = reader.coordinates(z)
        for x, y in coordinates[(-position) % stride :: stride].tolist():
            yield Tile(z, x, y)
        position += len(coordinates)


def _tile_problem(reader: TileReader, tile: Tile) -> tuple[str, tuple[float, float]]:
    """Return what is wrong with a tile, and its least and greatest height."""
    nothing = (np.inf, -np.inf)
    try:
        data = reader.read(tile)
    except ArchiveUnreadable as error:
        return str(error), nothing
    if data is None:
        return "is listed and cannot be read", nothing
    try:
        pixels = decode_webp(data)
    except ImageInvalid as error:
        return str(error), nothing
    if pixels.shape[:2] != (TILE_SIZE_PX, TILE_SIZE_PX):
        return f"is {pixels.shape[1]} x {pixels.shape[0]} px", nothing
    heights = terrarium.decode(pixels)
    limits = nothing
    if not np.isnan(heights).all():
        limits = float(np.nanmin(heights)), float(np.nanmax(heights))
    if not is_lossless_webp(data):
        return "is not lossless", limits
    final = "nodata" in reader.metadata.extra
    if final and pixels.shape[2] == 4:
        return "has an alpha channel in a final archive", limits
    return "", limits


def _second_opinion(path: Path, kind: str) -> str:
    if kind != "pmtiles":
        return "not asked"
    if cli_path() is None:
        return "not installed"
    try:
        return cli_verify(path) or "ok"
    except PackerUnavailable as error:
        return str(error)

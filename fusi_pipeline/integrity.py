"""What is wrong with an archive as a whole: its file, its metadata, the place of its tiles, its digests.

Looks into no picture. Sentences come without the archive's name.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fusi_pipeline import lineage, picture_check
from fusi_pipeline.archive_rules import ArchiveRules, rules_of
from fusi_pipeline.errors import ArchiveUnreadable
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles import grid, webp
from fusi_pipeline.tiles.archive import ArchiveMetadata, TileReader
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import digest_of
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from fusi_pipeline.tiles.structure import is_sealed, problems, tile_data_problem

ENCODINGS = ("terrarium", lineage.ENCODING)
_MARGIN_DEG = 1e-5
"""Bounds may end this close to the edge of a tile, on either side of it."""
_MIB = 1 << 20
_LISTED = 25
_SQLITE = "SQLite: "
_SQLITE_HEADER_BYTES = 100


@dataclass(frozen=True, slots=True)
class Seal:
    """What comparing an archive's bytes with the digests it states has shown."""

    verdict: str
    """One of `SEAL_VERDICTS`."""
    problems: tuple[str, ...] = ()


SEAL_VERDICTS = ("holds", "broken", "not stated", "not checked")
"""Of the digests of all tiles; they are not checked where only a sample is."""


def kind_of(reader: TileReader) -> str:
    """Return `mbtiles` or `pmtiles`."""
    return "mbtiles" if isinstance(reader, MBTilesReader) else "pmtiles"


def structure_problems(reader: TileReader, *, wholly: bool = False) -> list[str]:
    """Return what is wrong with the file, from its bytes; `wholly` has SQLite look at its indices too.

    Nothing else is asked of a file that SQLite itself finds damaged.
    """
    if isinstance(reader, PMTilesReader):
        return problems(reader.path)
    assert isinstance(reader, MBTilesReader)
    found = _page_problems(reader.path)
    trouble = reader.integrity_problem(indices=wholly)
    if trouble:
        return [*found, f"{_SQLITE}{trouble}"]
    for suffix in ("-wal", "-shm"):
        if reader.path.with_name(reader.path.name + suffix).exists():
            found.append(f"{reader.path.name}{suffix} is left beside it: it was not finished")
    if reader.has_ledger:
        recorded = sum(record.tiles for record in reader.ledger())
        held = sum(reader.counts().values())
        if recorded != held:
            found.append(f"the ledger accounts for {recorded} tiles, the archive holds {held}")
    return found


def _page_problems(path: Path) -> list[str]:
    """Return where a SQLite file has not the pages that its header counts.

    Source: SQLite database file format, sections 1.3.2 (page size) and 1.3.8 (in-header size).
    """
    with path.open("rb") as file:
        start = file.read(_SQLITE_HEADER_BYTES)
    if len(start) < _SQLITE_HEADER_BYTES:
        return []
    (page_bytes,) = struct.unpack_from(">H", start, 16)
    changes, pages = struct.unpack_from(">II", start, 24)
    (counted_at,) = struct.unpack_from(">I", start, 92)
    if not pages or changes != counted_at:
        return []
    wanted, size = pages * (page_bytes if page_bytes > 1 else 65536), path.stat().st_size
    if size > wanted:
        return [f"{size - wanted} bytes behind the last page belong to nothing"]
    return [f"it is cut short: it has {size} bytes of {wanted}"] if size < wanted else []


def is_readable(found: list[str]) -> bool:
    """Tell whether the problems of a file's structure leave it worth asking for tiles."""
    return not any(one.startswith(_SQLITE) for one in found)


def counts_of(reader: TileReader, found: list[str]) -> dict[int, int]:
    """Return the number of tiles by zoom; where they cannot be read, none, and why is noted."""
    try:
        counts = reader.counts()
    except ArchiveUnreadable as error:
        found.append(str(error))
        return {}
    sound = {z: count for z, count in counts.items() if isinstance(z, int) and 0 <= z <= grid.MAX_ZOOM}
    if len(sound) < len(counts):
        found.append(f"{sum(counts.values()) - sum(sound.values())} tiles have no zoom of the grid")
    return sound


def metadata_problems(reader: TileReader, counts: dict[int, int]) -> list[str]:
    """Return where the metadata and the tiles there are do not agree."""
    metadata, found = reader.metadata, []
    if not counts:
        return ["it holds no tile"]
    if metadata.is_picture:
        found += picture_check.statement_problems(reader, counts)
    elif metadata.encoding not in ENCODINGS:
        found.append(f"metadata states encoding {metadata.encoding!r}, not terrarium")
    if metadata.format != "webp" and not metadata.is_picture:
        found.append(f"metadata states the format {metadata.format!r}, not webp")
    if (metadata.minzoom, metadata.maxzoom) != (min(counts), max(counts)):
        stated, held = f"{metadata.minzoom}..{metadata.maxzoom}", f"{min(counts)}..{max(counts)}"
        found.append(f"metadata states zooms {stated}, tiles are at {held}")
    gaps = sorted(set(range(min(counts), max(counts) + 1)) - set(counts))
    if gaps:
        found.append(f"no tile at zoom {', '.join(str(z) for z in gaps)}")
    size = _tile_px(reader, min(counts))
    if size and metadata.tile_size and metadata.tile_size != size:
        found.append(f"metadata states tiles of {metadata.tile_size} px, they have {size}")
    return found


def _tile_px(reader: TileReader, z: int) -> int:
    """Return the width of a tile of a zoom by what its file says, 0 where none tells."""
    for x, y in reader.coordinates(z)[:1].tolist():
        try:
            return webp.facts(reader.read(Tile(z, x, y)) or b"").width
        except (webp.WebPInvalid, ArchiveUnreadable):
            return 0
    return 0


def place_problems(reader: TileReader, counts: dict[int, int]) -> tuple[list[str], list[str]]:
    """Return where tiles and stated bounds do not agree: problems, and suspects.

    Every tile has to touch the bounds, and the bounds reach no farther than the
    tiles; that is certain only in an archive that fusi made of whole sources.
    """
    metadata, rules = reader.metadata, rules_of(reader.metadata)
    found = []
    for z in counts:
        outside = _outside(metadata, z, reader)
        if outside:
            found.append(f"{outside} tiles of zoom {z} lie outside the bounds {metadata.bounds}")
    if found or not counts:
        return found, []
    if rules.exact and (short := _beyond(metadata, [min(counts)], reader, 0)):
        return [f"the bounds {metadata.bounds} reach beyond the tiles, to the {', '.join(short)}"], []
    if rules.is_lineage or not (far := _beyond(metadata, _reaching(rules, counts), reader, max(counts))):
        return [], []
    text = (
        f"the bounds {metadata.bounds} reach more than a tile of zoom {max(counts)} beyond the tiles, to the "
        f"{', '.join(far)}"
    )
    whole = rules.exact or (rules.ours and all(one.overviews == "mean" for one in rules.sources.values()))
    return ([text], []) if whole else ([], [text])


def _reaching(rules: ArchiveRules, counts: dict[int, int]) -> list[int]:
    """Return the zooms whose tiles together reach as far as every source of an archive."""
    first = min((one.maxzoom for one in rules.sources.values()), default=max(counts))
    return [z for z in counts if z >= first] or [max(counts)]


def _outside(metadata: ArchiveMetadata, z: int, reader: TileReader) -> int:
    """Return how many tiles of a zoom do not touch the bounds."""
    box = metadata.bounds
    wide = replace(
        box,
        west=max(box.west - _MARGIN_DEG, -180.0),
        south=box.south - _MARGIN_DEG,
        east=min(box.east + _MARGIN_DEG, 180.0),
        north=box.north + _MARGIN_DEG,
    )
    coordinates = reader.coordinates(z)
    inside = np.zeros(len(coordinates), dtype=bool)
    for columns, rows in grid.covering_ranges(grid.projected(wide), z):
        x, y = coordinates[:, 0], coordinates[:, 1]
        inside |= (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)
    return int(np.count_nonzero(~inside))


def _beyond(metadata: ArchiveMetadata, zooms: list[int], reader: TileReader, margin: int) -> list[str]:
    """Return the directions in which the bounds reach farther than the tiles of some zooms.

    Farther by a tile of zoom `margin`, or at all where that is 0.
    """
    box, limit = metadata.bounds, grid.bounds(Tile(0, 0, 0))
    west, south, east, north = 180.0, 90.0, -180.0, -90.0
    for z in zooms:
        coordinates, step = reader.coordinates(z).astype(np.int64), 0
        if margin:
            coordinates, step = coordinates << (margin - z), 1
        side = (1 << (margin or z)) - 1
        (left, top), (right, bottom) = coordinates.min(axis=0).tolist(), coordinates.max(axis=0).tolist()
        if margin:
            right, bottom = right + (1 << (margin - z)) - 1, bottom + (1 << (margin - z)) - 1
        first = grid.bounds(Tile(margin or z, max(left - step, 0), max(top - step, 0)))
        last = grid.bounds(Tile(margin or z, min(right + step, side), min(bottom + step, side)))
        west, north = min(west, first.west), max(north, first.north)
        east, south = max(east, last.east), min(south, last.south)
    beyond = {
        "south": max(box.south, limit.south) < south - _MARGIN_DEG,
        "north": min(box.north, limit.north) > north + _MARGIN_DEG,
    }
    if box.west <= box.east:
        beyond["west"] = box.west < west - _MARGIN_DEG
        beyond["east"] = box.east > east + _MARGIN_DEG
    return [name for name, far in beyond.items() if far]


def check_seal(reader: TileReader) -> Generator[Progress, None, Seal]:
    """Compare all tile bytes with the digests that the archive states, yielding how far it is."""
    if isinstance(reader, MBTilesReader):
        return (yield from _check_ledger(reader))
    assert isinstance(reader, PMTilesReader)
    if not is_sealed(reader):
        return Seal("not stated")
    total = -(-reader.header.tile_data_length // _MIB)
    work = tile_data_problem(reader)
    while True:
        try:
            yield Progress("hash", -(-next(work) // _MIB), total, "MiB")
        except StopIteration as end:
            return Seal("broken", (end.value,)) if end.value else Seal("holds")
        except ArchiveUnreadable as error:
            return Seal("broken", (str(error),))


def _check_ledger(reader: MBTilesReader) -> Generator[Progress, None, Seal]:
    """Compare every tile of an MBTiles with the hash that its ledger has of it, then its rows with theirs."""
    if not reader.has_ledger:
        return Seal("not stated")
    total, done = sum(reader.counts().values()), 0
    found: list[str] = []
    for (tile, digest), said in zip(_recorded(reader), _progress(total), strict=False):
        done += 1
        if said is not None:
            yield said
        data = reader.read(tile)
        if data is None:
            found.append(f"tile {tile} is in the ledger and not in the archive")
        elif digest_of(data) != digest:
            found.append(f"tile {tile} is not what was written: its hash is not the one in the ledger")
    if done != total:
        found.append(f"the ledger has hashes of {done} tiles, the archive holds {total}")
    if not found:
        torn = sum(not sound for sound in reader.sound_blocks())
        if torn:
            found.append(f"{torn} rows of the ledger are not what was written: their checksums do not hold")
    if len(found) > _LISTED:
        found[_LISTED:] = [f"and {len(found) - _LISTED} more of this kind that are not listed"]
    return Seal("broken", tuple(found)) if found else Seal("holds")


def _recorded(reader: MBTilesReader) -> Iterator[tuple[Tile, bytes]]:
    """Yield every tile of the ledger with its hash."""
    for block in reader.digests():
        for z, x, y, digest in block.tolist():
            yield Tile(z, x, y), digest


def _progress(total: int) -> Iterator[Progress | None]:
    """Yield how far a walk over `total` tiles is, at some of them, None at the others; without end."""
    done = 0
    while True:
        done += 1
        yield Progress("hash", done, total, "tiles") if done % 256 == 0 or done == total else None

"""Small archives with known contents for the tests of the server and of its page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from starlette.types import ASGIApp

from fusi_pipeline import lineage
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.ledger import BlockRecord
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from fusi_pipeline.tiles.pmtiles import tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter

Heights = npt.NDArray[np.float32]

BOX = Bounds(6.0, 43.5, 8.0, 45.0)
"""Where the terrain of these archives is."""
LEGEND = (
    {
        "index": 1,
        "name": "Lidar",
        "attribution": "© The <b>City</b>",
        "license": "CC BY 4.0",
        "website": "https://example.org/lidar",
        "resolution_m": 1.0,
        "vertical_datum": "EGM2008",
        "color": lineage.color(1),
    },
    {"index": 2, "name": "Satellites", "attribution": "© An Agency", "color": lineage.color(2)},
)


class InProcess(httpx.BaseTransport):
    """Asks an application without a socket, one request after another."""

    def __init__(self, app: ASGIApp) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def asked() -> httpx.Response:
            answer = await self._inner.handle_async_request(request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run(asked())


def coordinates(tile: Tile) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (x, y) of a tile's pixel centres in EPSG:3857 metres, both of shape (512, 512)."""
    box, size = grid.xy_bounds(tile), grid.resolution_m(tile.z)
    places = np.arange(TILE_SIZE_PX) + 0.5
    x, y = np.meshgrid(box.left + places * size, box.top - places * size)
    return x, y


def hills(tile: Tile) -> Heights:
    """Return the heights of rolling hills with a sea in the south, shape (512, 512), in metres."""
    x, y = coordinates(tile)
    shore = grid.project(0.0, 43.8)[1]
    ridges = 400 * np.sin(x / 9000) * np.cos(y / 7000) + 120 * np.sin(x / 2100 + y / 2900)
    rise = np.clip((y - shore) / 60_000, -0.1, 1.0)
    heights: Heights = (rise * (900 + ridges)).astype(np.float32)
    return heights


def within(tile: Tile, box: Bounds) -> npt.NDArray[np.bool_]:
    """Return which pixels of a tile have their centre in a box, shape (512, 512)."""
    x, y = coordinates(tile)
    edges = grid.projected(box)
    inside: npt.NDArray[np.bool_] = (
        (x >= edges.left) & (x < edges.right) & (y > edges.bottom) & (y <= edges.top)
    )
    return inside


def tiles_of(box: Bounds, zooms: Sequence[int]) -> list[Tile]:
    """Return the tiles of some zooms that touch a box, in the order of an archive."""
    found = [tile for z in zooms for tile in grid.covering(grid.projected(box), z)]
    return sorted(found, key=lambda tile: int(tile_ids(tile.z, [tile.x], [tile.y])[0]))


def metadata(zooms: Sequence[int], **facts: object) -> ArchiveMetadata:
    known: dict[str, object] = {"name": "Hills", "attribution": "© somebody", "bounds": BOX}
    known["minzoom"], known["maxzoom"] = min(zooms), max(zooms)
    known["extra"] = {"generator": GENERATOR, **facts.pop("extra", {})}  # type: ignore[dict-item]
    return ArchiveMetadata(**{**known, **facts})  # type: ignore[arg-type]


def write_pmtiles(path: Path, contents: Mapping[Tile, bytes], facts: ArchiveMetadata) -> Path:
    with PMTilesWriter(path, facts, len(contents)) as writer:
        for tile in sorted(contents, key=lambda tile: int(tile_ids(tile.z, [tile.x], [tile.y])[0])):
            writer.write(tile, contents[tile])
    return path


def write_mbtiles(path: Path, contents: Mapping[Tile, bytes], facts: ArchiveMetadata) -> Path:
    size = sum(map(len, contents.values()))
    with MBTilesWriter(path) as writer:
        writer.commit(BlockRecord(Tile(0, 0, 0), "key", len(contents), size, None, None), contents.items())
        writer.finish(facts)
    return path


def encoded(heights: Heights, z: int) -> bytes:
    pixels = terrarium.encode(heights, z)
    assert pixels is not None
    return encode_webp(pixels)


def terrain_contents(zooms: Sequence[int], box: Bounds = BOX) -> Iterator[tuple[Tile, bytes]]:
    """Yield tiles as a merge writes them: 0 m outside the box."""
    for tile in tiles_of(box, zooms):
        yield tile, encoded(np.where(within(tile, box), hills(tile), np.float32(0)), tile.z)


def source_contents(zooms: Sequence[int], box: Bounds = BOX) -> Iterator[tuple[Tile, bytes]]:
    """Yield tiles as a build writes them: transparent outside the box."""
    for tile in tiles_of(box, zooms):
        yield tile, encoded(np.where(within(tile, box), hills(tile), np.float32(np.nan)), tile.z)


def lineage_contents(zooms: Sequence[int], box: Bounds = BOX) -> Iterator[tuple[Tile, bytes]]:
    """Yield lineage in which the first source has the west, the second the east, and a strip is blended."""
    middle = (box.west + box.east) / 2
    for tile in tiles_of(box, zooms):
        inside = within(tile, box)
        west = within(tile, Bounds(-180, -85, middle, 85))
        strip = inside & west & within(tile, Bounds(middle - 0.2, -85, middle, 85))
        first = np.where(inside, np.where(west, 1, 2), 0).astype(np.uint8)
        second = np.where(strip, 2, 0).astype(np.uint8)
        yield (
            tile,
            encode_webp(lineage.encode(first, second, np.where(strip, np.float32(0.4), np.float32(0)))),
        )


def write_merged(folder: Path, zooms: Sequence[int] = range(9)) -> tuple[Path, Path]:
    """Write a merged terrain archive and its lineage, as `fusi merge --lineage` names them."""
    folder.mkdir(parents=True, exist_ok=True)
    terrain = write_pmtiles(
        folder / "hills.pmtiles",
        dict(terrain_contents(zooms)),
        metadata(zooms, extra={"lineage": "hills.lineage.pmtiles", "nodata": "0 m", "sources": list(LEGEND)}),
    )
    sources = write_pmtiles(
        folder / "hills.lineage.pmtiles",
        dict(lineage_contents(zooms)),
        metadata(
            zooms, name="Hills, sources", encoding="lineage",
            extra={"terrain": "hills.pmtiles", "legend": list(LEGEND)},
        ),
    )  # fmt: skip
    return terrain, sources


def write_source(folder: Path, zooms: Sequence[int] = range(8)) -> Path:
    """Write the archive of one source: MBTiles with missing pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = metadata(zooms, name="One source")
    return write_mbtiles(folder / "source.mbtiles", dict(source_contents(zooms)), facts)

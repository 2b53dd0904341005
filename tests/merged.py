"""Small terrain and lineage archives with known pixels, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline import lineage
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.ledger import BlockRecord
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from fusi_pipeline.tiles.pmtiles import tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter

Heights = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

LEGEND = (
    {
        "index": 1,
        "name": "lidar",
        "attribution": "© City",
        "license": "CC BY 4.0",
        "website": "https://example.org/lidar",
        "resolution_m": 1.5,
        "vertical_datum": "EGM2008",
        "color": "#cc3311",
    },
    {"index": 2, "name": "srtm", "attribution": "NASA", "resolution_m": 30.0, "color": "#0077bb"},
    {"index": 3, "name": "sea", "color": "#009988"},
)


def heights(value: float) -> Heights:
    """Return a tile of one height."""
    return np.full((TILE_SIZE_PX, TILE_SIZE_PX), value, dtype=np.float32)


def labels(index: int) -> Labels:
    """Return the first indices of a tile of one source."""
    return np.full((TILE_SIZE_PX, TILE_SIZE_PX), index, dtype=np.uint8)


def lineage_pixels(first: Labels, second: Labels | None = None, share: float = 0.5) -> Labels:
    """Return the pixels of a lineage tile, shape (512, 512, 3)."""
    second = np.zeros_like(first) if second is None else second
    return lineage.encode(first, second, np.full(first.shape, share, dtype=np.float32))


def write(path: Path, tiles: Mapping[Tile, bytes], *, bounds: Bounds | None = None, **facts: object) -> Path:
    """Write an MBTiles or PMTiles archive, by its extension, of encoded tiles; return its path.

    `facts` are fields of ArchiveMetadata, and its `extra` what else there is.
    """
    named = {key: facts.pop(key) for key in tuple(facts) if key in ArchiveMetadata.__dataclass_fields__}
    boxes = [grid.bounds(tile) for tile in tiles]
    metadata = ArchiveMetadata(
        **{
            "name": path.stem,
            "minzoom": min(tile.z for tile in tiles),
            "maxzoom": max(tile.z for tile in tiles),
            "bounds": bounds
            or Bounds(
                min(box.west for box in boxes),
                min(box.south for box in boxes),
                max(box.east for box in boxes),
                max(box.north for box in boxes),
            ),
            "extra": facts,
            **named,
        }
    )  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mbtiles":
        with MBTilesWriter(path) as writer:
            record = BlockRecord(Tile(0, 0, 0), "key", len(tiles), 0, None, None)
            writer.commit(record, list(tiles.items()))
            writer.finish(metadata)
        return path
    with PMTilesWriter(path, metadata, len(tiles)) as archive:
        for tile in sorted(tiles, key=_tile_id):
            archive.write(tile, tiles[tile])
    return path


def write_terrain(path: Path, tiles: Mapping[Tile, Heights], **facts: object) -> Path:
    """Write an archive of heights, NaN where missing."""
    encoded = {}
    for tile, elevation_m in tiles.items():
        pixels = terrarium.encode(elevation_m, tile.z)
        assert pixels is not None
        encoded[tile] = encode_webp(pixels)
    return write(path, encoded, **facts)


def write_lineage(
    path: Path,
    tiles: Mapping[Tile, Labels],
    *,
    legend: Sequence[Mapping[str, object]] = LEGEND,
    **facts: object,
) -> Path:
    """Write a lineage archive of first indices, shape (512, 512), or of whole pixels, (512, 512, 3)."""
    encoded = {
        tile: encode_webp(pixels if pixels.ndim == 3 else lineage_pixels(pixels))
        for tile, pixels in tiles.items()
    }
    return write(path, encoded, encoding=lineage.ENCODING, legend=list(legend), **facts)


def _tile_id(tile: Tile) -> tuple[int, int]:
    return tile.z, int(tile_ids(tile.z, [tile.x], [tile.y])[0])

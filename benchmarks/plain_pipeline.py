"""`fusi aggregate` against a plain per-tile pipeline, as rasterio's documentation suggests to write one.

Both make the same zooms of a fine source over a coarse one. The plain pipeline
opens each file with a WarpedVRT for each tile at each zoom, fills what the fine
source lacks from the coarse one, encodes Terrarium at the same vertical step with
Pillow's lossless WebP, and writes the tiles with the `pmtiles` package, in as many
processes as fusi. Wall time and CPU of all processes, in turn in one run.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from harness import Cost, drop, fusi, place, report, run
from incremental import surface, write_sources
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import write
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT

from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.pmtiles import PMTilesReader

_SIDE = 512


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=4800, help="pixels along the surface's side")
    parser.add_argument("--files", type=int, default=6, help="files along it")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--plain", nargs=4, metavar=("STORE", "TILES", "OUTPUT", "WORKERS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.plain:
        store, tiles, output, workers = options.plain
        plain(Path(store), Path(tiles), Path(output), int(workers))
        return
    with place() as folder:
        write_sources(folder / "source-store", surface(options.side), options.side // options.files)
        pairs = [_round(folder, options.workers) for _ in range(options.rounds)]
    report("plain_pipeline", _facts(pairs, options))


def _round(folder: Path, workers: int) -> tuple[Cost, Cost, int]:
    """Measure both once; return their costs and the number of tiles."""
    output = folder / "output"
    drop(output)
    ours = fusi(
        "aggregate", "fine", "coarse", "-o", output / "all.pmtiles", "--source-store",
        folder / "source-store", "--output-dir", output, "--workers", workers,
    )  # fmt: skip
    with PMTilesReader(output / "all.pmtiles") as reader:
        tiles = [(z, x, y) for z in reader.counts() for x, y in reader.coordinates(z).tolist()]
    listing = folder / "tiles.json"
    listing.write_text(json.dumps(tiles))
    others = run(
        [sys.executable, __file__, "--plain", str(folder / "source-store"), str(listing),
         str(folder / "plain.pmtiles"), str(workers)]
    )  # fmt: skip
    return ours, others, len(tiles)


def _facts(pairs: list[tuple[Cost, Cost, int]], options: argparse.Namespace) -> dict[str, object]:
    return {
        "tiles": pairs[0][2],
        "workers": options.workers,
        "fusi_s": [ours.seconds for ours, _, _ in pairs],
        "plain_s": [plain.seconds for _, plain, _ in pairs],
        "fusi_cpu_s": [ours.cpu_s for ours, _, _ in pairs],
        "plain_cpu_s": [plain.cpu_s for _, plain, _ in pairs],
        "ratio": round(statistics.median(plain.seconds / ours.seconds for ours, plain, _ in pairs), 2),
        "cpu_ratio": round(statistics.median(plain.cpu_s / ours.cpu_s for ours, plain, _ in pairs), 2),
    }


def plain(store: Path, listing: Path, output: Path, workers: int) -> None:
    """Make the tiles of a list one by one from two sources, and pack them."""
    tiles = [Tile(*zxy) for zxy in json.loads(listing.read_text())]
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(str(store),)) as pool:
        made = [
            (tile, data)
            for tile, data in zip(tiles, pool.map(_tile, tiles, chunksize=8), strict=True)
            if data
        ]
    made.sort(key=lambda one: zxy_to_tileid(one[0].z, one[0].x, one[0].y))
    with write(str(output)) as writer:
        for tile, data in made:
            writer.write_tile(zxy_to_tileid(tile.z, tile.x, tile.y), data)
        header = {"tile_type": TileType.WEBP, "tile_compression": Compression.NONE}
        box = {f"{one}_{axis}_e7": 0 for one in ("min", "max", "center") for axis in ("lon", "lat")}
        writer.finalize({**header, **box, "center_zoom": 0}, {})


_sources: list[list[tuple[str, tuple[float, float, float, float]]]] = []


def _start(store: str) -> None:
    for name in ("fine", "coarse"):
        files = []
        for path in sorted(Path(store, name).glob("*.tif")):
            with rasterio.open(path) as dataset, WarpedVRT(dataset, crs="EPSG:3857") as warped:
                files.append((str(path), tuple(warped.bounds)))
        _sources.append(files)


def _tile(tile: Tile) -> bytes:
    """Return one tile; empty where no source has anything."""
    box = grid.xy_bounds(tile)
    transform = from_bounds(box.left, box.bottom, box.right, box.top, _SIDE, _SIDE)
    heights = np.full((_SIDE, _SIDE), np.nan, np.float32)
    for files in _sources:
        for path, (left, bottom, right, top) in files:
            if left >= box.right or right <= box.left or bottom >= box.top or top <= box.bottom:
                continue
            with (
                rasterio.open(path) as dataset,
                WarpedVRT(
                    dataset, crs="EPSG:3857", transform=transform, width=_SIDE, height=_SIDE,
                    resampling=Resampling.bilinear,
                ) as warped,
            ):  # fmt: skip
                part = warped.read(1, masked=True).filled(np.nan)
            heights = np.where(np.isnan(heights), part, heights)
    if np.isnan(heights).all():
        return b""
    step = terrarium.step_m(tile.z)
    values = np.rint(np.nan_to_num(heights).astype(np.float64) / step) * step + 32768
    pixels = np.stack([values // 256, values % 256, (values * 256) % 256], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()

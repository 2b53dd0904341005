"""CPU of `fusi build` against the floor: encoding the same tiles and nothing else.

Makes a rough UTM surface, builds it in a fresh process (scan, start of the
workers and all), then encodes the decoded tiles again with Pillow and libwebp,
in turn, whatever the build encodes with. The CPU of every process counts, also
of those that the build leaves to the system to reap; that needs Linux.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import rasterio
from harness import drop, fusi, place, report
from PIL import Image
from rasterio.transform import from_origin

from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import ENCODERS, WEBP_METHOD, WEBP_QUALITY, decode_webp
from fusi_pipeline.tiles.mbtiles import MBTilesReader


def main() -> None:
    """Measure, print one JSON line per round, and report the median ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=6000, help="pixels along the surface's side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", choices=ENCODERS, default=ENCODERS[0], help="that of the build")
    parser.add_argument("--source", type=Path, help="a source folder to build instead")
    options = parser.parse_args()
    with place() as scratch:
        folder = scratch / "source-store" / "surface"
        if options.source:
            shutil.copytree(options.source, folder)
        else:
            write_surface(folder / "surface.tif", options.side)
        rounds = [measure(scratch, options.encoder) for _ in range(options.rounds)]
    ratio = round(statistics.median(one["ratio"] for one in rounds), 3)
    name = "encode_floor" if options.encoder == ENCODERS[0] else f"encode_floor_{options.encoder}"
    report(name, {"encoder": options.encoder, **rounds[-1], "ratio": ratio})


def measure(scratch: Path, encoder: str) -> dict[str, float]:
    """Build once, encode once; return CPU seconds of both and their ratio."""
    output = scratch / "output"
    drop(output)
    build = fusi(
        "build", "surface", "--source-store", scratch / "source-store", "--output-dir", output,
        "--encoder", encoder,
    )  # fmt: skip
    pictures = _pictures(output / "sources" / "surface.mbtiles")
    started = time.process_time()
    for picture in pictures:
        picture.save(
            io.BytesIO(), "WEBP", lossless=True, method=WEBP_METHOD, quality=WEBP_QUALITY, exact=True
        )
    floor_s = time.process_time() - started
    facts = {
        "tiles": len(pictures),
        "build_cpu_s": build.cpu_s,
        "floor_cpu_s": round(floor_s, 2),
        "ratio": round(build.cpu_s / floor_s, 3),
        "floor_ms_per_tile": round(1000 * floor_s / len(pictures), 1),
        "peak_uss_mib": build.peak_uss_mib,
    }
    print(json.dumps(facts), flush=True)
    return facts


def write_surface(path: Path, side: int, seed: int = 1, *, row: int = 0, column: int = 0) -> None:
    """Write a fractal surface of `side` x `side` pixels of 8 m in UTM, heights 0..2500 m.

    `row` and `column` say how many sides south and east of the first one it lies.
    """
    noise = np.random.default_rng(seed).standard_normal((side, side), dtype=np.float32)
    spectrum = np.fft.rfft2(noise)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    heights = np.fft.irfft2(spectrum * frequency**-2.1, s=(side, side))
    heights = (heights - heights.min()) * (2500 / np.ptp(heights))
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=1, dtype="float32", crs="EPSG:32633",
        transform=from_origin(450000 + 8 * side * column, 5300000 - 8 * side * row, 8, 8), nodata=-9999,
        tiled=True, blockxsize=512, blockysize=512, compress="deflate", predictor=3,
    ) as dataset:  # fmt: skip
        dataset.write(heights.astype(np.float32), 1)


def _pictures(archive: Path) -> list[Image.Image]:
    with MBTilesReader(archive) as reader:
        return [
            Image.fromarray(decode_webp(reader.read(Tile(z, x, y)) or b""))
            for z in reader.counts()
            for x, y in reader.coordinates(z).tolist()
        ]


if __name__ == "__main__":
    main()

"""CPU and bytes of fusi's WebP encoder against libwebp, on the same tiles in turn in one run.

The corpus is made here (terrain of many zooms, lidar, coasts with sea and with
missing pixels, islands, flat tiles, tiles of 256 px and of odd sizes, lineage, and
pictures that are no terrain), and has a digest; `--archive` adds tiles of archives,
a class for each, and `--arrays` arrays from .npy files. Every file is decoded and compared. CPU is
that of the encoding thread; the least of `--rounds` counts, as others on the
machine can only add. Figures go to `results/encoder.json` too.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from encoder_scaling import scaling
from encoder_split import split
from harness import report
from PIL import Image

from fusi_pipeline.tiles import native, terrarium
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import WEBP_METHOD, WEBP_QUALITY, decode_image, encode_webp
from fusi_pipeline.tiles.open import open_archive

Pixels = npt.NDArray[np.uint8]
_SIDE = 512
_FLOOR = f"libwebp-{WEBP_METHOD}-{WEBP_QUALITY}"


@dataclass
class Figures:
    """Sums over the tiles of a class for one encoder."""

    tiles: int = 0
    size: int = 0
    cpu_s: float = 0.0
    worst: float = 0.0
    sizes: list[int] = field(default_factory=list)


def main() -> None:
    """Print one JSON line for each class and encoder, then the sums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", action="store_true", help="also libwebp's methods 0 to 6")
    parser.add_argument("--archive", type=Path, action="append", default=[], help="every --stride-th tile")
    parser.add_argument("--arrays", type=Path, help="folder of .npy files, uint8 (rows, cols, 3 or 4)")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    native.warm_up()
    tiles = list(corpus(options.seed))
    tiles += [
        (f"real {path.parent.parent.name} {path.stem}", pixels)
        for path in options.archive
        for pixels in _stored(path, options.stride)
    ]
    if options.arrays:
        tiles += [
            ("arrays", np.load(path)) for path in sorted(options.arrays.glob("*.npy"))[:: options.stride]
        ]
    digest = hashlib.sha256()
    for _, pixels in tiles:
        digest.update(repr(pixels.shape).encode() + pixels.tobytes())
    named = {"tiles": len(tiles), "seed": options.seed, "corpus_sha256": digest.hexdigest()}
    print(json.dumps(named), flush=True)
    measured = measure(tiles, encoders(options.methods), options.rounds)
    rows = [
        row
        for kind in [*dict.fromkeys(kind for kind, _ in tiles), "real", "terrain", "all"]
        for name in measured
        for row in _rows(kind, name, measured)
    ]
    terrain = [pixels for kind, pixels in tiles if kind.startswith("terrain")]
    kernels_ms = {
        "terrain": split(terrain, options.rounds),
        "all": split([pixels for kind, pixels in tiles if kind != "no terrain"], options.rounds),
    }
    threads = scaling(terrain, options.rounds + 4)
    facts = {"floor": _FLOOR, "classes": rows, "kernels_ms": kernels_ms, "threads": threads}
    report("encoder", {**named, **facts})


def encoders(methods: bool) -> dict[str, Callable[[Pixels], bytes]]:
    """Return what is compared, by name; the floor first."""
    found: dict[str, Callable[[Pixels], bytes]] = {
        _FLOOR: lambda pixels: encode_webp(pixels, "libwebp"),
        "fusi": lambda pixels: encode_webp(pixels, "fusi"),
        "fusi-fast": lambda pixels: encode_webp(pixels, "fusi-fast"),
    }
    for method in range(7) if methods else ():
        found[f"libwebp-{method}-75"] = lambda pixels, method=method: _by_libwebp(pixels, method, 75)  # type: ignore[misc]
    return found


def _by_libwebp(pixels: Pixels, method: int, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=method, quality=quality, exact=True)
    return buffer.getvalue()


def measure(
    tiles: list[tuple[str, Pixels]], compared: dict[str, Callable[[Pixels], bytes]], rounds: int
) -> dict[str, dict[str, Figures]]:
    """Return figures by encoder and class; each tile goes through all encoders before the next one."""
    measured: dict[str, dict[str, Figures]] = {name: {} for name in compared}
    for number, (kind, pixels) in enumerate(tiles):
        best = dict.fromkeys(compared, float("inf"))
        size = {}
        for _ in range(rounds):
            for name, encode in compared.items():
                started = time.thread_time()
                data = encode(pixels)
                best[name] = min(best[name], time.thread_time() - started)
                size[name] = len(data)
                _assert_kept(name, pixels, data)
        for name in compared:
            for one in {kind, "all", *_sums(kind)}:
                figures = measured[name].setdefault(one, Figures())
                figures.tiles += 1
                figures.size += size[name]
                figures.cpu_s += best[name]
                figures.worst = max(figures.worst, size[name] / size[_FLOOR])
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{len(tiles)}", end="", file=sys.stderr)
    return measured


def _assert_kept(name: str, pixels: Pixels, data: bytes) -> None:
    decoded = decode_image(data)
    same = np.array_equal(decoded, pixels[..., : decoded.shape[2]])
    if not same or (decoded.shape != pixels.shape and not (pixels[..., 3] == 255).all()):
        raise SystemExit(f"{name}: pixels are not those that were encoded")


def _sums(kind: str) -> tuple[str, ...]:
    """Return the sums that a class belongs to, besides that of all."""
    if kind == "no terrain":
        return ()
    return ("terrain", "real") if kind.startswith("real ") else ("terrain",)


def _rows(kind: str, name: str, measured: dict[str, dict[str, Figures]]) -> Iterator[dict[str, object]]:
    """Yield the figures of an encoder in a class, and print them, where there are any."""
    own, floor = measured[name].get(kind), measured[_FLOOR].get(kind)
    if own is None or floor is None:
        return
    facts = {
        "class": kind,
        "encoder": name,
        "tiles": own.tiles,
        "kB": round(own.size / own.tiles / 1000, 1),
        "cpu_ms": round(1000 * own.cpu_s / own.tiles, 2),
        "size": round(own.size / floor.size, 4),
        "worst": round(own.worst, 3),
        "times_less_cpu": round(floor.cpu_s / own.cpu_s, 2),
    }
    print(json.dumps(facts), flush=True)
    yield facts


def corpus(seed: int) -> Iterator[tuple[str, Pixels]]:
    """Yield (class, pixels) of tiles, most of 512 px."""
    random = np.random.default_rng(seed)
    for z in (6, 8, *range(9, 19)):
        for slope in (1.9, 2.1, 2.4):
            relief_m = min(4000.0, 40075016 / 2**z * 0.12)
            heights = surface(seed * 1000 + z * 10 + round(slope * 10), slope) * relief_m + 100
            yield f"terrain z{z}", _encoded(heights, z)
    for z in (16, 17, 18):
        noise = random.normal(0, 0.05, (_SIDE, _SIDE))
        yield "lidar", _encoded(surface(seed + z, 2.3) * 20 + noise, z)
    for z in (9, 11, 13, 15):
        heights = surface(seed + 5 * z, 2.1) * 800 - 300
        yield "sea", _encoded(np.maximum(heights, 0), z)
        yield "missing", _encoded(np.where(heights < 0, np.nan, heights), z)
    step = np.indices((_SIDE, _SIDE)).sum(axis=0) % 2
    yield "checker", _encoded(step * 200 + random.normal(0, 3, (_SIDE, _SIDE)), 12)
    yield "flat", _encoded(np.zeros((_SIDE, _SIDE)), 10)
    yield "flat", _encoded(np.full((_SIDE, _SIDE), 1234.5), 13)
    for side, z in ((30, 3), (60, 6), (120, 9), (45, 13)):
        heights = np.full((_SIDE, _SIDE), np.nan)
        heights[100 : 100 + side, 200 : 200 + side] = surface(seed + 3 * z, 2.0)[:side, :side] * 600
        yield "island", _encoded(heights, z)
    for z in (8, 12, 16):
        heights = surface(seed + 11 * z, 2.1) * min(4000.0, 40075016 / 2**z * 0.12)
        yield "256 px", _encoded(heights[:256, :256], z)
        for rows, cols in ((1, 512), (512, 1), (17, 33), (255, 509), (100, 300)):
            yield "odd sizes", _encoded(heights[:rows, :cols], z)
    yield from (("lineage", pixels) for pixels in lineages(seed))
    channels = [surface(seed + one, 1.6) * 0.4 + surface(seed + 9, 1.7) * 0.6 for one in range(3)]
    yield "no terrain", (np.stack(channels, axis=-1) * 255).astype(np.uint8)
    yield "no terrain", random.integers(0, 256, (_SIDE, _SIDE, 3)).astype(np.uint8)


def lineages(seed: int) -> Iterable[Pixels]:
    """Yield tiles that name sources: one, three and twelve with sharp edges, two with a blended edge."""
    one = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    one[..., 0] = 3
    heights = surface(seed + 77, 2.3)
    three = np.zeros_like(one)
    three[..., 0] = 1 + (heights > 0.4) + (heights > 0.6)
    twelve = np.zeros_like(one)
    for number in range(12):
        part = surface(seed + 200 + number, 2.6)
        twelve[part > 0.62, 0] = number + 1
    share = np.clip((heights - 0.45) * 10, 0, 1)
    blended = np.zeros_like(one)
    blended[..., 0] = np.where(share < 1, 1, 2)
    blended[..., 1] = np.where((share > 0) & (share < 1), 2, 0)
    blended[..., 2] = np.where((share > 0) & (share < 1), np.maximum(np.rint(share * 255), 1), 0)
    return one, three, twelve, blended


def surface(seed: int, slope: float) -> npt.NDArray[np.float64]:
    """Return a fractal surface of 512 px, heights in 0..1."""
    noise = np.random.default_rng(seed).standard_normal((_SIDE, _SIDE))
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    frequency[0, 0] = np.inf
    heights = np.fft.irfft2(np.fft.rfft2(noise) * frequency**-slope, s=(_SIDE, _SIDE))
    return (heights - heights.min()) / np.ptp(heights)


def _encoded(heights: npt.NDArray[np.float64], z: int) -> Pixels:
    pixels = terrarium.encode(heights.astype(np.float32), z)
    if pixels is None:
        raise SystemExit("a tile of the corpus has no height")
    return pixels


def _stored(path: Path, stride: int) -> Iterator[Pixels]:
    with open_archive(path) as reader:
        places = [Tile(z, x, y) for z in reader.counts() for x, y in reader.coordinates(z).tolist()]
        for tile in places[::stride]:
            yield decode_image(reader.read(tile) or b"")


if __name__ == "__main__":
    main()

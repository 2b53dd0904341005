"""The WebP encoder of terrain against libwebp's decoder, on pictures drawn by chance, for as long as asked.

    python -m tests.fuzz_vp8l --seconds 3600 --seed 7
    python -m tests.fuzz_vp8l --seed 7 --case 12345

encodes each picture with both settings, has Pillow and imagecodecs decode the files, and compares
every pixel. The second form makes one picture of the first again. It ends with 1 where pixels differ.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from fusi_pipeline.tiles import vp8l, webp
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import decode_image
from fusi_pipeline.tiles.open import open_archive
from tests.hostile_pictures import Pixels, picture

_INTERVAL_S = 10.0
_MOST_REAL = 400
"""Real tiles that are held at a time."""


@dataclass(slots=True)
class Run:
    """What a run has done so far."""

    seed: int
    pictures: int = 0
    files: int = 0
    pixels: int = 0
    refused: int = 0
    """Pictures that the encoder would leave to libwebp; it is made to encode them all the same."""
    kinds: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def line(self, word: str) -> str:
        """Return the state as one line."""
        seconds = time.monotonic() - self.began
        return (
            f"{word}: seed {self.seed}, {seconds:.0f} s, {self.pictures} pictures, {self.files} files,"
            f" {self.pixels / 1e6:.0f} Mpx, {self.pictures / max(seconds, 1e-9):.1f} pictures/s,"
            f" {len(self.kinds)} kinds, {self.refused} no terrain"
        )


def faults(pixels: Pixels) -> Iterator[str]:
    """Yield what is wrong with the files of a picture, one line each."""
    for effort in vp8l.EFFORTS:
        data = vp8l.encode(pixels, effort, any_picture=True)
        try:
            said = webp.facts(data)
        except webp.WebPInvalid as error:
            yield f"{effort}: the file {error}"
            continue
        if (said.chunks, said.height, said.width) != (("VP8L",), *pixels.shape[:2]):
            yield f"{effort}: the file says {said}"
        for name, decoded in (("Pillow", _by_pillow(data)), ("imagecodecs", _by_imagecodecs(data))):
            if isinstance(decoded, str):
                yield f"{effort}: {name} does not decode it ({decoded})"
            elif not same(pixels, decoded):
                yield f"{effort}: {name} decodes other pixels"
        if vp8l.encode(pixels, effort, any_picture=True) != data:
            yield f"{effort}: other bytes at the second time"


def same(pixels: Pixels, decoded: Pixels) -> bool:
    """Tell whether a picture came back; alpha may be missing where it is 255 everywhere."""
    if decoded.shape[2] < pixels.shape[2]:
        return bool((pixels[..., 3] == 255).all()) and np.array_equal(pixels[..., :3], decoded)
    return np.array_equal(pixels, decoded)


def _by_pillow(data: bytes) -> Pixels | str:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            return np.asarray(image)
    except (OSError, ValueError) as error:
        return str(error)


def _by_imagecodecs(data: bytes) -> Pixels | str:
    try:
        return np.asarray(imagecodecs.webp_decode(data))
    except (imagecodecs.WebpError, ValueError) as error:
        return str(error)


def tried(run: Run, number: int, real: list[Pixels]) -> list[str]:
    """Encode and decode one picture; return what is wrong with it."""
    name, pixels = picture(run.seed, number, real)
    run.refused += not vp8l.is_terrain(pixels)
    found = [
        f"{name}, {pixels.shape[1]} x {pixels.shape[0]} x {pixels.shape[2]}, {fault}"
        for fault in faults(pixels)
    ]
    run.pictures += 1
    run.files += len(vp8l.EFFORTS)
    run.pixels += pixels.shape[0] * pixels.shape[1]
    run.kinds[name] += 1
    return found


def real_tiles(archives: list[Path]) -> list[Pixels]:
    """Return tiles of archives, spread over all their zooms."""
    found: list[Pixels] = []
    for path in archives:
        with open_archive(path) as reader:
            places = [Tile(z, x, y) for z in reader.counts() for x, y in reader.coordinates(z).tolist()]
            stride = -(-len(places) * len(archives) // _MOST_REAL)
            found += [decode_image(reader.read(tile) or b"") for tile in places[::stride]]
    return found


def say(line: str) -> None:
    """Print a line at once, also into a file."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run for as long as asked; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="only this picture of the seed")
    parser.add_argument(
        "--archive", type=Path, action="append", default=[], help="tiles to change; repeatable"
    )
    options = parser.parse_args()
    real = real_tiles(options.archive)
    run = Run(options.seed)
    number = options.case or 0
    mismatches, said = 0, time.monotonic()
    while options.case is not None or time.monotonic() - run.began < options.seconds:
        for fault in tried(run, number, real):
            mismatches += 1
            again = "".join(f" --archive {path}" for path in options.archive)
            say(f"MISMATCH: --seed {run.seed} --case {number}{again}: {fault}")
        number += 1
        if options.case is not None:
            break
        if time.monotonic() - said >= _INTERVAL_S:
            said = time.monotonic()
            say(run.line("so far"))
    say(run.line("no mismatch" if not mismatches else f"{mismatches} mismatches"))
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())

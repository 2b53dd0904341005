"""`fusi pack` against a copy of the same bytes, and against `pmtiles convert` where that is installed.

The tiles are those of a surface, repeated under other places with a few bytes
changed, so that none is stored twice. Each round packs, copies the packed file
to the disk, and packs by the command, in turn; what is read is in the cache, what
is written is on the disk at the end. The ratio is to the fastest copy of all rounds:
systems short of free pages take several times as long for some.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from harness import drop, place, report

from fusi_pipeline.pack import Packer, cli_path, pack
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.files import sync
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.ledger import BlockRecord, digests_of
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter

_BATCH = 256


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=60_000, help="mean size of a tile")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with place() as folder:
        source = folder / "source.mbtiles"
        write_archive(source, options.tiles, options.bytes)
        rounds = [_round(source, folder) for _ in range(options.rounds)]
        size = source.stat().st_size
    facts: dict[str, object] = {"tiles": options.tiles, "mbtiles_bytes": size}
    for name in rounds[0]:
        facts[f"{name}_s"] = [round(one[name], 2) for one in rounds]
    fastest = min(one["copy"] for one in rounds)
    facts["ratio"] = round(statistics.median(one["pack"] for one in rounds) / fastest, 2)
    if "cli" in rounds[0]:
        facts["cli_ratio"] = round(statistics.median(one["cli"] / one["pack"] for one in rounds), 2)
    report("packing", facts)


def write_archive(path: Path, tiles: int, mean_bytes: int, *, seed: int = 1) -> None:
    """Write an MBTiles of so many tiles of the highest zoom that holds them, all different, row by row."""
    z = int(np.ceil(np.log2(tiles) / 2))
    with MBTilesWriter(path) as writer:
        for batch in _batches(z, tiles, mean_bytes, np.random.default_rng(seed)):
            digests = digests_of(batch)
            size = sum(len(data) for _, data in batch)
            writer.commit(
                BlockRecord(batch[0][0], digests[:16].hex(), len(batch), size, None, None, digests), batch
            )
        writer.finish(
            ArchiveMetadata(
                name="benchmark", minzoom=z, maxzoom=z, bounds=Bounds(-180, -85, 180, 85), encoding=""
            )
        )


def _batches(
    z: int, tiles: int, mean_bytes: int, random: np.random.Generator
) -> Iterator[list[tuple[Tile, bytes]]]:
    stock = random.bytes(4 * mean_bytes + 64)
    side = 1 << z
    for start in range(0, tiles, _BATCH):
        count = min(_BATCH, tiles - start)
        sizes = random.integers(mean_bytes // 2, mean_bytes * 3 // 2 + 1, count)
        places = random.integers(0, 2 * mean_bytes, count)
        yield [
            (
                Tile(z, number % side, number // side),
                number.to_bytes(8, "little") + stock[at : at + max(size - 8, 1)],
            )
            for number, at, size in zip(
                range(start, start + count), places.tolist(), sizes.tolist(), strict=True
            )
        ]


def _round(source: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of each way."""
    packed, copied = folder / "packed.pmtiles", folder / "copied.pmtiles"

    def copy() -> None:
        shutil.copyfile(packed, copied)
        sync(copied)

    took = {"pack": _seconds(lambda: packing(source, packed, "builtin"))}
    _cache(packed)
    took["copy"] = _seconds(copy)
    if cli_path() is not None:
        took["cli"] = _seconds(lambda: packing(source, folder / "cli.pmtiles", "cli"))
    for name in ("packed", "copied", "cli"):
        drop(folder / f"{name}.pmtiles")
    return took


def _cache(path: Path) -> None:
    """Read a file to its end, so that it is in the cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def packing(source: Path, output: Path, packer: Packer) -> None:
    """Pack an archive."""
    with MBTilesReader(source) as reader:
        for _ in pack(reader, output, packer=packer, overwrite=True):
            pass


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

"""A million small tiles through MBTiles, pack and verify: time, memory, and what each tile takes.

The ratio is the CPU for a tile of the converter of the `pmtiles` package, on the
same tiles in the same run, by that of `fusi pack`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness import drop, fusi, place, report
from packing import write_archive
from pmtiles.convert import mbtiles_to_pmtiles

from fusi_pipeline.integrity import check_seal
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from fusi_pipeline.tiles.structure import problems


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=400, help="mean size of a tile")
    options = parser.parse_args()
    with place() as folder:
        source, packed = folder / "source.mbtiles", folder / "packed.pmtiles"
        started = time.monotonic()
        write_archive(source, options.tiles, options.bytes)
        written_s = time.monotonic() - started
        package_s = _by_package(source, folder / "part.pmtiles") / options.tiles
        pack = fusi("pack", source, packed)
        shown = fusi("show", packed)
        check = _checked(packed)
        size = packed.stat().st_size
    facts = {
        "tiles": options.tiles,
        "bytes": size,
        "mbtiles_s": round(written_s, 1),
        "pack_s": pack.seconds,
        "show_s": shown.seconds,
        "verify_s": round(check, 1),
        "pack_us_per_tile": round(1e6 * pack.cpu_s / options.tiles, 1),
        "package_us_per_tile": round(1e6 * package_s, 1),
        "pack_peak_uss_mib": pack.peak_uss_mib,
    }
    report("million", {**facts, "ratio": round(package_s * options.tiles / pack.cpu_s, 1)})


def _by_package(source: Path, packed: Path) -> float:
    """Return the CPU seconds that the `pmtiles` package takes to pack an archive."""
    started = time.process_time()
    mbtiles_to_pmtiles(str(source), str(packed), None)
    taken = time.process_time() - started
    drop(packed)
    return taken


def _checked(packed: Path) -> float:
    """Return the seconds of checking the structure of an archive and the digests of all its bytes."""
    started = time.monotonic()
    found = problems(packed)
    with PMTilesReader(packed) as reader:
        for moment in check_seal(reader):
            assert moment.total
    if found:
        raise SystemExit(f"{packed} is not sound: {found}")
    return time.monotonic() - started


if __name__ == "__main__":
    main()

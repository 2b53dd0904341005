"""A million small tiles through MBTiles, pack and verify: time, memory, and what each tile takes.

The ratio is the packing by a copy of the same bytes to the disk.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from harness import fusi, place, report
from packing import write_archive

from fusi_pipeline.integrity import check_seal
from fusi_pipeline.tiles.files import sync
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
        pack = fusi("pack", source, packed)
        started = time.monotonic()
        shutil.copyfile(packed, folder / "copied.pmtiles")
        sync(folder / "copied.pmtiles")
        copy_s = time.monotonic() - started
        shown = fusi("show", packed)
        check = _checked(packed)
        size = packed.stat().st_size
    facts = {
        "tiles": options.tiles,
        "bytes": size,
        "mbtiles_s": round(written_s, 1),
        "pack_s": pack.seconds,
        "copy_s": round(copy_s, 2),
        "show_s": shown.seconds,
        "verify_s": round(check, 1),
        "pack_us_per_tile": round(1e6 * pack.cpu_s / options.tiles, 1),
        "pack_peak_uss_mib": pack.peak_uss_mib,
    }
    report("million", {**facts, "ratio": round(pack.seconds / max(copy_s, 0.01), 1)})


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

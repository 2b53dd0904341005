"""Several archives -> one PMTiles, and its lineage: merged cell by cell, then packed in one pass.

Every tile has a key, a hash of all that decides about it. What a tile came to
is kept by its key: in a work file while the merge runs, so that an interrupted
one goes on, and in a ledger beside the archive, so that the next merge makes
only the tiles again whose contributors changed. The bytes are those of a merge
from nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

from fusi_pipeline import lineage
from fusi_pipeline.contributions import indexed
from fusi_pipeline.disk_space import scratch_space
from fusi_pipeline.errors import FusiError, OutputExists, UsageError
from fusi_pipeline.feather import reach_px
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.merge import MODES
from fusi_pipeline.merge_ledger import is_ledger, ledger_path, work_path
from fusi_pipeline.merge_report import MergeReport
from fusi_pipeline.merge_request import MergeRequest, MergeRule
from fusi_pipeline.merge_run import MergeRun
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.terrain_input import Cache, TerrainInput
from fusi_pipeline.tiles.archive import GENERATOR
from fusi_pipeline.tiles.files import writable_folder
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive

__all__ = ["MergeReport", "check_output", "merge_archives"]

_MOST_REACH_PX = 4096


def merge_archives(
    inputs: Sequence[Path | InputOptions],
    output: Path,
    settings: Settings,
    *,
    mode: str = "priority",
    feather_m: float = 0.0,
    lineage_output: Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    keep_ledger: bool = True,
) -> Generator[Progress, None, MergeReport]:
    """Merge archives, the one with precedence first, into one PMTiles, yielding progress.

    `feather_m` is the width in metres over which `feather` blends. Raises
    ArchiveUnsuitable for an input that holds no heights this can read,
    TileCorrupt for a tile that does not decode, OutputExists, DiskFull.
    """
    started = time.monotonic()
    if not inputs:
        raise UsageError("nothing to merge: name at least one archive")
    given = [one if isinstance(one, InputOptions) else InputOptions(path=one) for one in inputs]
    check_output(output, [one.path for one in given], overwrite)
    _check_lineage_output(lineage_output, output, given, overwrite)
    with ExitStack() as stack:
        cache = Cache()
        opened_inputs = [
            stack.enter_context(TerrainInput(options, number, cache)) for number, options in enumerate(given)
        ]
        _check_rule(opened_inputs, mode, feather_m)
        _check_lineages(opened_inputs, output, lineage_output)
        rule = MergeRule(mode, feather_m, lineage_output, name or output.stem)
        request = MergeRequest(opened_inputs, output, settings.encoder, rule)
        run = MergeRun(request, settings)
        indexes = []
        if not run.is_asked_again():
            for one in opened_inputs:
                indexes.append((yield from indexed(one)))
            run.take(indexes)
        if not indexes or run.is_current():
            run.forget_unfinished()
            return run.report(time.monotonic() - started, changed=False)
        for path in request.outputs:
            writable_folder(path.parent)
        stack.enter_context(scratch_space(settings))
        yield from run.go(keep_ledger)
    return run.report(time.monotonic() - started, changed=True)


def check_output(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Raise UsageError or OutputExists where a PMTiles archive must not be written to `output`."""
    if output.suffix != ".pmtiles" or output.is_dir():
        raise UsageError(f"{output}: the output is a PMTiles file; give a name that ends in .pmtiles")
    _check_free(output, inputs, overwrite)


def _check_lineage_output(
    path: Path | None, output: Path, inputs: Sequence[InputOptions], overwrite: bool
) -> None:
    if path is None:
        return
    if path.suffix not in (".pmtiles", ".mbtiles") or path.is_dir():
        raise UsageError(f"{path}: the lineage is an archive; give a name that ends in .pmtiles or .mbtiles")
    if path.resolve() == output.resolve():
        raise UsageError(f"{path}: is the output itself; choose another name for the lineage")
    if len(inputs) > lineage.MOST_SOURCES:
        raise UsageError(
            f"{len(inputs)} archives: a lineage can name {lineage.MOST_SOURCES}; merge without --lineage"
        )
    _check_free(path, [one.path for one in inputs], overwrite)
    if not overwrite and _terrain_of(path) not in (None, output.name):
        raise OutputExists(path, f"is the lineage of {_terrain_of(path)}")


def _terrain_of(path: Path) -> str | None:
    """Return the name of the archive that a lineage is of, None where the file is no lineage."""
    try:
        with open_archive(path) as reader:
            stated = reader.metadata.extra.get("terrain")
    except FusiError:
        return None
    return stated if isinstance(stated, str) else None


def _check_lineages(inputs: Sequence[TerrainInput], output: Path, lineage_output: Path | None) -> None:
    """Raise UsageError where an output is the lineage that an input is read with."""
    for one in inputs:
        for path in (output, lineage_output):
            if (
                path is not None
                and one.lineage_path is not None
                and path.resolve() == one.lineage_path.resolve()
            ):
                raise UsageError(f"{path}: is the lineage of {one.path}, an input; choose another name")


def _check_free(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    if any(path.exists() and output.exists() and path.samefile(output) for path in inputs):
        raise UsageError(f"{output}: is also an input; choose another name for the output")
    if output.exists() and not overwrite and not _is_ours(output):
        raise OutputExists(output)
    for beside in (ledger_path(output), work_path(output)):
        if beside.exists() and not is_ledger(beside):
            raise OutputExists(beside, "is in the way: a merge keeps its ledger there")


def _is_ours(path: Path) -> bool:
    try:
        with open_archive(path) as reader:
            return reader.metadata.extra.get("generator") == GENERATOR
    except FusiError:
        return False


def _check_rule(inputs: Sequence[TerrainInput], mode: str, feather_m: float) -> None:
    """Raise UsageError for a rule that says nothing or cannot be kept."""
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    if mode != "feather":
        if feather_m:
            raise UsageError(f"--feather-m goes with --mode feather, not with --mode {mode}")
        return
    if not (feather_m > 0 and math.isfinite(feather_m)):
        raise UsageError("--mode feather needs the width of the band: --feather-m METRES")
    z = max(one.maxzoom for one in inputs)
    reach = max(reach_px(tile, feather_m) for one in inputs for tile in _ends(one, z))
    if reach > _MOST_REACH_PX:
        raise UsageError(
            f"--feather-m {feather_m:g}: is {reach} pixels at zoom {z}; it may be {_MOST_REACH_PX}"
        )


def _ends(one: TerrainInput, z: int) -> tuple[Tile, Tile]:
    """Return tiles of a zoom in the northernmost and in the southernmost row that an input reaches."""
    levels, (first, last) = z - one.maxzoom, one.rows
    return Tile(z, 0, first << levels), Tile(z, 0, ((last + 1) << levels) - 1)

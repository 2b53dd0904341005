"""What each source of the terrain covers: polygons for a map, areas by zoom for the page.

An asset of its own, since it reads every tile of the lineage: it is made when asked
for, and then again with each refresh.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from pydantic import Field

from fusi_pipeline import lineage_files
from fusi_pipeline.coverage import CELL_LEVELS, MOST_CELL_LEVELS, coverage
from fusi_pipeline.defs.facts import CONFIG_KEY
from fusi_pipeline.defs.history import latest
from fusi_pipeline.defs.merged_facts import coverage_metadata
from fusi_pipeline.defs.progress import failures, followed
from fusi_pipeline.defs.sources import GROUP, POOL
from fusi_pipeline.defs.terrain import LINEAGE, terrain_path
from fusi_pipeline.defs.versions import coverage_version
from fusi_pipeline.errors import FusiError, LineageMissing, UsageError
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.grid import TILE_SIZE_PX

COVERAGE = dg.AssetKey("terrain_coverage")
FORMATS = {"geojson": ".geojson", "geoparquet": ".parquet"}
"""Endings of the files."""
_STEM = "terrain_coverage"
_VERSION = "1"


class CoverageConfig(dg.Config):
    """How finely coverage is written."""

    format: str = Field(default="geojson", description=f"One of {', '.join(FORMATS)}.")
    zooms: list[int] = Field(default=[], description="Only these zooms; all where none is named.")
    cells: int = Field(
        default=CELL_LEVELS,
        description=f"Zooms from a tile up to its cell, 0 to {MOST_CELL_LEVELS}: a cell is 2^N tiles wide.",
    )
    detail_px: int = Field(
        default=1, description=f"Finest step of the polygons in pixels, a power of two up to {TILE_SIZE_PX}."
    )


@dg.asset(
    key=COVERAGE,
    deps=[LINEAGE],
    group_name=GROUP,
    kinds={"geojson"},
    pool=POOL,
    code_version=_VERSION,
)
def terrain_coverage(
    context: dg.AssetExecutionContext, config: CoverageConfig, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.MaterializeResult[None]]:
    """Write what each source covers beside the terrain: a polygon for each source, zoom and cell.

    For a GIS; the areas by zoom are told here too. Every tile of `terrain_lineage_pmtiles` is read.
    """
    started = time.monotonic()
    with failures():
        output = coverage_path(settings, config)
        version = coverage_version(_lineage(settings), *_rule(config))
        work = coverage(
            terrain_path(settings),
            output,
            zooms=config.zooms,
            cell_levels=config.cells,
            detail_px=config.detail_px,
        )
        report = followed(work, context.log.info, settings.progress_interval_s)
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata=coverage_metadata(report, time.monotonic() - started, config.model_dump()),
    )


def coverage_path(settings: Settings, config: CoverageConfig) -> Path:
    """Return where coverage is written. Raises UsageError for a configuration that says nothing."""
    if config.format not in FORMATS:
        raise UsageError(f"format {config.format!r}: expected one of {', '.join(FORMATS)}")
    if not 0 <= config.cells <= MOST_CELL_LEVELS:
        raise UsageError(f"cells {config.cells}: expected 0 to {MOST_CELL_LEVELS}")
    if not (0 < config.detail_px <= TILE_SIZE_PX and config.detail_px.bit_count() == 1):
        raise UsageError(f"detail_px {config.detail_px}: expected a power of two up to {TILE_SIZE_PX}")
    return settings.output_dir / f"{_STEM}{FORMATS[config.format]}"


def chosen_coverage(instance: dg.DagsterInstance) -> CoverageConfig | None:
    """Return how coverage was last written; None where it never was."""
    last = latest(instance, COVERAGE)
    stated = None if last is None else last.metadata.get(CONFIG_KEY)
    return CoverageConfig(**stated) if isinstance(stated, dict) else None


def is_covered(instance: dg.DagsterInstance, settings: Settings) -> bool:
    """Tell whether the coverage that was last asked for is there and is that of the terrain as it is."""
    last, config = latest(instance, COVERAGE), chosen_coverage(instance)
    if last is None or config is None:
        return False
    try:
        if not coverage_path(settings, config).exists():
            return False
        return last.data_version == coverage_version(_lineage(settings), *_rule(config))
    except FusiError:
        return False


def _lineage(settings: Settings) -> Path:
    """Return the lineage of the terrain. Raises UsageError where there is none, and ArchiveMissing."""
    try:
        return lineage_files.lineage_path(terrain_path(settings))
    except LineageMissing as error:
        raise UsageError(
            f"{terrain_path(settings)}: no lineage of this merge is beside it; "
            f"materialize {LINEAGE.to_user_string()} first"
        ) from error


def _rule(config: CoverageConfig) -> tuple[object, ...]:
    return _VERSION, config.format, sorted(config.zooms), config.cells, config.detail_px

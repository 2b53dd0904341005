"""The deep check of the terrain, a step of its own: it can be run again alone, and holds nothing back."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from fusi_pipeline.deep import ZoomFigures
from fusi_pipeline.defs.facts import Metadata
from fusi_pipeline.defs.progress import failures, followed
from fusi_pipeline.defs.sources import POOL
from fusi_pipeline.defs.tables import listed, percent, table
from fusi_pipeline.defs.terrain import TERRAIN, terrain_path
from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, TileCorrupt
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.verify import VerifyReport, verify_deep

DEEP = "deep"
DEEP_SAMPLE = 1000
"""Tiles that are looked at unless asked otherwise, each with some eight around it."""


class DeepConfig(dg.Config):
    """How much of the archive is looked at."""

    sample: int = Field(
        default=DEEP_SAMPLE,
        ge=0,
        description="Tiles to check, spread over the archive, with what lies around them; "
        "0 for every tile and the digests of all, as is done where the archive has no more.",
    )


@dg.asset_check(
    asset=TERRAIN,
    name=DEEP,
    description="Parents are the mean of their children, tiles meet their neighbours, heights are possible, "
    "and the lineage fits. Checked on a sample; `sample: 0` in the configuration of a run is all of it.",
    pool=POOL,
)
def deep(
    context: dg.AssetCheckExecutionContext, config: DeepConfig, settings: dg.ResourceParam[Settings]
) -> dg.AssetCheckResult:
    """Check the terrain against its lineage and against itself."""
    path = terrain_path(settings)
    with failures():
        try:
            work = verify_deep(path, settings, sample=_sample(path, config.sample))
            return deep_result(followed(work, context.log.info, settings.progress_interval_s))
        except (ArchiveMissing, ArchiveUnreadable, TileCorrupt) as error:
            return dg.AssetCheckResult(passed=False, description=str(error))


def _sample(path: Path, wanted: int) -> int:
    """Return how many tiles to check; 0, for all and their digests, where there are no more than wanted."""
    with open_archive(path) as reader:
        return wanted if wanted < sum(reader.counts().values()) else 0


def deep_result(report: VerifyReport) -> dg.AssetCheckResult:
    """Return what a deep check found: problems are errors, suspects alone a warning."""
    only_suspects = bool(report.suspects) and not report.problems
    return dg.AssetCheckResult(
        passed=not report.problems and not report.suspects,
        severity=dg.AssetCheckSeverity.WARN if only_suspects else dg.AssetCheckSeverity.ERROR,
        description=_verdict(report),
        metadata={
            **listed("problems", report.problems),
            **listed("suspects", report.suspects),
            **listed("what to do", [*report.advice, *_remedy(report)]),
            **_figures(report),
        },
    )


def _verdict(report: VerifyReport) -> str:
    looked = f"{report.decoded} of {report.tiles} tiles looked at"
    for lines, noun in ((report.problems, "problem"), (report.suspects, "suspect")):
        if lines:
            count = f"{len(lines)} {noun}{'s' if len(lines) > 1 else ''}"
            return f"{report.path.stem}: {count} ({looked}): {lines[0]}"
    return f"{report.path.stem}: nothing wrong, {looked}"


def _remedy(report: VerifyReport) -> list[str]:
    """Return what makes the archive again where something is wrong; a merge with nothing new keeps it."""
    if not report.problems:
        return []
    return [f"here: remove {report.path.absolute()} and materialize {TERRAIN.to_user_string()} again"]


def _figures(report: VerifyReport) -> Metadata:
    """Return the figures: those of all zooms as numbers, those of each in a table."""
    facts = report.deep
    assert facts is not None, "a deep check tells them"
    compared = sum(one.compared for one in facts.zooms)
    within = sum(round(one.within * one.compared) for one in facts.zooms if one.within is not None)
    metadata: Metadata = {
        "by zoom": _zoom_table(facts.zooms),
        "number of problems": len(report.problems),
        "number of suspects": len(report.suspects),
        "tiles": report.tiles,
        "tiles looked at": report.decoded,
        "pixels compared": compared,
        "largest difference (m)": round(max((one.largest_m for one in facts.zooms), default=0.0), 6),
        "digests": facts.seal,
        "lineage": dg.MetadataValue.path(facts.lineage.absolute()) if facts.lineage else "-",
    }
    if compared:
        metadata["parents within the bound (%)"] = round(100 * within / compared, 6)
    if drifts := [one.drift_m for one in facts.zooms if one.drift_m is not None]:
        drift_m = max(drifts, key=abs)
        metadata["largest drift (m)"] = round(drift_m, 6)
    if ratios := [one.ratio for one in facts.zooms if one.ratio is not None]:
        metadata["largest seam ratio"] = round(max(ratios), 4)
    return metadata


def _zoom_table(zooms: Sequence[ZoomFigures]) -> dg.MarkdownMetadataValue:
    header = ("zoom ", "tiles ", "in bound ", "bound m ", "largest m ", "drift m ", "seam ratio ")
    rows = [
        (one.zoom, one.tiles, "-" if one.within is None else percent(one.within), _number(one.bound_m),
         _number(one.largest_m if one.compared else None), _number(one.drift_m), _number(one.ratio))
        for one in zooms
    ]  # fmt: skip
    return table(header, rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"

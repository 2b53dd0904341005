"""What the pages of all assets show: figures, a picture, and whether the asset is sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg

from fusi_pipeline.build import BuildReport
from fusi_pipeline.console import size
from fusi_pipeline.defs.picture import pictures
from fusi_pipeline.defs.tables import listed, table
from fusi_pipeline.defs.versions import index_version
from fusi_pipeline.footprint import width_m
from fusi_pipeline.sources import SourceIndex
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, geographic
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.verify import VerifyReport

SAMPLE = 500
"""Tiles that an asset decodes when it verifies its archive."""
CONFIG_KEY = "config"
"""Under which a merge tells how it was asked for."""

Metadata: TypeAlias = dict[str, Any]
"""What dagster takes as metadata: plain values and its own `MetadataValue`s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What the index of a source says."""

    path: Path
    version: str
    files: int
    bytes: int
    """Size of the usable files."""
    bounds: Bounds
    maxzoom: int
    pixel_m: float
    """Mean width of a pixel of the files, in EPSG:3857 metres."""
    broken: tuple[tuple[str, str], ...]
    """(filename, problem) of the files left out."""
    warnings: tuple[tuple[str, str], ...]
    """(filename, text)."""


def index_facts(path: Path) -> IndexFacts:
    """Return what an index says, read through once. Raises SourceIndexInvalid."""
    with SourceIndex(path) as index:
        files = count = columns = 0
        metres = 0.0
        warnings: list[tuple[str, str]] = []
        for file in index.files():
            files += 1
            count += file.size_bytes
            columns += file.width
            metres += width_m(file.box)
            warnings += [(file.filename, text) for text in file.warnings]
        return IndexFacts(
            path=path,
            version=index_version(index.config_digest, index.files()),
            files=files,
            bytes=count,
            bounds=geographic(index.bounds()),
            maxzoom=index.maxzoom(),
            pixel_m=metres / max(columns, 1),
            broken=tuple(index.broken()),
            warnings=tuple(warnings),
        )


def index_metadata(facts: IndexFacts, seconds: float) -> Metadata:
    """Return the figures of an index."""
    return {
        "files": facts.files,
        "size": size(facts.bytes),
        "max zoom": facts.maxzoom,
        "bounds": _box(facts.bounds),
        "pixel (EPSG:3857 m)": round(facts.pixel_m, 2),
        "seconds": round(seconds, 1),
        "bytes": facts.bytes,
        "path": dg.MetadataValue.path(facts.path.absolute()),
    }


def files_check(facts: IndexFacts) -> dg.AssetCheckResult:
    """Return whether every file of a source is used and nothing about one is odd."""
    concerns = [*facts.broken, *facts.warnings]
    return dg.AssetCheckResult(
        check_name="source_index_files",
        passed=not concerns,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{facts.path.name.partition('.')[0]}: {facts.files} files used, "
        f"{len(facts.broken)} left out, {len(facts.warnings)} warnings",
        metadata={
            "files used": facts.files,
            "files left out": len(facts.broken),
            "warnings": len(facts.warnings),
            **listed("concerns", [f"{filename}: {text}" for filename, text in concerns]),
        },
    )


def build_metadata(report: BuildReport) -> Metadata:
    """Return the figures of the archive of a source, and what of it this run made."""
    return {
        **archive_metadata(report.path, report.metadata, report.seconds),
        "blocks built": report.built,
        "blocks reused": report.reused,
        "blocks resumed": report.resumed,
        "blocks removed": report.removed,
        "tiles built": report.tiles_built,
        "tiles reused": report.tiles_reused,
        "tiles removed": report.tiles_removed,
    }


def sound_check(
    check_name: str, report: VerifyReport, asset: dg.AssetKey | None = None
) -> dg.AssetCheckResult:
    """Return whether an archive was found sound, with the figures; `asset` where a step makes several."""
    heights = "" if report.minimum_m is None else f", {report.minimum_m:g} .. {report.maximum_m:g} m"
    verdict = "sound" if report.sound else f"{len(report.problems)} problems"
    metadata: Metadata = {"tiles": report.tiles, "tiles decoded": report.decoded}
    if report.format == "pmtiles":
        metadata["pmtiles command"] = report.second_opinion
    if report.minimum_m is not None and report.maximum_m is not None:
        metadata |= {"lowest (m)": report.minimum_m, "highest (m)": report.maximum_m}
    return dg.AssetCheckResult(
        check_name=check_name,
        asset_key=asset,
        passed=report.sound,
        description=f"{report.path.stem}: {verdict}, {report.tiles} tiles{heights}",
        metadata={
            **metadata,
            **listed("problems", report.problems),
        },
    )


def unsound(report: VerifyReport) -> dg.Failure:
    """Return the failure of an asset whose archive was found not to be sound."""
    count = len(report.problems)
    more = f" and {count - 1} more" if count > 1 else ""
    return dg.Failure(
        f"{report.path}: not sound: {report.problems[0]}{more}; remove the file and materialize it again",
        metadata={
            "tiles": report.tiles,
            "tiles decoded": report.decoded,
            **listed("problems", report.problems),
        },
    )


def archive_metadata(path: Path, archive: ArchiveMetadata, seconds: float) -> Metadata:
    """Return the figures of an archive, and pictures of it."""
    with open_archive(path) as reader:
        counts = reader.counts()
    return {
        **pictures(path),
        "tiles": sum(counts.values()),
        "size": size(path.stat().st_size),
        "zooms": f"{archive.minzoom} .. {archive.maxzoom}",
        "tiles by zoom": table(("zoom ", "tiles "), sorted(counts.items())),
        "bounds": _box(archive.bounds),
        "seconds": round(seconds, 1),
        "bytes": path.stat().st_size,
        "path": dg.MetadataValue.path(path.absolute()),
    }


def _box(box: Bounds) -> str:
    return f"{box.west:.5f}, {box.south:.5f}, {box.east:.5f}, {box.north:.5f}"

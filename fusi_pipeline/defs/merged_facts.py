"""What the pages of the merged terrain, its lineage and its coverage show: who has which pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from fusi_pipeline import lineage
from fusi_pipeline.console import size
from fusi_pipeline.coverage import CoverageReport, SourceCoverage
from fusi_pipeline.defs.facts import CONFIG_KEY, Metadata, archive_metadata
from fusi_pipeline.defs.tables import cell, listed, percent, swatch, table, together
from fusi_pipeline.publish import MergeReport
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.open import open_archive


@dataclass(frozen=True, slots=True)
class _Source:
    """What a merged archive says of one source."""

    index: int
    name: str
    attribution: str
    license: str
    zooms: str
    resolution: str
    pixels: int
    share: float
    """Of all pixels in which a source has a say."""


def merge_metadata(report: MergeReport, names: list[str], config: Mapping[str, Any]) -> Metadata:
    """Return the figures of a merged archive, and what it was merged from and how."""
    return {
        "sources": _sources_table(report.metadata),
        **archive_metadata(report.path, report.metadata, report.seconds),
        "attribution": report.metadata.attribution or "-",
        **_changes(report),
        "priority": ", ".join(names),
        CONFIG_KEY: dg.MetadataValue.json(dict(config)),
    }


def lineage_metadata(report: MergeReport) -> Metadata:
    """Return the figures of the lineage of a merge, and its legend."""
    assert report.lineage is not None, "asked for only where there is one"
    with open_archive(report.lineage) as reader:
        metadata = reader.metadata
    return {
        "legend": _legend_table(metadata, {one.index: one for one in _sources(report.metadata)}),
        **archive_metadata(report.lineage, metadata, report.seconds),
        "attribution": metadata.attribution or "-",
        **_changes(report),
        "terrain": dg.MetadataValue.path(report.path.absolute()),
    }


def coverage_metadata(report: CoverageReport, seconds: float, config: Mapping[str, Any]) -> Metadata:
    """Return what each source covers, zoom by zoom, and where that is written in detail."""
    assert report.output is not None, "an asset writes a file"
    written = report.output.stat().st_size
    return {
        "area by zoom": _area_table(report.coverage),
        "features": report.features,
        "cells": report.cells,
        "size": size(written),
        "seconds": round(seconds, 1),
        "bytes": written,
        "path": dg.MetadataValue.path(report.output.absolute()),
        "lineage": dg.MetadataValue.path(report.lineage.absolute()),
        CONFIG_KEY: dg.MetadataValue.json(dict(config)),
    }


def _changes(report: MergeReport) -> Metadata:
    """Return what this run did to the archives."""
    return {
        "changed": dg.MetadataValue.bool(report.changed),
        "tiles merged": report.merged,
        "tiles copied": report.copied,
        "tiles reused": report.reused,
        "tiles removed": report.removed,
        **listed("warnings", report.warnings),
    }


def _sources(metadata: ArchiveMetadata) -> list[_Source]:
    """Return what a merged archive says of its sources, in order of precedence."""
    stated = metadata.extra.get("sources")
    found = [one for one in stated if isinstance(one, Mapping)] if isinstance(stated, list) else []
    total = sum(int(one.get("pixels", 0)) for one in found)
    return [_source(one, total) for one in found]


def _source(one: Mapping[str, Any], total: int) -> _Source:
    pixels, resolution_m = int(one.get("pixels", 0)), one.get("resolution_m")
    return _Source(
        index=int(one.get("index", 0)),
        name=str(one.get("name", "")),
        attribution=str(one.get("attribution", "")),
        license=str(one.get("license", "")),
        zooms=f"{one.get('minzoom', '?')}..{one.get('maxzoom', '?')}",
        resolution=together(f"{resolution_m:.4g} m") if isinstance(resolution_m, int | float) else "-",
        pixels=pixels,
        share=pixels / total if total else 0.0,
    )


def _sources_table(metadata: ArchiveMetadata) -> dg.MarkdownMetadataValue:
    header = ("index ", "source", "pixels ", "share ", "zooms ", "resolution ", "attribution (licence)")
    rows = [
        (one.index, cell(one.name), one.pixels, percent(one.share), one.zooms, one.resolution,
         cell(f"{one.attribution} ({one.license})" if one.license else one.attribution))
        for one in _sources(metadata)
    ]  # fmt: skip
    return table(header, rows)


def _legend_table(metadata: ArchiveMetadata, sources: Mapping[int, _Source]) -> dg.MarkdownMetadataValue:
    header = ("index ", "colour", "source", "pixels ", "attribution", "licence")
    rows = [
        (one.index, swatch(one.color), cell(one.name),
         sources[one.index].pixels if one.index in sources else "-", cell(one.attribution), cell(one.license))
        for one in lineage.legend(metadata)
    ]  # fmt: skip
    return table(header, rows)


def _area_table(lines: tuple[SourceCoverage, ...]) -> dg.MarkdownMetadataValue:
    """Return the area of each source at each zoom, and its share of what any source covers there."""
    names = {one.index: one.source for one in sorted(lines, key=lambda one: one.index)}
    by_place = {(one.zoom, one.index): one for one in lines}

    def cells(zoom: int) -> Iterator[object]:
        yield zoom
        for index in names:
            one = by_place.get((zoom, index))
            yield "-" if one is None else together(f"{one.area_km2:,.6g} km² ({percent(one.share)})")

    zooms = sorted({one.zoom for one in lines})
    return table(("zoom ", *(f"{cell(name)} " for name in names.values())), [(*cells(z),) for z in zooms])

"""Rasters to archives: scan, plan, build, aggregate, convert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fusi_pipeline import aggregate as flow
from fusi_pipeline import options
from fusi_pipeline.build import BuildReport
from fusi_pipeline.commands.merging import print_merge
from fusi_pipeline.console import duration, print_json, print_table, run, size
from fusi_pipeline.cost import Estimate, GroupEstimate
from fusi_pipeline.groups import GroupRule
from fusi_pipeline.options import MergeRule, Monitoring, options_from
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Bounds


@click.command()
@options.names
@options.places
@options.processes
@options.skip_broken
@options.monitoring
@options.as_json
@options.settled
@options.monitored
def scan(
    names: tuple[str, ...], monitoring: Monitoring, settings: Settings, skip_broken: bool, as_json: bool
) -> None:
    """Check every file of sources and write their indexes and bounds.csv."""
    reports = []
    for name in names:
        work = flow.index_source(name, settings, skip_broken=skip_broken, always=True)
        report = run(work, settings.progress_interval_s, monitoring.of(settings.output_dir, settings))
        assert report is not None, "a scan was asked for in any case"
        reports.append(report)
    if as_json:
        print_json(reports)
        return
    for report in reports:
        for filename, text in report.broken:
            click.echo(f"{report.name}: left out {filename}: {text}")
        for filename, text in report.warnings:
            click.echo(f"{report.name}: {filename}: {text}")
    rows = [
        (one.name, one.files, len(one.broken), one.reused, one.maxzoom, f"{one.valid_share:.1%}",
         grid.geographic(one.bounds))
        for one in reports
    ]  # fmt: skip
    print_table(
        ("source", "files", "broken", "unchanged", "max zoom", "valid", "west,south,east,north"), rows
    )


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@options.places
@options.processes
@options.area
@options.skip_broken
@click.option(
    "--split",
    is_flag=False,
    flag_value="balanced",
    metavar="[PATTERN]",
    help="Also what each group will take (balanced; see `fusi build`).",
)
@options.group_blocks
@options.as_json
@options.settled
@options.split_before_names
@options.grouping
def plan(
    names: tuple[str, ...],
    groups: GroupRule | None,
    settings: Settings,
    min_zoom: int | None,
    max_zoom: int | None,
    bbox: Bounds | None,
    skip_broken: bool,
    as_json: bool,
) -> None:
    """Say what building sources will take, before anything is built."""
    area = options_from(min_zoom, max_zoom, bbox)
    estimates: list[Estimate] = []
    for name in names:
        first = 1 + sum(len(one.groups) for one in estimates)
        work = flow.estimate_source(name, settings, area, groups, skip_broken=skip_broken, first_group=first)
        estimates.append(run(work, settings.progress_interval_s))
    if as_json:
        print_json(estimates)
        return
    rows = [
        (one.source, one.files, one.blocks, f"{one.minzoom}..{one.maxzoom}", one.tiles, size(one.bytes),
         f"{one.memory_mib} MiB", size(one.scratch_bytes), one.workers, duration(one.seconds))
        for one in estimates
    ]  # fmt: skip
    header = ("source", "files", "blocks", "zooms", "tiles", "size", "memory", "scratch", "workers", "time")
    print_table(header, rows)
    if groups is not None:
        click.echo()
        _print_groups([group for one in estimates for group in one.groups])


@click.command()
@options.names
@options.places
@options.reading
@options.area
@options.groups
@options.skip_broken
@options.overwrite
@options.monitoring
@options.as_json
@options.settled
@options.grouping
@options.monitored
def build(
    names: tuple[str, ...],
    groups: GroupRule | None,
    monitoring: Monitoring,
    settings: Settings,
    min_zoom: int | None,
    max_zoom: int | None,
    bbox: Bounds | None,
    skip_broken: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make the MBTiles of sources, one after another."""
    area = options_from(min_zoom, max_zoom, bbox)
    work = flow.build_sources(
        names, settings, area, groups, skip_broken=skip_broken, overwrite=overwrite, anew=overwrite
    )
    reports = run(work, settings.progress_interval_s, monitoring.of(settings.output_dir, settings))
    print_json(reports) if as_json else _print_builds(reports)


@click.command()
@options.names
@click.option("-o", "--output", required=True, type=options.PATH, help="The PMTiles to write.")
@options.merge_rule
@click.option(
    "--keep-intermediates/--no-keep-intermediates",
    default=True,
    show_default=True,
    help="Keep the MBTiles of the sources, so that the next run redoes only what changed.",
)
@options.places
@options.reading
@options.area
@options.groups
@options.skip_broken
@options.packer
@options.overwrite
@options.monitoring
@options.as_json
@options.settled
@options.ruled
@options.grouping
@options.monitored
def aggregate(
    names: tuple[str, ...],
    output: Path,
    rule: MergeRule,
    groups: GroupRule | None,
    keep_intermediates: bool,
    monitoring: Monitoring,
    settings: Settings,
    min_zoom: int | None,
    max_zoom: int | None,
    bbox: Bounds | None,
    skip_broken: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Scan where stale, build each source, merge all into one PMTiles."""
    work = flow.aggregate(
        names,
        output,
        settings,
        options_from(min_zoom, max_zoom, bbox),
        groups,
        mode=rule.mode,
        feather_m=rule.feather_m,
        lineage_output=rule.lineage,
        keep_intermediates=keep_intermediates,
        skip_broken=skip_broken,
        overwrite=overwrite,
    )
    report = run(work, settings.progress_interval_s, monitoring.of(settings.output_dir, settings))
    if as_json:
        print_json(report)
        return
    _print_builds(report.builds)
    print_merge(report.merge)


@click.command()
@click.argument("raster", type=options.PATH)
@click.argument("output", type=options.PATH)
@options.reading
@options.area
@options.packer
@options.overwrite
@options.monitoring
@options.as_json
@options.settled
@options.monitored
def convert(
    raster: Path,
    output: Path,
    monitoring: Monitoring,
    settings: Settings,
    min_zoom: int | None,
    max_zoom: int | None,
    bbox: Bounds | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a PMTiles of one raster file."""
    area = options_from(min_zoom, max_zoom, bbox)
    work = flow.convert(raster, output, settings, area, overwrite=overwrite)
    report = run(work, settings.progress_interval_s, monitoring.of(output.absolute().parent, settings))
    print_json(report) if as_json else print_merge(report.merge)


def _print_groups(groups: Sequence[GroupEstimate]) -> None:
    rows = [
        (one.number, one.source, f"{one.minzoom}..{one.maxzoom}", one.blocks, one.tiles, size(one.bytes),
         f"{one.memory_mib} MiB", duration(one.seconds))
        for one in groups
    ]  # fmt: skip
    print_table(("group", "source", "zooms", "blocks", "tiles", "size", "memory", "time"), rows)


def _print_builds(reports: Sequence[BuildReport]) -> None:
    rows = [
        (one.name, one.path, f"{one.metadata.minzoom}..{one.metadata.maxzoom}", one.tiles, size(one.bytes),
         one.built, one.reused, one.resumed, one.removed, one.tiles_built, size(one.bytes_built),
         duration(one.seconds))
        for one in reports
    ]  # fmt: skip
    header = ("source", "archive", "zooms", "tiles", "size", "blocks built", "reused", "resumed", "removed",
              "tiles built", "size built", "time")  # fmt: skip
    print_table(header, rows)

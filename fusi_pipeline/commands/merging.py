"""Archives to one archive: merge, pack."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from fusi_pipeline import options
from fusi_pipeline.console import duration, print_json, run, size
from fusi_pipeline.disk_space import when_there_is_room
from fusi_pipeline.input_options import inputs_from
from fusi_pipeline.options import MergeRule, Monitoring
from fusi_pipeline.publish import MergeReport, merge_archives
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.open import open_archive


@click.command()
@click.argument("archives", nargs=-1, type=options.PATH, metavar="[ARCHIVE]...")
@click.option("-o", "--output", required=True, type=options.PATH, help="The PMTiles to write.")
@click.option(
    "--inputs", "listing", type=options.PATH, help="TOML file that lists archives, or tells of them."
)
@options.merge_rule
@options.processes
@options.watchdog
@options.encoder
@options.packer
@options.overwrite
@options.monitoring
@options.as_json
@options.settled
@options.ruled
@options.monitored
def merge(
    archives: tuple[Path, ...],
    output: Path,
    listing: Path | None,
    rule: MergeRule,
    monitoring: Monitoring,
    settings: Settings,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Merge archives pixel by pixel into one PMTiles, the first with precedence."""
    settings = settings.with_options(scratch=settings.scratch or output.parent / "tmp")
    merge = partial(
        merge_archives,
        inputs_from(archives, listing),
        output,
        settings,
        mode=rule.mode,
        feather_m=rule.feather_m,
        lineage_output=rule.lineage,
        overwrite=overwrite,
    )
    report = run(
        when_there_is_room(merge, output, settings),
        settings.progress_interval_s,
        monitoring.of(output.absolute().parent, settings),
    )
    print_json(report) if as_json else print_merge(report)


@click.command()
@click.argument("archive", type=options.PATH)
@click.argument("output", type=options.PATH)
@options.packer
@options.progress
@options.overwrite
@options.as_json
@options.settled
def pack(archive: Path, output: Path, settings: Settings, overwrite: bool, as_json: bool) -> None:
    """Pack the tiles of an MBTiles into a PMTiles as they are."""
    from fusi_pipeline.pack import pack as packing

    settings = settings.with_options(scratch=settings.scratch or output.absolute().parent)
    with open_archive(archive) as reader:
        work = packing(
            reader,
            output,
            packer=settings.packer,  # type: ignore[arg-type]
            overwrite=overwrite,
            environment=settings.process_environment(),
        )
        report = run(work, settings.progress_interval_s)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{output}: {report.tiles} tiles, {size(report.bytes)}")


def print_merge(report: MergeReport) -> None:
    """Print what a merge did, in one line."""
    parts = [f"{report.merged} merged", f"{report.copied} copied"]
    parts += [f"{report.reused} reused"] if report.reused else []
    parts += [f"{report.removed} removed"] if report.removed else []
    done = ", ".join(parts) if report.changed else "unchanged"
    zooms = f"{report.metadata.minzoom}..{report.metadata.maxzoom}"
    click.echo(
        f"{report.path}: {report.tiles} tiles of zooms {zooms} ({done}), "
        f"{size(report.bytes)}, {duration(report.seconds)}"
    )
    for warning in report.warnings:
        click.echo(f"note: {warning}")

"""The `fusi` command: a table of commands, each of which parses, calls and reports.

Other packages add commands by an entry point in the group `fusi.commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from pathlib import Path

import click

from fusi_pipeline import aggregate as flow
from fusi_pipeline import console, options
from fusi_pipeline.build import BuildReport
from fusi_pipeline.console import duration, print_facts, print_json, print_table, run, size
from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.options import options_from
from fusi_pipeline.publish import MergeReport, merge_archives
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.open import open_archive

_COMMAND_GROUP = "fusi.commands"


def main() -> None:
    """Run the command line; end with 0, 1 for a failure, 2 for a wrong command, 130 when interrupted."""
    _add_commands()
    console.main(cli)


def _add_commands() -> None:
    """Add the commands of other packages; one that does not load is left out with a line about it."""
    for entry in entry_points(group=_COMMAND_GROUP):
        try:
            cli.add_command(entry.load())
        except Exception as error:  # noqa: BLE001 - whatever another package does wrong
            click.echo(f"fusi: command {entry.name!r} of {entry.value} does not load: {error}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("fusi"), prog_name="fusi")
def cli() -> None:
    """Elevation rasters to one terrain archive for maps.

    A source is a folder of rasters in the source store; every command that needs
    a source scans it first where that was not done since it changed.
    """


@cli.command()
@options.names
@options.places
@options.processes
@options.skip_broken
@options.as_json
@options.settled
def scan(names: tuple[str, ...], settings: Settings, skip_broken: bool, as_json: bool) -> None:
    """Check every file of sources and write their indexes and bounds.csv."""
    reports = []
    for name in names:
        work = flow.index_source(name, settings, skip_broken=skip_broken, always=True)
        report = run(work, settings.progress_interval_s)
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


@cli.command()
@options.names
@options.places
@options.processes
@options.area
@options.skip_broken
@options.as_json
@options.settled
def plan(
    names: tuple[str, ...],
    settings: Settings,
    min_zoom: int | None,
    max_zoom: int | None,
    bbox: Bounds | None,
    skip_broken: bool,
    as_json: bool,
) -> None:
    """Say what building sources will take, before anything is built."""
    area = options_from(min_zoom, max_zoom, bbox)
    estimates = [
        run(flow.estimate_source(name, settings, area, skip_broken=skip_broken), settings.progress_interval_s)
        for name in names
    ]
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


@cli.command()
@options.names
@options.places
@options.reading
@options.area
@options.skip_broken
@options.overwrite
@options.as_json
@options.settled
def build(
    names: tuple[str, ...],
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
    reports = []
    for name in names:
        work = flow.build_source(
            name, settings, area, skip_broken=skip_broken, overwrite=overwrite, anew=overwrite
        )
        reports.append(run(work, settings.progress_interval_s))
    print_json(reports) if as_json else _print_builds(reports)


@cli.command()
@click.argument("archives", nargs=-1, required=True, type=options.PATH, metavar="ARCHIVE...")
@click.option("-o", "--output", required=True, type=options.PATH, help="The PMTiles to write.")
@options.merge_mode
@options.processes
@options.overwrite
@options.as_json
@options.settled
def merge(
    archives: tuple[Path, ...],
    output: Path,
    mode: str,
    settings: Settings,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Merge archives pixel by pixel into one PMTiles, the first with precedence."""
    settings = settings.with_options(scratch=settings.scratch or output.parent / "tmp")
    work = merge_archives(archives, output, settings, mode=mode, overwrite=overwrite)
    report = run(work, settings.progress_interval_s)
    print_json(report) if as_json else _print_merge(report)


@cli.command()
@options.names
@click.option("-o", "--output", required=True, type=options.PATH, help="The PMTiles to write.")
@options.merge_mode
@click.option(
    "--keep-intermediates/--no-keep-intermediates",
    default=True,
    show_default=True,
    help="Keep the MBTiles of the sources, so that the next run redoes only what changed.",
)
@options.places
@options.reading
@options.area
@options.skip_broken
@options.overwrite
@options.as_json
@options.settled
def aggregate(
    names: tuple[str, ...],
    output: Path,
    mode: str,
    keep_intermediates: bool,
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
        mode=mode,
        keep_intermediates=keep_intermediates,
        skip_broken=skip_broken,
        overwrite=overwrite,
    )
    report = run(work, settings.progress_interval_s)
    if as_json:
        print_json(report)
        return
    _print_builds(report.builds)
    _print_merge(report.merge)


@cli.command()
@click.argument("raster", type=options.PATH)
@click.argument("output", type=options.PATH)
@options.reading
@options.area
@options.overwrite
@options.as_json
@options.settled
def convert(
    raster: Path,
    output: Path,
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
    report = run(work, settings.progress_interval_s)
    print_json(report) if as_json else _print_merge(report.merge)


@cli.command()
@click.argument("archive", type=options.PATH)
@click.argument("output", type=options.PATH)
@click.option(
    "--packer",
    type=click.Choice(("builtin", "cli")),
    default="builtin",
    show_default=True,
    help="fusi's own, or the pmtiles command.",
)
@options.progress
@options.overwrite
@options.as_json
@options.settled
def pack(
    archive: Path, output: Path, packer: str, settings: Settings, overwrite: bool, as_json: bool
) -> None:
    """Pack the tiles of an MBTiles into a PMTiles as they are."""
    from fusi_pipeline.pack import pack as packing

    settings = settings.with_options(scratch=settings.scratch or output.absolute().parent)
    with open_archive(archive) as reader:
        work = packing(
            reader,
            output,
            packer=packer,  # type: ignore[arg-type]
            overwrite=overwrite,
            environment=settings.process_environment(),
        )
        report = run(work, settings.progress_interval_s)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{output}: {report.tiles} tiles, {size(report.bytes)}")


@cli.command()
@click.argument("archive", type=options.PATH)
@options.as_json
def show(archive: Path, as_json: bool) -> None:
    """Show what an archive says of itself, and its tiles by zoom."""
    with open_archive(archive) as reader:
        metadata, counts = reader.metadata, reader.counts()
    facts: dict[str, object] = {
        "path": archive,
        "bytes": archive.stat().st_size,
        "tiles": sum(counts.values()),
        "tiles_by_zoom": counts,
        "metadata": metadata,
    }
    if as_json:
        print_json(facts)
        return
    lon, lat, zoom = metadata.center
    print_facts(
        [
            ("archive", archive),
            ("size", size(archive.stat().st_size)),
            ("name", metadata.name),
            ("description", metadata.description or "-"),
            ("attribution", metadata.attribution or "-"),
            ("encoding", f"{metadata.encoding or '-'}, {metadata.format}, {metadata.tile_size} px"),
            ("bounds", metadata.bounds),
            ("center", f"{lon:.6g},{lat:.6g} at zoom {zoom}"),
            ("zooms", f"{metadata.minzoom}..{metadata.maxzoom}"),
            *((key, console.plain(value)) for key, value in metadata.extra.items()),
        ]
    )
    print_table(("zoom", "tiles"), list(counts.items()))


@cli.command()
@click.argument("archive", type=options.PATH)
@click.argument("z", type=int)
@click.argument("x", type=int)
@click.argument("y", type=int)
@click.option("-o", "--output", type=options.PATH, help="Write the tile's bytes to this file.")
@click.option("--elevation", type=options.Position(), help="Print the height at this position of the tile.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@options.as_json
def tile(
    archive: Path,
    z: int,
    x: int,
    y: int,
    output: Path | None,
    elevation: tuple[float, float] | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print a tile's bytes (to a file or pipe), what it holds (to a terminal), or a height in it."""
    from fusi_pipeline import tile_facts

    if not (0 <= z <= grid.MAX_ZOOM and 0 <= x < 1 << z and 0 <= y < 1 << z):
        raise UsageError(
            f"tile {z}/{x}/{y}: not on the grid, whose columns and rows at zoom z are 0..2^z - 1"
        )
    wanted = Tile(z, x, y)
    with open_archive(archive) as reader:
        data = reader.read(wanted)
        if data is None:
            raise ArchiveUnsuitable(archive, f"has no tile {wanted}; `fusi show` lists its zooms and bounds")
        if elevation is not None:
            height = tile_facts.height_at(reader, wanted, *elevation)
            print_json({"elevation_m": height}) if as_json else click.echo(tile_facts.said(height))
            return
        if output is not None:
            tile_facts.write(data, output, archive, overwrite=overwrite)
        elif as_json or sys.stdout.isatty():
            facts = tile_facts.facts(reader, wanted)
            print_json(facts) if as_json else print_facts(list(facts.items()))
        else:
            sys.stdout.buffer.write(data)


@cli.command()
@click.argument("archive", type=options.PATH)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Tiles to decode, spread over the archive; 0 for every one.",
)
@options.progress
@options.as_json
@options.settled
def verify(archive: Path, sample: int, settings: Settings, as_json: bool) -> None:
    """Check an archive: its structure from its bytes, and that its tiles are what they should be."""
    from fusi_pipeline.verify import verify as checking

    report = run(checking(archive, sample=sample), settings.progress_interval_s)
    if as_json:
        print_json(report)
    else:
        heights = "-" if report.minimum_m is None else f"{report.minimum_m:g} .. {report.maximum_m:g} m"
        print_facts(
            [
                ("archive", archive),
                ("tiles", f"{report.tiles}, {report.decoded} decoded"),
                ("heights", heights),
                ("pmtiles verify", report.second_opinion),
                ("verdict", "sound" if report.sound else f"{len(report.problems)} problems"),
            ]
        )
        for problem in report.problems:
            click.echo(f"  {problem}")
    if not report.sound:
        sys.exit(1)


@cli.command()
@click.argument("archive", type=options.PATH)
@click.argument("output", type=options.PATH)
@click.option("--max-px", type=click.IntRange(16, 8192), default=1600, show_default=True, help="Longer side.")
@options.overwrite
def preview(archive: Path, output: Path, max_px: int, overwrite: bool) -> None:
    """Draw a shaded picture (PNG) of an archive's heights."""
    from fusi_pipeline.preview import write_preview

    width, height = write_preview(archive, output, max_px=max_px, overwrite=overwrite)
    click.echo(f"{output}: {width} x {height} px")


def _print_builds(reports: Sequence[BuildReport]) -> None:
    rows = [
        (one.name, one.path, f"{one.metadata.minzoom}..{one.metadata.maxzoom}", one.tiles, size(one.bytes),
         one.built, one.reused, one.resumed, duration(one.seconds))
        for one in reports
    ]  # fmt: skip
    header = ("source", "archive", "zooms", "tiles", "size", "built", "reused", "resumed", "time")
    print_table(header, rows)


def _print_merge(report: MergeReport) -> None:
    done = f"{report.merged} merged, {report.copied} copied" if report.changed else "unchanged"
    zooms = f"{report.metadata.minzoom}..{report.metadata.maxzoom}"
    click.echo(
        f"{report.path}: {report.tiles} tiles of zooms {zooms} ({done}), "
        f"{size(report.bytes)}, {duration(report.seconds)}"
    )


if __name__ == "__main__":
    main()

"""What is in an archive: show, tile, verify, preview."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusi_pipeline import console, options
from fusi_pipeline.console import print_facts, print_json, print_table, run, size
from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.options import Monitoring
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive

if TYPE_CHECKING:
    from fusi_pipeline.deep import ZoomFigures
    from fusi_pipeline.verify import VerifyReport


@click.command()
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


@click.command()
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


@click.command()
@click.argument("archive", type=options.PATH)
@click.option("--deep", is_flag=True, help="Check every tile with its parent, neighbours and lineage.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    help="Tiles to look at, spread over the archive; 0 for every one (1000; with --deep 0).",
)
@click.option("--lineage", type=options.PATH, help="Lineage archive, where ARCHIVE does not name it.")
@options.processes
@options.monitoring
@options.as_json
@options.settled
@options.monitored
def verify(
    archive: Path,
    deep: bool,
    sample: int | None,
    lineage: Path | None,
    monitoring: Monitoring,
    settings: Settings,
    as_json: bool,
) -> None:
    """Check an archive: its structure from its bytes, and that its tiles are what they should be."""
    from fusi_pipeline import verify as verifying

    if lineage is not None and not deep:
        raise UsageError("--lineage is for a deep check; give --deep with it")
    if deep:
        work = verifying.verify_deep(archive, settings, sample=sample or 0, lineage=lineage)
    else:
        work = verifying.verify(archive, sample=1000 if sample is None else sample)
    report = run(
        work,
        settings.progress_interval_s,
        monitoring.of(archive.absolute().parent, settings, leaves_file=False),
    )
    if as_json:
        print_json(report)
    else:
        _print_verdict(report)
    if not report.sound:
        sys.exit(1)


def _print_verdict(report: VerifyReport) -> None:
    """Print what was checked, the figures by zoom, and what is wrong."""
    heights = "-" if report.minimum_m is None else f"{report.minimum_m:g} .. {report.maximum_m:g} m"
    count = len(report.problems)
    rows: list[tuple[str, object]] = [
        ("archive", report.path),
        ("holds", report.holds),
        ("tiles", f"{report.tiles}, {report.decoded} decoded"),
        *([] if report.holds == "pictures" else [("heights", heights)]),
        ("pmtiles verify", report.second_opinion),
    ]
    if report.deep is not None:
        rows += [("digests", report.deep.seal), ("lineage", report.deep.lineage or "-")]
    rows.append(("verdict", "sound" if report.sound else f"{count} problem{'s' if count > 1 else ''}"))
    print_facts(rows)
    if report.deep is not None and report.deep.zooms:
        print_table(
            (
                "zoom",
                "tiles",
                "step m",
                "bound m",
                "within",
                "by tile",
                "not compared",
                "largest m",
                "drift m",
                "across/inside",
            ),
            [_zoom_row(one) for one in report.deep.zooms],
        )
    for title, lines in (
        ("problems", report.problems),
        ("suspects, which may be right", report.suspects),
        ("what to do", report.advice),
    ):
        if lines:
            click.echo(f"{title}:")
            for line in lines:
                click.echo(f"  {line}")


def _zoom_row(one: ZoomFigures) -> tuple[object, ...]:
    """Return the figures of a zoom as a row of a table."""
    within = "-" if one.within is None else f"{one.within:.4%}"
    bound, drift, ratio = (
        "-" if value is None else f"{value:.4g}" for value in (one.bound_m, one.drift_m, one.ratio)
    )
    total = one.compared + one.judged + one.not_compared
    judged, left = (f"{part / total:.2%}" if total else "-" for part in (one.judged, one.not_compared))
    largest = f"{one.largest_m:.4g}"
    return one.zoom, one.tiles, f"{one.step_m:g}", bound, within, judged, left, largest, drift, ratio


@click.command()
@click.argument("archive", type=options.PATH)
@click.argument("output", type=options.PATH)
@click.option("--max-px", type=click.IntRange(16, 8192), default=1600, show_default=True, help="Longer side.")
@options.overwrite
def preview(archive: Path, output: Path, max_px: int, overwrite: bool) -> None:
    """Draw a shaded picture (PNG) of an archive's heights."""
    from fusi_pipeline.preview import write_preview

    width, height = write_preview(archive, output, max_px=max_px, overwrite=overwrite)
    click.echo(f"{output}: {width} x {height} px")

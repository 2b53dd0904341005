"""Where heights are from: at, coverage, inspect-fill."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusi_pipeline import options
from fusi_pipeline.console import print_facts, print_json, print_table, run
from fusi_pipeline.errors import UsageError
from fusi_pipeline.input_options import inputs_from
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import MAX_ZOOM, Tile

if TYPE_CHECKING:
    from fusi_pipeline.at import PlaceReport
    from fusi_pipeline.inspect_fill import Contribution, FillReport

_ZOOM = click.IntRange(0, MAX_ZOOM)


class _Placed(click.Command):
    """A command whose arguments may begin with a minus and a digit, as western longitudes do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep such words from being taken for options: a blank before a number changes nothing."""
        return super().parse_args(ctx, [f" {word}" if re.match(r"-[\d.]", word) else word for word in args])


class _TileName(click.ParamType[Tile]):
    """A tile of the grid, rows counted from the north."""

    name = "Z/X/Y"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Tile:
        """Return the tile, or fail with what is expected."""
        if isinstance(value, Tile):
            return value
        try:
            z, x, y = (int(part) for part in str(value).split("/"))
        except ValueError:
            self.fail(f"{value!r}: expected a tile as zoom/column/row, such as 12/2146/1434", param, ctx)
        if not (0 <= z <= MAX_ZOOM and 0 <= x < 1 << z and 0 <= y < 1 << z):
            self.fail(f"{value!r}: not on the grid, whose columns and rows are 0..2^zoom - 1", param, ctx)
        return Tile(z, x, y)


@click.command(cls=_Placed)
@click.argument("position", type=options.Position(), metavar="LON,LAT")
@click.argument("archives", nargs=-1, required=True, type=options.PATH, metavar="ARCHIVE...")
@click.option("--zoom", type=_ZOOM, help="Zoom to read (the deepest with a tile there).")
@click.option("--lineage", type=options.PATH, help="The lineage archive, where it is not beside the terrain.")
@options.as_json
def at(
    position: tuple[float, float],
    archives: tuple[Path, ...],
    zoom: int | None,
    lineage: Path | None,
    as_json: bool,
) -> None:
    """Say what archives hold at a place: height, source, resolution, zoom, vertical step.

    An ARCHIVE is a terrain archive or the lineage archive of one.
    """
    from fusi_pipeline.at import at as asking

    reports = asking(archives, *position, zoom, lineage)
    if as_json:
        print_json(reports)
        return
    for number, report in enumerate(reports):
        if number:
            click.echo()
        _print_place(report)


def _print_place(report: PlaceReport) -> None:
    from fusi_pipeline.tile_facts import said

    share = report.second_share or 0.0
    blended = f"{report.second_source}, {share:.1%}" if report.second_source else "-"
    resolution, own = report.resolution_m, report.source_resolution_m
    facts: list[tuple[str, object]] = [
        ("archive", report.archive),
        ("place", f"{report.lon:.10g},{report.lat:.10g}"),
        ("height", said(report.height_m)),
        ("source", report.source or "-"),
        ("second source", blended),
        ("resolution", "-" if resolution is None else f"{resolution:.4g} m"),
        ("source resolution", "-" if own is None else f"{own:.4g} m"),
        ("zoom", "-" if report.zoom is None else report.zoom),
        ("tile", report.tile or "-"),
        ("pixel", "-" if report.pixel is None else f"{report.pixel[0]},{report.pixel[1]}"),
        ("vertical step", "-" if report.vertical_step_m is None else f"{report.vertical_step_m:g} m"),
        ("vertical datum", report.vertical_datum),
        ("attribution", report.attribution),
        ("license", report.license),
        ("website", report.website),
        ("lineage", report.lineage or "-"),
        ("note", report.note),
    ]
    print_facts([(name, value) for name, value in facts if value != ""])


@click.command()
@click.argument("archive", type=options.PATH)
@click.option(
    "-o", "--output", type=options.PATH, help="A .geojson or .parquet file (GeoJSON on standard output)."
)
@click.option("--zoom", "zooms", type=_ZOOM, multiple=True, help="Only this zoom; may be repeated (all).")
@click.option(
    "--cells",
    type=click.IntRange(0, 4),
    default=3,
    show_default=True,
    help="Zooms from a tile up to its cell: a cell is 2^N tiles wide.",
)
@click.option(
    "--detail-px",
    type=click.Choice([str(1 << power) for power in range(10)]),
    default="1",
    show_default=True,
    help="Finest step of the polygons, in pixels of the zoom.",
)
@options.progress
@options.overwrite
@options.as_json
@options.settled
def coverage(
    archive: Path,
    output: Path | None,
    zooms: tuple[int, ...],
    cells: int,
    detail_px: str,
    settings: Settings,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write what each source covers by zoom and cell, as polygons.

    ARCHIVE is a lineage archive, or the terrain archive that was merged with it.
    """
    from fusi_pipeline.coverage import coverage as covering

    work = covering(
        archive,
        output or sys.stdout,
        zooms=zooms,
        cell_levels=cells,
        detail_px=int(detail_px),
        overwrite=overwrite,
    )
    report = run(work, settings.progress_interval_s)
    if output is None:
        return
    if as_json:
        print_json(report)
        return
    click.echo(f"{output}: {report.features} features of {report.cells} cells")
    print_table(
        ("zoom", "source", "pixels", "share", "blended", "km2"),
        [
            (one.zoom, one.source, one.pixels, f"{one.share:.1%}", one.blended_pixels, round(one.area_km2, 3))
            for one in report.coverage
        ],
    )


@click.command("inspect-fill")
@click.argument("tile", type=_TileName(), metavar="Z/X/Y")
@click.argument("merged", type=options.PATH)
@click.argument("archives", nargs=-1, type=options.PATH, metavar="INPUT...")
@click.option("--inputs", "listing", type=options.PATH, help="TOML file of inputs, as for a merge.")
@click.option("-o", "--output", type=options.PATH, help="Draw a sheet of pictures (PNG) to this file.")
@options.overwrite
@options.as_json
def inspect_fill(
    tile: Tile,
    merged: Path,
    archives: tuple[Path, ...],
    listing: Path | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Say what every source contributes to a tile, and how the merged tile differs from each.

    INPUTs are the archives that were merged, in their order.
    """
    if not archives and listing is None:
        raise UsageError("no inputs: name the archives that were merged, or a list of them with --inputs")
    from fusi_pipeline.inspect_fill import inspect_fill as inspecting
    from fusi_pipeline.preview import check_output, png

    inputs = inputs_from(archives, listing)
    if output is not None:
        check_output(output, (merged, *(one.path for one in inputs)), overwrite=overwrite)
    inspection = inspecting(tile, merged, inputs)
    if output is not None:
        from fusi_pipeline.fill_sheet import sheet

        data = png(sheet(inspection))
        with replacing(output) as scratch:
            scratch.write_bytes(data)
    if as_json:
        print_json(inspection.report)
    else:
        _print_fill(inspection.report, output)


def _print_fill(report: FillReport, output: Path | None) -> None:
    heights = "-" if report.mean_m is None else f"{report.minimum_m:g} .. {report.maximum_m:g} m"
    print_facts(
        [
            ("merged", report.merged),
            ("tile", report.tile),
            ("mode", report.merge_mode or "-"),
            ("winners", report.lineage or "found by comparing heights"),
            ("vertical step", f"{report.vertical_step_m:g} m"),
            ("valid", f"{report.valid_pixels} of {report.pixels} px"),
            ("heights", heights),
            ("unexplained", f"{report.unexplained_pixels} px"),
        ]
    )
    header = ("input", "zoom", "valid", "minimum", "mean", "maximum", "wins", "blended")
    print_table(header, [_contribution_row(one) for one in report.inputs])
    print_table(
        ("merged less input", "common", "unequal", "mean", "mean absolute", "largest", "at lon,lat"),
        [_difference_row(one) for one in report.inputs],
    )
    if output is not None:
        click.echo(f"{output}: a row for the merged tile and one for each input")


def _contribution_row(one: Contribution) -> tuple[object, ...]:
    heights = [
        "-" if value is None else f"{value:.7g} m" for value in (one.minimum_m, one.mean_m, one.maximum_m)
    ]
    zoom = "-" if one.zoom is None else one.zoom
    return one.name, zoom, one.valid_pixels, *heights, one.winning_pixels, one.second_pixels


def _difference_row(one: Contribution) -> tuple[object, ...]:
    told = one.difference
    if told is None:
        return one.name, 0, 0, "-", "-", "-", "-"
    return (
        one.name,
        told.common_pixels,
        told.unequal_pixels,
        f"{told.mean_m:+.4g} m",
        f"{told.mean_absolute_m:.4g} m",
        f"{told.largest_m:+.6g} m",
        f"{told.lon:.7f},{told.lat:.7f}",
    )

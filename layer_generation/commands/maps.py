"""Maps of quadrants: init, render, import, import-images, show."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from fusi_pipeline.errors import UsageError
from fusi_pipeline.tiles.grid import MAX_ZOOM, Bounds
from layer_generation.camera import IsometricCamera
from layer_generation.commands import parameters
from layer_generation.console import print_facts, print_json, print_table, run
from layer_generation.importing import ImportReport
from layer_generation.quadrants import KINDS, Kind

_SHOWN = 20
"""Pictures left out that are listed; --json has all."""


@click.group("map")
def maps() -> None:
    """Make a map of 512 px quadrants and fill it with pictures, for layers to be drawn over."""


_camera = parameters.stacked(
    click.option("--camera", is_flag=True, help="Make an isometric map instead, of these numbers:"),
    click.option("--seed-lat", type=float, help="Latitude of the bottom right corner of quadrant 0,0."),
    click.option("--seed-lon", type=float, help="Its longitude."),
    click.option("--azimuth", type=float, help="Direction that is up in the picture, in degrees (-15)."),
    click.option("--elevation", type=float, help="Angle of view; -90 is straight down (-45)."),
    click.option("--view-height", type=float, help="Metres from the bottom to the top of a view (300)."),
    click.option("--width-px", type=int, help="Pixels of a view's width (1024)."),
    click.option("--height-px", type=int, help="Pixels of a view's height (1024)."),
    click.option("--step", type=float, help="Part of a view from a quadrant to the next (0.5)."),
    click.option("--quadrants", type=parameters.QuadrantBox(), help="Quadrants of it, inclusive (none yet)."),
)
_CAMERA = {
    "seed_lat": "seed_lat",
    "seed_lon": "seed_lon",
    "azimuth": "azimuth_deg",
    "elevation": "elevation_deg",
    "view_height": "view_height_m",
    "width_px": "width_px",
    "height_px": "height_px",
    "step": "tile_step",
}


@maps.command()
@parameters.map_dir
@click.option("--terrain", type=parameters.PATH, help="Terrain archive, PMTiles or MBTiles.")
@click.option("--zoom", type=click.IntRange(0, MAX_ZOOM), help="Zoom of the map: a quadrant is a tile.")
@click.option("--bbox", type=parameters.BBox(), help="Box in degrees (that of the archive).")
@click.option("--all", "everywhere", is_flag=True, help="Take quadrants without heights too.")
@click.option("--extend", is_flag=True, help="Add quadrants to the map that is there.")
@_camera
@parameters.progress
@parameters.as_json
def init(
    map_dir: Path,
    terrain: Path | None,
    zoom: int | None,
    bbox: Bounds | None,
    everywhere: bool,
    extend: bool,
    camera: bool,
    quadrants: tuple[int, int, int, int] | None,
    interval_s: float,
    as_json: bool,
    **numbers: float | None,
) -> None:
    """Make a map over a terrain archive on the web-mercator grid, or one seen through an isometric camera."""
    from layer_generation.map_making import extend_map, make_isometric_map, make_map

    given = {_CAMERA[name]: value for name, value in numbers.items() if value is not None}
    if camera:
        if zoom is not None or bbox or everywhere or extend:
            raise UsageError("--zoom, --bbox, --all and --extend are of web-mercator maps, not of a --camera")
        if not {"seed_lat", "seed_lon"} <= set(given):
            raise UsageError("--camera needs its seed: --seed-lat LAT --seed-lon LON")
        report = make_isometric_map(map_dir, IsometricCamera(**given), quadrants, terrain)  # type: ignore[arg-type]
    elif given or quadrants is not None:
        raise UsageError("the numbers of a camera and --quadrants go with --camera")
    elif extend:
        report = run(extend_map(map_dir, terrain, zoom, bbox, everywhere=everywhere), interval_s)
    elif terrain is None or zoom is None:
        raise UsageError("a map needs --terrain ARCHIVE and --zoom Z, or --camera")
    else:
        report = run(make_map(map_dir, terrain, zoom, bbox, everywhere=everywhere), interval_s)
    if as_json:
        print_json(report)
        return
    print_facts(
        [
            ("map", report.map),
            ("quadrants", f"{report.quadrants}, {report.added} of them new"),
            ("bounds", ",".join(map(str, report.bounds)) if report.bounds else "-"),
        ]
    )


@maps.command()
@parameters.map_dir
@click.option("--terrain", type=parameters.PATH, help="Terrain archive (the one of `init`).")
@click.option("--overwrite", is_flag=True, help="Draw quadrants again that have a render.")
@click.option("--tint", type=parameters.Range(), help="Heights of the lowest and highest colour (chosen).")
@click.option(
    "--exaggeration", type=parameters.FiniteRange(0, 1000, min_open=True), help="Of heights (chosen)."
)
@click.option(
    "--renderer", type=click.Choice(("numpy", "browser")), help="What draws (browser for isometric maps)."
)
@click.option("--missing", type=click.Choice(("sea", "hole")), help="What stands for missing heights (sea).")
@parameters.workers
@parameters.progress
@parameters.as_json
def render(
    map_dir: Path,
    terrain: Path | None,
    overwrite: bool,
    tint: tuple[float, float] | None,
    exaggeration: float | None,
    renderer: Literal["numpy", "browser"] | None,
    missing: Literal["sea", "hole"] | None,
    workers: int,
    interval_s: float,
    as_json: bool,
) -> None:
    """Draw the renders of a map as shaded relief of its terrain."""
    from layer_generation.map_rendering import render_map

    report = run(
        render_map(
            map_dir,
            archive=terrain,
            overwrite=overwrite,
            tint_m=tint,
            exaggeration=exaggeration,
            workers=workers,
            renderer=renderer,
            missing=missing,
        ),
        interval_s,
    )
    if as_json:
        print_json(report)
        return
    style = report.style
    print_facts(
        [
            ("map", report.map),
            ("renders", f"{report.rendered} made by {report.renderer}, {report.kept} there already"),
            ("tint", f"{style.low_m:g} .. {style.high_m:g} m"),
            ("exaggeration", f"{style.exaggeration:g}"),
        ]
    )


@maps.command("import")
@click.argument("source", type=parameters.PATH, metavar="DIR")
@parameters.map_dir
@parameters.progress
@parameters.as_json
def import_(source: Path, map_dir: Path, interval_s: float, as_json: bool) -> None:
    """Make a map of a known isometric project's folder: renders, generations, flags, notes, camera."""
    from layer_generation.importing import import_map

    _tell(run(import_map(source, map_dir), interval_s), as_json)


@maps.command("import-images")
@click.argument("pictures", type=parameters.PATH, metavar="DIR")
@parameters.map_dir
@click.option("--kind", type=click.Choice(KINDS), default="render", show_default=True, help="What they are.")
@click.option("--resize", is_flag=True, help="Resample pictures that are not of 512 px.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that are there and differ.")
@click.option("--skip-broken", is_flag=True, help="Leave out pictures that cannot be used.")
@parameters.progress
@parameters.as_json
def import_images(
    pictures: Path,
    map_dir: Path,
    kind: Kind,
    resize: bool,
    overwrite: bool,
    skip_broken: bool,
    interval_s: float,
    as_json: bool,
) -> None:
    """Take pictures named {x}_{y}.png, .webp or .jpg into a map."""
    from layer_generation import importing

    work = importing.import_images(
        pictures, map_dir, kind=kind, resize=resize, overwrite=overwrite, skip_broken=skip_broken
    )
    _tell(run(work, interval_s), as_json)


@maps.command()
@parameters.map_dir
@parameters.as_json
def show(map_dir: Path, as_json: bool) -> None:
    """Show what a map is made of: where it lies, its quadrants, pictures and flags."""
    from layer_generation.map_facts import map_facts

    facts = map_facts(map_dir)
    if as_json:
        print_json(facts)
        return
    geometry = ", ".join(f"{key} {value}" for key, value in facts.geometry.items() if key != "type")
    print_facts(
        [
            ("map", facts.map),
            ("geometry", f"{facts.geometry['type']}: {geometry}"),
            ("quadrants", facts.quadrants),
            ("quadrant box", ",".join(map(str, facts.quadrant_box)) if facts.quadrant_box else "-"),
            ("bounds", ",".join(f"{one:.6g}" for one in facts.bounds) if facts.bounds else "-"),
            ("terrain", facts.terrain.get("archive", "-")),
            ("attribution", facts.terrain.get("attribution") or "-"),
            ("size", f"{facts.bytes / 1e6:.1f} MB"),
        ]
    )
    print_table(("picture", "quadrants"), list(facts.pictures.items()))
    print_table(("mark", "quadrants"), [*facts.flags.items(), ("notes", facts.notes)])


def _tell(report: ImportReport, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    rows: list[tuple[str, object]] = [
        ("map", report.map),
        ("renders", report.renders),
        ("generations", report.generations),
        ("unchanged", report.unchanged),
        ("skipped", len(report.skipped)),
    ]
    if report.columns_left_out:
        rows.append(("columns left out", ", ".join(report.columns_left_out)))
    print_facts(rows)
    for one in report.skipped[:_SHOWN]:
        click.echo(f"  {one.what}: {one.reason}")
    if len(report.skipped) > _SHOWN:
        click.echo(f"  and {len(report.skipped) - _SHOWN} more; --json lists all")

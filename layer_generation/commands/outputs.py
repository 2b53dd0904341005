"""What a layer is looked at and published as: debug-map, export."""

from __future__ import annotations

from pathlib import Path

import click

from fusi_pipeline.errors import UsageError
from fusi_pipeline.tiles.grid import MAX_ZOOM
from fusi_pipeline.tiles.picture import FORMATS
from layer_generation.commands import parameters
from layer_generation.console import print_facts, print_json, run
from layer_generation.pyramid import TileFormat


@click.command("debug-map")
@parameters.layer_dir
@click.option(
    "-o", "--output", type=parameters.PATH, help="HTML file (debug_map.html in the layer's folder)."
)
@click.option(
    "--picture/--no-picture", default=None, help="Put a picture of the map under the blocks (of small maps)."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no such page.")
@parameters.progress
@parameters.as_json
def debug_map(
    layer_dir: Path,
    output: Path | None,
    picture: bool | None,
    overwrite: bool,
    interval_s: float,
    as_json: bool,
) -> None:
    """Draw the plan of a layer as a map of its blocks, in one page that needs no network."""
    from layer_generation.debug_map import FILENAME, write_debug_map

    path = output or layer_dir / FILENAME
    report = run(write_debug_map(layer_dir, path, picture=picture, overwrite=overwrite), interval_s)
    if as_json:
        print_json(report)
        return
    print_facts(
        [
            ("page", report.path),
            ("blocks", report.blocks),
            ("size", f"{report.bytes / 1e6:.1f} MB"),
            ("map", "Leaflet" if report.leaflet else "plain canvas; `just pages layer-page` bundles Leaflet"),
        ]
    )


@click.command()
@parameters.layer_dir
@click.option("-o", "--output", type=parameters.PATH, required=True, help="PMTiles file.")
@click.option(
    "--format", "name", type=click.Choice(FORMATS), default="webp", show_default=True, help="Of tiles."
)
@click.option("--quality", type=click.IntRange(1, 100), help="Of lossy WebP (lossless).")
@click.option(
    "--type",
    "kind",
    type=click.Choice(("overlay", "baselayer")),
    default="overlay",
    show_default=True,
    help="What the metadata calls it.",
)
@click.option(
    "--min-zoom", type=click.IntRange(0, MAX_ZOOM), default=0, show_default=True, help="Lowest zoom."
)
@click.option("--partial", is_flag=True, help="Export what is finished of an unfinished layer.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is no exported layer.")
@parameters.workers
@parameters.progress
@parameters.as_json
def export(
    layer_dir: Path,
    output: Path,
    name: str,
    quality: int | None,
    kind: str,
    min_zoom: int,
    partial: bool,
    overwrite: bool,
    workers: int,
    interval_s: float,
    as_json: bool,
) -> None:
    """Write a layer as PMTiles with overviews: georeferenced, or flat for an isometric map."""
    from layer_generation.export import export_layer

    if quality is not None and name != "webp":
        raise UsageError("--quality is of WebP; PNG is lossless")
    report = run(
        export_layer(
            layer_dir,
            output,
            tile_format=TileFormat(name, quality),
            kind=kind,
            minzoom=min_zoom,
            partial=partial,
            overwrite=overwrite,
            workers=workers,
        ),
        interval_s,
    )
    if as_json:
        print_json(report)
        return
    print_facts(
        [
            ("archive", report.path),
            ("kind", report.kind),
            ("quadrants", f"{report.quadrants}, {report.missing} missing"),
            ("tiles", f"{report.tiles}, zooms {report.minzoom}..{report.maxzoom}"),
            ("size", f"{report.bytes / 1e6:.1f} MB"),
            *(("drawn by", f"{name}: {count} blocks") for name, count in report.models.items()),
        ]
    )

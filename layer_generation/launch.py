"""Layers through Dagster from a shell: a backfill asked of the daemon, or everything made in this process.

`python -m fusi_pipeline.defs.launch prepare` comes before, to make the instance. What
takes long to load is loaded by the commands, after Ctrl-C is taken care of.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fusi_pipeline.errors import FusiError, Interrupted, UsageError
from layer_generation.defs.stopping import EXIT_INTERRUPTED, INTERRUPTED, end_at_once, interruptible
from layer_generation.settings import places_from

if TYPE_CHECKING:
    from layer_generation.defs.sites import Site


class LayersFailed(FusiError):
    """Parts of layers were not materialized, each for a reason that was told before."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"not materialized: {', '.join(names)}; the runs are in the pages of `just dev`")


class _Commands(click.Group):
    """Commands whose errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; end with 1 for a failure, 2 for a wrong command, 130 when interrupted."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Interrupted):
            _say(INTERRUPTED)
            sys.exit(EXIT_INTERRUPTED)
        except FusiError as error:
            _say(f"error: {error}")
            sys.exit(2 if isinstance(error, UsageError) else 1)


@click.group(cls=_Commands)
def cli() -> None:
    """Layers through Dagster, without its pages."""


@cli.command()
@click.argument("names", nargs=-1, metavar="[LAYER]...")
@click.option("--region", "regions", multiple=True, help="Only this region, and what it waits for.")
@click.option("--from-sources", is_flag=True, help="Bring sources, terrain, map and plan up to date before.")
def backfill(names: tuple[str, ...], regions: tuple[str, ...], from_sources: bool) -> None:
    """Ask for a backfill of what is missing or failed; `just dev`, or the daemon alone, runs it."""
    from layer_generation import definitions
    from layer_generation.defs import instance as instances
    from layer_generation.defs.backfill import request, under_way, wanted

    with instances.opened() as instance:
        those = []
        for site in _sites(names):
            if running := under_way(instance, site):
                raise UsageError(
                    f"layer {site.folder.name}: backfill {running} has not ended; wait for it, or "
                    "start `just dev` anew, which ends what has no process any more"
                )
            those.append(wanted(instance, site, regions))
        asked = request(instance, instances.graph(definitions.defs), those, from_sources=from_sources)
    if asked is None:
        click.echo("nothing is missing")
    else:
        click.echo(f"backfill {asked.backfill_id}: {asked.partitions} to make of {', '.join(asked.layers)}")


@cli.command()
@click.argument("names", nargs=-1, metavar="[LAYER]...")
def materialize(names: tuple[str, ...]) -> None:
    """Bring layers from their maps to their archives in this process, region by region in order.

    Ctrl-C lets what is under way finish, and begins nothing more; a second one ends at once.
    """
    from layer_generation.defs import headless
    from layer_generation.defs.instance import opened

    sites = _sites(names)
    with opened() as instance:
        failed = interruptible(
            lambda stop: [
                one
                for site in sites
                for one in headless.materialize(instance, site.places, site.folder.name, click.echo, stop)
            ],
            _say,
        )
    if failed:
        raise LayersFailed(failed)


@cli.command("from-rasters")
@click.argument("name", metavar="LAYER")
@click.option("--zoom", type=click.IntRange(min=0), help="Zoom of the map of a layer that is not there yet.")
@click.option("--region", type=click.IntRange(min=3), help="Side of its regions in quadrants.")
@click.option("--source", "sources", multiple=True, help="Only this source, into an --archive of its own.")
@click.option("--archive", default="terrain.pmtiles", show_default=True, help="Name of the terrain archive.")
def from_rasters(
    name: str, zoom: int | None, region: int | None, sources: tuple[str, ...], archive: str
) -> None:
    """Make a layer from rasters to its archive in one run of this process; the layer itself, too."""
    from layer_generation import definitions
    from layer_generation.defs import headless
    from layer_generation.defs.from_rasters import FromRastersConfig
    from layer_generation.defs.instance import opened

    config = FromRastersConfig(layer=name, zoom=zoom, region=region, sources=list(sources), archive=archive)
    with opened() as instance:
        made = interruptible(
            lambda stop: headless.from_rasters(instance, definitions.location(stop), config), _say
        )
    if not made:
        raise LayersFailed([name])


def _sites(names: tuple[str, ...]) -> list[Site]:
    from layer_generation.defs.backfill import chosen_sites
    from layer_generation.defs.sites import find_sites

    places = places_from()
    found = chosen_sites(find_sites(places), names)
    if not found:
        raise UsageError(f"{places.layers_dir.absolute()}: no layer there; make one with `fusi layer init`")
    return found


def _say(line: str) -> None:
    click.echo(line, err=True)


def main(words: Sequence[str] | None = None) -> None:
    """Run a command, by default that of this process, and end it."""
    end_at_once(_say)
    cli(words)


if __name__ == "__main__":
    main()

"""Layers through Dagster from a shell: a backfill asked of the daemon, or everything made in this process.

`python -m fusi_pipeline.defs.launch prepare` comes before, to make the instance.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from fusi_pipeline.errors import FusiError, UsageError
from layer_generation import definitions
from layer_generation.defs import instance as instances
from layer_generation.defs.backfill import chosen_sites, request, under_way, wanted
from layer_generation.defs.headless import materialize as materialize_layer
from layer_generation.defs.sites import Site, find_sites
from layer_generation.settings import places_from

_EXIT_INTERRUPTED = 130


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
        except (KeyboardInterrupt, instances.INTERRUPTED):
            click.echo("interrupted; finished blocks are kept", err=True)
            sys.exit(_EXIT_INTERRUPTED)
        except FusiError as error:
            click.echo(f"error: {error}", err=True)
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
    with instances.opened() as instance:
        those = []
        for site in _sites(names):
            if running := under_way(instance, site):
                raise UsageError(f"layer {site.folder.name}: backfill {running} has not ended; wait for it")
            those.append(wanted(instance, site, regions))
        asked = request(instance, instances.graph(definitions.defs), those, from_sources=from_sources)
    if asked is None:
        click.echo("nothing is missing")
    else:
        click.echo(f"backfill {asked.backfill_id}: {asked.partitions} to make of {', '.join(asked.layers)}")


@cli.command()
@click.argument("names", nargs=-1, metavar="[LAYER]...")
def materialize(names: tuple[str, ...]) -> None:
    """Bring layers from their maps to their archives in this process, region by region in order."""
    with instances.opened() as instance:
        failed = [
            one
            for site in _sites(names)
            for one in materialize_layer(instance, site.places, site.folder.name, click.echo)
        ]
    if failed:
        raise LayersFailed(failed)


def _sites(names: tuple[str, ...]) -> list[Site]:
    places = places_from()
    found = chosen_sites(find_sites(places), names)
    if not found:
        raise UsageError(f"{places.layers_dir.absolute()}: no layer there; make one with `fusi layer init`")
    return found


if __name__ == "__main__":
    cli()

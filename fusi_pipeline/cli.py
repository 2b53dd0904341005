"""The `fusi` command: a table of the commands in `commands`.

Other packages add commands by an entry point in the group `fusi.commands`.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version

import click

from fusi_pipeline import console
from fusi_pipeline.commands import archives, building, machine, merging, places, serving

_COMMAND_GROUP = "fusi.commands"


def main() -> None:
    """Run the command line; end with 0, 1 for a failure, 2 for a wrong command, 130 when interrupted."""
    try:
        _add_commands()
    except KeyboardInterrupt:
        sys.exit(console.EXIT_INTERRUPTED)
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


for _command in (
    building.scan,
    building.plan,
    building.build,
    merging.merge,
    building.aggregate,
    building.convert,
    merging.pack,
    archives.show,
    archives.tile,
    archives.verify,
    archives.preview,
    places.at,
    places.coverage,
    places.inspect_fill,
    serving.serve,
    machine.monitor,
    machine.doctor,
):
    cli.add_command(_command)


if __name__ == "__main__":
    main()

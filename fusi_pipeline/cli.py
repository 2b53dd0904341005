"""The `fusi` command: a table of the commands in `commands`.

Other packages add commands by an entry point in the group `fusi.commands`. They are
loaded when they are asked for: a build of tiles does not wait for what draws pictures.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points, version

import click

from fusi_pipeline import console
from fusi_pipeline.commands import archives, building, machine, merging, places, serving

_COMMAND_GROUP = "fusi.commands"


def main() -> None:
    """Run the command line; end with 0, 1 for a failure, 2 for a wrong command, 130 when interrupted."""
    console.main(cli)


class _Commands(click.Group):
    """The commands of this package and of others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        return sorted({*super().list_commands(ctx), *_entries()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name; None for one that there is not, or that does not load."""
        found = super().get_command(ctx, cmd_name)
        return _loaded(cmd_name) if found is None and cmd_name in _entries() else found


@cache
def _entries() -> dict[str, EntryPoint]:
    """Return the commands of other packages by name."""
    return {entry.name: entry for entry in entry_points(group=_COMMAND_GROUP)}


@cache
def _loaded(name: str) -> click.Command | None:
    """Return a command of another package; None where it does not load, with a line about it."""
    entry = _entries()[name]
    try:
        command: click.Command = entry.load()
    except Exception as error:  # noqa: BLE001 - whatever another package does wrong
        click.echo(f"fusi: command {name!r} of {entry.value} does not load: {error}", err=True)
        return None
    return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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

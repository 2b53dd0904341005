"""The `fusi layer` command: a table of the commands in `commands`."""

from __future__ import annotations

import click

from layer_generation.commands import layers, maps, outputs


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def layer() -> None:
    """Draw layers over maps with image models, block by block, without seams."""


for _command in (
    maps.maps,
    layers.init,
    layers.extend,
    layers.generate,
    layers.status,
    outputs.debug_map,
    outputs.export,
):
    layer.add_command(_command)

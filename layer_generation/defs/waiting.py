"""Which block waits for which, for an asset's page: as a table of a partition, as a picture of a plan."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
import numpy as np
from PIL import Image, ImageDraw

from layer_generation.defs.regions import Numbers, Partition, Regions, region_box
from layer_generation.defs.reporting import table
from layer_generation.progress import BlockRow

_PICTURE_PX = 900
_LEAST_CELL_PX = 2
"""Quadrants smaller than that are not pictured: the page of `fusi layer debug-map` shows large maps."""
_LINED_CELL_PX = 12
"""Quadrants at least so large have lines to the blocks that are waited for."""
_COLORS = {1: (255, 150, 130), 2: (140, 215, 140), 3: (130, 185, 255)}
_LINE, _BORDER, _EMPTY = (60, 60, 60), (110, 110, 110), (255, 255, 255)
_LEGEND = (
    "Red: 2x2, green: strips, blue: singles. An arrow leads from a block to one that it waits for. "
    "Grey lines and names: regions."
)


def waits_table(
    regions: Regions, partition: Partition, blocks: Iterable[BlockRow]
) -> dg.MarkdownMetadataValue:
    """Return the blocks of a partition, with the blocks that each waits for and the partitions of these.

    Where some have less context than they should, a column says why.
    """
    places = {int(number): place for place, number in enumerate(regions.ids)}
    outside, before = regions.outside(partition), _before(regions.edges)
    rows = []
    for block in blocks:
        ids = sorted(int(regions.ids[place]) for place in before.get(places[block.id], ()))
        size, waits = f"{block.width}x{block.height}", _told(ids, outside) or "-"
        rows.append((block.id, f"{block.x},{block.y}", size, waits, block.reason or "-"))
    names, width = ("block ", "at", "size", "waits for", "less context"), 5
    if all(row[-1] == "-" for row in rows):
        width -= 1
    return table(names[:width], (row[:width] for row in rows))


def plan_picture(
    regions: Regions, blocks: Sequence[BlockRow], side: int
) -> dict[str, dg.MarkdownMetadataValue]:
    """Return a picture of a plan: blocks by step, what they wait for, regions; nothing for a large map."""
    if not blocks:
        return {}
    left, top = min(one.x for one in blocks), min(one.y for one in blocks)
    columns = max(one.x + one.width for one in blocks) - left
    rows = max(one.y + one.height for one in blocks) - top
    cell = min(40, _PICTURE_PX // max(columns, rows))
    if cell < _LEAST_CELL_PX:
        return {}
    image = Image.new("RGB", (columns * cell + 1, rows * cell + 1), _EMPTY)
    draw = ImageDraw.Draw(image)
    for one in blocks:
        x, y = (one.x - left) * cell, (one.y - top) * cell
        box = (x, y, x + one.width * cell, y + one.height * cell)
        draw.rectangle(box, fill=_COLORS[one.step], outline=_EMPTY)
    _draw_regions(draw, regions, side, (left, top), cell)
    if cell >= _LINED_CELL_PX:
        centres = [
            ((one.x - left + one.width / 2) * cell, (one.y - top + one.height / 2) * cell) for one in blocks
        ]
        for block, other in regions.edges.tolist():
            _draw_arrow(draw, centres[block], centres[other])
    return {"which block waits for which": dg.MetadataValue.md(f"{_markdown(image)}\n\n{_LEGEND}")}


def _draw_arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a line with a head in its middle, where no other line has its own."""
    draw.line((*start, *end), fill=_LINE)
    middle, ahead = (np.add(start, end) / 2, np.subtract(end, start) / np.hypot(*np.subtract(end, start)))
    aside = np.array((-ahead[1], ahead[0]))
    corners = (middle + 4 * ahead, middle - 3 * ahead + 3 * aside, middle - 3 * ahead - 3 * aside)
    draw.polygon([(float(x), float(y)) for x, y in corners], fill=_LINE)


def _draw_regions(
    draw: ImageDraw.ImageDraw, regions: Regions, side: int, origin: tuple[int, int], cell: int
) -> None:
    """Draw the borders of regions, and their names where there is room."""
    for name in regions.names:
        west, north, east, south = region_box(name, side)
        x, y = (west - origin[0]) * cell, (north - origin[1]) * cell
        draw.rectangle((x, y, (east + 1 - origin[0]) * cell, (south + 1 - origin[1]) * cell), outline=_BORDER)
        if side * cell > draw.textlength(name) + 4:
            draw.text((max(x, 0) + 3, max(y, 0) + 1), name, fill=_LINE)


def _before(edges: Numbers) -> Mapping[int, list[int]]:
    """Return the places of the blocks that each block waits for, by place."""
    order = edges[np.argsort(edges[:, 0], kind="stable")]
    found: dict[int, list[int]] = {}
    for block, other in order.tolist():
        found.setdefault(block, []).append(other)
    return found


def _told(ids: Iterable[int], outside: Mapping[int, Partition]) -> str:
    """Return blocks by id, those of other partitions with these behind them."""
    own = [str(one) for one in ids if one not in outside]
    others: dict[Partition, list[str]] = {}
    for one in ids:
        if one in outside:
            others.setdefault(outside[one], []).append(str(one))
    return "; ".join(
        [*([", ".join(own)] if own else []), *(f"{', '.join(those)} in {of}" for of, those in others.items())]
    )


def _markdown(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, "PNG", optimize=True)
    return f"![](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"

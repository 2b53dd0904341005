"""The options that commands on maps and layers share, and the values that they read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fusi_pipeline.tiles.grid import MAX_LATITUDE_DEG, Bounds
from layer_generation import settings

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
MAP_DIR = Path("layers/map")
"""Where a map is that is not named."""


class FiniteRange(click.FloatRange):
    """A number within a range; not NaN, which is within none, and not infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with what is expected."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r}: expected a finite number", param, ctx)
        return number


class BBox(click.ParamType[Bounds]):
    """A geographic box, west,south,east,north in degrees; west > east across 180 degrees."""

    name = "W,S,E,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bounds:
        """Return the box, or fail with what is expected."""
        if isinstance(value, Bounds):
            return value
        try:
            west, south, east, north = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected four numbers west,south,east,north in degrees", param, ctx)
        inside = all(-180 <= lon <= 180 for lon in (west, east)) and -90 <= south < north <= 90
        if not inside or west == east or south >= MAX_LATITUDE_DEG or north <= -MAX_LATITUDE_DEG:
            self.fail(
                f"{value!r}: expected longitudes of -180..180 and -90 <= south < north <= 90", param, ctx
            )
        return Bounds(west, south, east, north)


class QuadrantBox(click.ParamType[tuple[int, int, int, int]]):
    """A rectangle of quadrants, min_x,min_y,max_x,max_y, inclusive."""

    name = "X,Y,X,Y"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int, int]:
        """Return the rectangle, or fail with what is expected."""
        if isinstance(value, tuple):
            return value
        try:
            left, top, right, bottom = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected four whole numbers min_x,min_y,max_x,max_y", param, ctx)
        if left > right or top > bottom:
            self.fail(f"{value!r}: expected min_x <= max_x and min_y <= max_y", param, ctx)
        return left, top, right, bottom


class Range(click.ParamType[tuple[float, float]]):
    """Two heights in metres, the lower one first."""

    name = "LOW,HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Return (low, high), or fail with what is expected."""
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected two numbers low,high in metres", param, ctx)
        if not -20_000 <= low < high <= 20_000:
            self.fail(f"{value!r}: expected low < high, within 20000 m of 0", param, ctx)
        return low, high


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return several options as one decorator, in their order."""

    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


map_dir = click.option(
    "--map-dir",
    "--generation-dir",
    "map_dir",
    type=PATH,
    default=MAP_DIR,
    show_default=True,
    help="Folder of the map.",
)
layer_dir = click.option("--layer-dir", type=PATH, required=True, help="Folder of the layer.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
progress = click.option(
    "--progress-interval",
    "interval_s",
    type=FiniteRange(min=0),
    default=settings.progress_interval_s,
    help="Seconds between progress lines without a terminal (FUSI_PROGRESS_INTERVAL; 10).",
)
workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=settings.workers,
    help="Pictures worked at together (FUSI_WORKERS; the processors).",
)

"""Calls per quadrant of plans of layers, how far they are from the lower bound, and the time they take.

Prints one JSON line for each of a fixed list of maps, then for maps of a million quadrants.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from layer_generation.plan import plan

Quadrants = NDArray[np.int64]


def main() -> None:
    """Plan every map and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="leave out the maps of a million quadrants")
    options = parser.parse_args()
    for name, quadrants in maps():
        print(json.dumps(measured(name, quadrants)), flush=True)
    if not options.small:
        for name, quadrants in large_maps():
            print(json.dumps(measured(name, quadrants)), flush=True)


def maps() -> Iterator[tuple[str, Quadrants]]:
    """Yield the maps whose figures DESIGN.md has."""
    for side in (4, 7, 10, 59, 60):
        yield f"full {side} x {side}", rectangle(side, side)
    for radius in (12, 20, 60):
        yield f"disc of radius {radius}", disc(radius)
    whole = disc(30)
    yield "ring of radii 20, 30", whole[(whole**2).sum(axis=1) > 400]
    yield (
        "two squares and a bridge",
        np.concatenate(
            [rectangle(14, 14), rectangle(14, 3) + np.array([14, 5]), rectangle(14, 14) + np.array([28, 1])]
        ),
    )
    for percent in (2, 10, 30):
        yield f"60 x 60, {percent} % holes", punched(60, percent / 100)
    square = rectangle(40, 40)
    yield "checkerboard of 4 x 4", square[(square // 4).sum(axis=1) % 2 == 0]
    yield "180 x 180, 2 % holes", punched(180, 0.02)


def large_maps() -> Iterator[tuple[str, Quadrants]]:
    """Yield maps of about a million quadrants."""
    yield "full 1000 x 1000", rectangle(1000, 1000)
    yield "1010 x 1010, 2 % holes", punched(1010, 0.02)
    yield "1200 x 1200, 30 % holes", punched(1200, 0.3)
    yield "1,000,000 x 1", rectangle(1_000_000, 1)
    yield "a million anywhere", np.random.default_rng(1).integers(-(2**30), 2**30, (1_000_000, 2))


def rectangle(width: int, height: int) -> Quadrants:
    """Return the quadrants of a full map."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def disc(radius: int) -> Quadrants:
    """Return the quadrants with x^2 + y^2 <= radius^2."""
    square = rectangle(2 * radius + 1, 2 * radius + 1) - radius
    return square[(square**2).sum(axis=1) <= radius**2]


def punched(side: int, share: float) -> Quadrants:
    """Return a square map without a random share of its quadrants."""
    square = rectangle(side, side)
    return square[np.random.default_rng(1).random(len(square)) >= share]


def measured(name: str, quadrants: Quadrants) -> dict[str, object]:
    """Plan a map; return its figures."""
    wall, cpu = time.perf_counter(), time.process_time()
    summary = plan(quadrants).summary
    return {
        "map": name,
        "quadrants": summary.quadrants,
        "calls": summary.calls,
        "bound": summary.lower_bound,
        "calls_per_quadrant": round(summary.calls_per_quadrant, 4),
        "over_bound": round(summary.calls / summary.lower_bound - 1, 3),
        "without_context": summary.without_context,
        "waves": summary.waves_per_step,
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }


if __name__ == "__main__":
    main()

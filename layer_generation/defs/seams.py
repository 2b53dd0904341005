"""How visible the seams of a layer are: steps of pixels where blocks meet, and where quadrants of one do.

Both lie on the grid of quadrants, so that a pattern of the model or of the map is in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layer_generation.errors import ImageInvalid
from layer_generation.pictures import Pixels, decoded
from layer_generation.progress import BlockRow
from layer_generation.worker import GENERATIONS

MOST_BORDERS = 100
"""Borders of each kind that are looked at, spread over the layer."""
MOST_RATIO = 1.5
"""Between blocks that were drawn apart pixels may step so many times as far as within them."""

_Quadrant = tuple[int, int]
_Border = tuple[_Quadrant, _Quadrant]


@dataclass(frozen=True, slots=True)
class Seams:
    """Mean steps from a pixel to the next across borders of quadrants, in levels of a channel (0 to 255)."""

    borders: int
    """Borders between two blocks that were looked at."""
    between: float
    within: float
    """Across borders inside a block, which was drawn at once."""

    @property
    def ratio(self) -> float:
        """How much further it is between blocks than within them; 1 is no seam at all."""
        return (self.between + 1) / (self.within + 1)


def seams_of(layer_dir: Path, blocks: Iterable[BlockRow]) -> Seams:
    """Return how visible the borders between complete blocks are, by a sample of them."""
    owners = {one: block.id for block in blocks if block.status == "complete" for one in block.quadrants}
    found: dict[bool, list[_Border]] = {False: [], True: []}
    for one, other in _borders(owners):
        found[owners[one] == owners[other]].append((one, other))
    between, within = (_steps_of(layer_dir, found[inside]) for inside in (False, True))
    return Seams(len(between), _mean(between), _mean(within or between))


def _steps_of(layer_dir: Path, borders: list[_Border]) -> list[float]:
    """Return the steps across a sample of borders, without those whose pictures cannot be read."""
    steps = []
    count = min(len(borders), MOST_BORDERS)
    for place in np.linspace(0, len(borders) - 1, count).round().astype(np.int64).tolist() if count else ():
        one, other = borders[place]
        try:
            first, second = _read(layer_dir, one), _read(layer_dir, other)
        except (OSError, ImageInvalid):
            continue
        edges = (first[-1], second[0]) if one[0] == other[0] else (first[:, -1], second[:, 0])
        steps.append(float(np.abs(edges[0].astype(np.float32) - edges[1]).mean()))
    return steps


def _borders(owners: Mapping[_Quadrant, int]) -> Iterator[_Border]:
    """Yield pairs of finished quadrants side by side, or one above the other."""
    for x, y in sorted(owners):
        for other in ((x + 1, y), (x, y + 1)):
            if other in owners:
                yield (x, y), other


def _read(layer_dir: Path, quadrant: _Quadrant) -> Pixels:
    path = layer_dir / GENERATIONS / f"{quadrant[0]}_{quadrant[1]}.png"
    return decoded(path.read_bytes(), path)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0

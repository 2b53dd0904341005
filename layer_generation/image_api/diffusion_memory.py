"""Where the weights of a diffusion model go: all to the device, or in turn, where memory is little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Offload = Literal["none", "model", "sequential"]
RESERVE_BYTES = 2 << 30
"""For what a step computes with, of a picture of 1024 x 1024 pixels in half precision."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is held."""

    offload: Offload
    """`none`: all weights on the device; `model`: one part at a time; `sequential`: layer by layer."""
    sliced: bool
    """Whether attention is computed in slices and pictures are decoded in tiles: slower, and smaller."""


def placement(device: str, weights: Mapping[str, int], free_bytes: int) -> Placement:
    """Return how to hold a model whose parts have weights of so many bytes, in so much free memory.

    `device` is `cuda`, `mps` or `cpu`. Only a `cuda` device has memory apart from the
    processor's, so that weights can wait there; on the others slices are what can be saved.
    """
    whole, largest = sum(weights.values()), max(weights.values(), default=0)
    sliced = whole + 2 * RESERVE_BYTES > free_bytes
    if device != "cuda" or whole + RESERVE_BYTES <= free_bytes:
        return Placement("none", sliced)
    if largest + RESERVE_BYTES <= free_bytes:
        return Placement("model", sliced)
    return Placement("sequential", sliced)

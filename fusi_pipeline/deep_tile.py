"""What is wrong with one tile, or between two, in the words of a finding.

`tile_laws` has the measures, `archive_rules` what an archive owes; here both
meet a decoded tile, and whatever is found gets its place on the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fusi_pipeline import tile_laws
from fusi_pipeline.archive_rules import ArchiveRules
from fusi_pipeline.findings import Finding
from fusi_pipeline.tile_laws import HALF_PX, Border, Mask
from fusi_pipeline.tiles import grid, terrarium, webp
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp
from fusi_pipeline.tiles.resample import Heights

Scalar = TypeVar("Scalar", bound=np.generic)
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with a tile by itself."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class TileView:
    """A tile as it was decoded, once."""

    tile: Tile
    heights: Heights | None
    """Shape (512, 512); None where it does not decode, or is no terrain."""
    sources: Pixels | None
    """Its lineage, shape (512, 512, 3), where there is one."""
    troubles: tuple[Trouble, ...]


def decoded(data: bytes, rules: ArchiveRules, troubles: list[Trouble]) -> Pixels | None:
    """Return the pixels of a tile; notes what is wrong, and returns None where nothing else can be told."""
    try:
        facts = webp.facts(data)
        pixels = decode_webp(data)
    except (webp.WebPInvalid, ImageInvalid) as error:
        troubles.append(
            Trouble("image", f"it {error}" if isinstance(error, webp.WebPInvalid) else str(error))
        )
        return None
    if pixels.shape[:2] != (TILE_SIZE_PX, TILE_SIZE_PX):
        size = f"{pixels.shape[1]} x {pixels.shape[0]} px"
        troubles.append(Trouble("image", f"it is {size}, not {TILE_SIZE_PX} x {TILE_SIZE_PX}"))
        return None
    if not facts.lossless:
        troubles.append(Trouble("image", "it is not lossless, so its heights are not exact"))
    besides = [name.strip() for name in facts.chunks if name != "VP8L"]
    if facts.lossless and besides and (rules.ours or rules.final):
        troubles.append(Trouble("image", f"it holds more than the picture: {', '.join(besides)}"))
    if pixels.shape[2] == 4 and (rules.final or rules.is_lineage):
        troubles.append(Trouble("image", "it has an alpha channel, which a final archive has not"))
    return pixels


def heights_of(pixels: Pixels, z: int, rules: ArchiveRules, troubles: list[Trouble]) -> Heights:
    """Return the heights of a tile; notes heights and alphas that fusi does not write."""
    if rules.ours:
        units = min(round(rules.step_m(z) * 256), 256)
        finer = np.uint8((units & -units) - 1)  # bits of blue that no multiple of the step has
        count = np.count_nonzero(pixels[..., 2] & finer)
        if count:
            step = f"{rules.step_m(z):g} m, the vertical step of zoom {z}"
            troubles.append(Trouble("step", f"{count} of its heights are no multiple of {step}"))
    if pixels.shape[2] == 4 and not np.isin(pixels[..., 3], (0, 255)).all():
        troubles.append(Trouble("image", "it has alpha values other than 0 and 255"))
    return terrarium.decode(pixels)


def lineage_troubles(
    pixels: Pixels, indices: frozenset[int], heights: Heights | None = None
) -> list[Trouble]:
    """Return what is wrong with the lineage of a tile, also beside its heights."""
    if pixels.shape[2] != 3:
        return []
    found = []
    first, second, share = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    strangers = sorted(set(np.unique(pixels[..., :2]).tolist()) - indices - {0})
    if strangers:
        found.append(f"the legend has no index {', '.join(str(index) for index in strangers[:5])}")
    if np.any(share[second == 0]):
        found.append("it gives a share to a second source where there is none")
    if np.any(second[first == 0]):
        found.append("it names a second source where there is no first")
    if heights is not None:
        stray = (first == 0) & (heights != 0)
        if stray.any():
            count = np.count_nonzero(stray)
            found.append(f"{count} pixels are of no source by the lineage and have a height other than 0 m")
    return [Trouble("lineage", text) for text in found]


def place(tile: Tile, row: float, col: float) -> str:
    """Return the position of a pixel's centre as a person writes it."""
    lon, lat = lonlat(tile, row, col)
    return f"{lon:.6f},{lat:.6f}"


def lonlat(tile: Tile, row: float, col: float) -> tuple[float, float]:
    """Return (lon, lat) of the centre of a pixel."""
    box = grid.xy_bounds(tile)
    pixel_m = (box.right - box.left) / TILE_SIZE_PX
    return grid.unproject(box.left + (col + 0.5) * pixel_m, box.top - (row + 0.5) * pixel_m)


def beyond_earth(view: TileView) -> Finding:
    """Return the finding for a tile with heights that no place on Earth has."""
    assert view.heights is not None
    wrong = tile_laws.beyond_earth(view.heights)
    count = np.count_nonzero(wrong)
    far = np.where(wrong, np.abs(view.heights), 0)
    row, col = divmod(int(np.argmax(far)), TILE_SIZE_PX)
    text = (
        f"tile {view.tile}: {count} pixels are below {tile_laws.LOWEST_M:g} or above "
        f"{tile_laws.HIGHEST_M:g} m; the worst, at {place(view.tile, row, col)} (pixel {col},{row}), "
        f"is {view.heights[row, col]:g} m"
    )
    return Finding("range", view.tile, text, float(far[row, col]))


def spikes(view: TileView, rules: ArchiveRules) -> list[Finding]:
    """Return the suspected spikes of a tile: heights far from those of the same source around them."""
    assert view.heights is not None
    _, lat = lonlat(view.tile, TILE_SIZE_PX / 2, TILE_SIZE_PX / 2)
    pixel_m = grid.resolution_m(view.tile.z) * math.cos(math.radians(lat))
    found = []
    for heights in _layers(view, rules):
        for row, col, excess in tile_laws.spikes(heights, pixel_m):
            text = (
                f"tile {view.tile}: {view.heights[row, col]:g} m at {place(view.tile, row, col)} "
                f"(pixel {col},{row}) is {excess:+.4g} m from what is around it"
            )
            found.append(Finding("spike", view.tile, text, abs(excess), suspect=True))
    return found


def _layers(view: TileView, rules: ArchiveRules) -> Iterator[Heights]:
    """Yield the heights of a tile source by source, as far as that is known, NaN elsewhere."""
    assert view.heights is not None
    if view.sources is not None:
        origin = view.sources[..., 0]
        for index in np.flatnonzero(np.bincount(origin.ravel())).tolist():
            if index:
                yield np.where(origin == index, view.heights, np.float32(np.nan))
    elif rules.final:
        yield np.where(view.heights == 0, np.float32(np.nan), view.heights)
    else:
        yield view.heights


def quarter_of(parent: npt.NDArray[Scalar], number: int) -> npt.NDArray[Scalar]:
    """Return the part of a parent that a child lies under; children count NW, NE, SW, SE."""
    row, col = (number // 2) * HALF_PX, (number % 2) * HALF_PX
    return parent[row : row + HALF_PX, col : col + HALF_PX]


def meeting(rules: ArchiveRules, first: TileView | None, second: TileView | None, side: str) -> Border | None:
    """Compare a tile with the one at its `right` or `bottom`; None where they cannot be compared.

    In a merged archive lines with pixels of 0 m, which may be missing, are left
    out, and with a lineage those whose pixels are not all from the same sources.
    """
    if first is None or second is None or first.heights is None or second.heights is None:
        return None
    other = {"right": "left", "bottom": "top"}[side]
    a, b = tile_laws.edge(first.heights, side), tile_laws.edge(second.heights, other)
    mask: Mask | None = None
    if first.sources is not None and second.sources is not None:
        around = np.concatenate(
            [tile_laws.edge(first.sources, side), tile_laws.edge(second.sources, other)], axis=1
        )
        origin = around[..., :2]
        mask = (origin == origin[:, :1]).all(axis=(1, 2)) & (origin[:, 0, 0] > 0)
    elif rules.merged:
        zeros = np.concatenate([a, b], axis=1) == 0
        mask = ~zeros.any(axis=1) | zeros.all(axis=1)
    return tile_laws.border(a, b, rules.step_m(first.tile.z), mask)


def seam(first: Tile, second: Tile, side: str, found: Border) -> Finding:
    """Return the finding for a border that stands out."""
    row, col = (TILE_SIZE_PX / 2, TILE_SIZE_PX - 0.5)
    if side == "bottom":
        row, col = col, row
    text = (
        f"tiles {first} and {second}: the step across their border, near {place(first, row, col)}, is "
        f"{found.across_m / found.rows:.4g} m, beside it {found.inside_m / found.rows:.4g} m"
        f" ({found.jump_m:+.4g} m beyond what the slopes let expect)"
    )
    return Finding("seam", first, text, abs(found.jump_m), suspect=True)

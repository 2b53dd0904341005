"""What the page draws: tiles of a terrain archive as points of a mesh and the picture laid over them.

The picture is the numpy renderer's own shading of the tile, so that both
renderers draw the same colours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable
from fusi_pipeline.tiles.grid import TILE_SIZE_PX
from fusi_pipeline.tiles.hillshade import ReliefStyle, shade_within
from fusi_pipeline.tiles.resample import Heights
from layer_generation.camera import MercatorGrid
from layer_generation.renderer.projection import Detail, Frame, Relief, detail_of, visible_tiles
from layer_generation.renderer.relief import row_lengths_m
from layer_generation.renderer.terrain import Terrain
from layer_generation.renderer.views import CELL_PX, View, Window

MESH_STEP = 2
"""Pixels of a tile from a point of its mesh to the next."""
_MARGIN_PX = 3
"""Heights below an archive depend on pixels so far away."""
_MOST_RELIEFS = 4096

Signature = tuple[int, int, int]


def signature_of(path: Path) -> Signature:
    """Return what changes when an archive is replaced. Raises ArchiveMissing, ArchiveUnreadable."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise ArchiveMissing(path) from None
    except OSError as error:
        raise ArchiveUnreadable(path, error.strerror or str(error)) from error
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


class Ground:
    """An open terrain archive, and how high its tiles are as far as it was asked; for one thread."""

    def __init__(self, path: Path) -> None:
        self.signature = signature_of(path)
        self._terrain = Terrain(path, 0)
        stated = self._terrain.metadata
        self.minzoom, self.maxzoom = stated.minzoom, stated.maxzoom
        self._reliefs: dict[tuple[Detail, int, int], Relief] = {}

    def relief(self, detail: Detail, x: int, y: int) -> Relief:
        """Return how high the tiles below a base tile are; x goes on around the world."""
        key = detail, x % (1 << detail.base), y
        if key not in self._reliefs:
            if len(self._reliefs) >= _MOST_RELIEFS:
                self._reliefs.clear()
            self._reliefs[key] = self._measured(detail, x, y)
        return self._reliefs[key]

    def around(self, zoom: int, x: int, y: int, before: int, after: int) -> Heights:
        """Return a tile's heights and so many pixels of the neighbours' on each side, NaN where missing."""
        size = TILE_SIZE_PX
        side = before + size + after
        heights = np.full((side, side), np.nan, dtype=np.float32)
        parts = {
            -1: (slice(0, before), slice(size - before, size)),
            0: (slice(before, before + size), slice(0, size)),
            1: (slice(before + size, side), slice(0, after)),
        }
        for dy, (rows, from_rows) in parts.items():
            for dx, (cols, from_cols) in parts.items():
                part = self._terrain.at(zoom, x + dx, y + dy)
                if part is not None:
                    heights[rows, cols] = part[from_rows, from_cols]
        return heights

    def close(self) -> None:
        """Release the file."""
        self._terrain.close()

    def _measured(self, detail: Detail, x: int, y: int) -> Relief:
        heights = self.around(detail.base, x, y, _MARGIN_PX, _MARGIN_PX)
        there, ground = ~np.isnan(heights), np.where(heights > 0, heights, np.float32(0))
        side = 1 << (detail.zoom - detail.base)
        step = TILE_SIZE_PX // side
        low, high = np.zeros((side, side)), np.zeros((side, side))
        known = np.zeros((side, side), dtype=bool)
        for row in range(side):
            for col in range(side):
                window = (
                    slice(row * step, (row + 1) * step + 2 * _MARGIN_PX),
                    slice(col * step, (col + 1) * step + 2 * _MARGIN_PX),
                )
                known[row, col] = there[window].any()
                low[row, col], high[row, col] = ground[window].min(), ground[window].max()
        return low, high, known


class Scene:
    """A ground in a style; what `tile` returns is for the page."""

    def __init__(self, ground: Ground, style: ReliefStyle) -> None:
        self._ground = ground
        self._style = style

    @property
    def water(self) -> tuple[int, int, int]:
        """The colour of what is missing."""
        nothing = np.full((3, 3), np.nan, dtype=np.float32)
        red, green, blue = shade_within(nothing, np.ones(1, np.float32), self._style)[0, 0].tolist()
        return red, green, blue

    def job(self, view: View, left_px: int, top_px: int, window: Window) -> dict[str, object]:
        """Return what the page has to draw for a window of a cell of a view, without the addresses.

        Raises ViewInvalid, TileCorrupt, ArchiveUnsuitable.
        """
        known: dict[str, object] = {
            "left": left_px,
            "top": top_px,
            "window": window,
            "background": self.water,
            "hole": view.missing == "hole",
        }
        plane = view.plane
        if isinstance(plane, MercatorGrid):
            x, y = left_px // CELL_PX, top_px // CELL_PX
            heights = self._ground.around(plane.zoom, x, y, 0, 0)
            tiles = [] if np.isnan(heights).all() else [(x, y)]
            flat = {"plane": None, "zoom": plane.zoom, "near": 0, "reach": 1, "samples": 1}
            return {**known, **flat, "tiles": tiles}
        detail, frame = detail_of(plane, self._ground.minzoom, self._ground.maxzoom), Frame.of(plane)

        def relief_of(x: int, y: int) -> Relief:
            return self._ground.relief(detail, x, y)

        wanted = window._replace(left=left_px + window.left, top=top_px + window.top)
        return {
            **known,
            "plane": {
                "lat": plane.seed_lat,
                "lon": plane.seed_lon,
                "azimuth_deg": plane.azimuth_deg,
                "elevation_deg": plane.elevation_deg,
                "right_m": plane.right_m,
                "up_m": plane.up_m,
            },
            "zoom": detail.zoom,
            "near": round(frame.near(-(top_px + CELL_PX / 2))),
            "reach": frame.reach(),
            "samples": 2,
            "tiles": visible_tiles(plane, detail, wanted, relief_of),
        }

    def tile(self, zoom: int, x: int, y: int) -> bytes:
        """Return a tile's mesh and drape, the neighbours' first column and row with them.

        Heights of every second pixel, shape (257, 257), float32 in metres and NaN
        where missing; then RGBA, shape (513, 513, 4), alpha 0 where missing. Both
        row by row, little-endian. Raises TileCorrupt, ArchiveUnsuitable.
        """
        heights = self._ground.around(zoom, x, y, 1, 2)
        lengths = row_lengths_m(y, zoom)
        below = row_lengths_m(y + 1, zoom)[:1] if y + 1 < 1 << zoom else lengths[-1:]
        drape = np.zeros((TILE_SIZE_PX + 1, TILE_SIZE_PX + 1, 4), dtype=np.uint8)
        drape[..., :3] = shade_within(heights, np.concatenate([lengths, below]), self._style)
        drape[..., 3] = np.where(np.isnan(heights[1:-1, 1:-1]), 0, 255)
        mesh: npt.NDArray[np.float32] = heights[1:-1:MESH_STEP, 1:-1:MESH_STEP].astype("<f4")
        return mesh.tobytes() + drape.tobytes()

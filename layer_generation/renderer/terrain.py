"""A terrain archive as heights of the quadrants of a map, also at zooms that the archive does not have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveUnsuitable, TileCorrupt
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_image
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.overzoom import overzoom
from fusi_pipeline.tiles.resample import Heights
from fusi_pipeline.tiles.terrarium import DECODERS
from layer_generation.advance import Advance

CACHED_TILES = 160
"""Of 1 MiB each: those of 8 x 8 quadrants with their neighbours, and their ancestors."""
_SMOOTH = "cubicspline"
"""Enlarges without the facets that bilinear heights show under light."""
_DEEPEST = 9
"""Zooms from a tile to quadrants that are as small as one of its pixels."""

Box = tuple[int, int, int, int]
"""(min_x, min_y, max_x, max_y) of quadrants, inclusive."""


class Terrain:
    """An open archive and the zoom of a map over it. Use it as a context manager; for one thread.

    A height of exactly 0 m is taken as missing: final archives hold it where
    nothing is known, and enlarging would make a slope of it.

    Raises ArchiveUnsuitable for an archive that is no terrain of 512 px tiles.
    """

    def __init__(self, path: Path, zoom: int) -> None:
        self.path = path
        self.zoom = zoom
        self._reader = open_archive(path)
        self.metadata = self._reader.metadata
        decode = DECODERS.get(self.metadata.encoding or "terrarium")
        if self.metadata.is_picture:
            self._reader.close()
            raise ArchiveUnsuitable(path, "holds the pictures of a layer and no heights")
        if decode is None:
            self._reader.close()
            raise ArchiveUnsuitable(
                path, f"is no terrain: its metadata states the encoding {self.metadata.encoding!r}"
            )
        self._decode = decode
        self._known: OrderedDict[Tile, Heights | None] = OrderedDict()

    def heights(self, x: int, y: int) -> Heights | None:
        """Return the heights of quadrant (x, y), shape (512, 512); None where the archive has none.

        x goes on around the world. Raises TileCorrupt and ArchiveUnsuitable.
        """
        return self.at(self.zoom, x, y)

    def at(self, zoom: int, x: int, y: int) -> Heights | None:
        """Return the heights of a tile of any zoom, as `heights` does of a quadrant."""
        world = 1 << zoom
        return self._at(Tile(zoom, x % world, y)) if 0 <= y < world else None

    def quadrants(self, box: Box) -> Generator[Advance, None, npt.NDArray[np.int64]]:
        """Return the (x, y), shape (n, 2), of the quadrants of a box that the terrain has heights for.

        A quadrant has heights where the archive has its tile, or where the nearest
        tile above has a height other than 0 m in it: final archives hold 0 m where
        nothing is known.
        """
        found = _Found(box, self.zoom)
        columns = {z: self._inside(z, box) for z in range(self.metadata.minzoom, self.zoom + 1)}
        for x, y in columns.get(self.zoom, ()):
            found.take(Tile(self.zoom, x, y), np.ones((1, 1), dtype=bool))
        todo = []
        for z in range(max(self.metadata.minzoom, self.zoom - _DEEPEST), self.zoom):
            for tile in (Tile(z, x, y) for x, y in sorted(columns[z])):
                missing = [one for one in grid.children(tile) if (one.x, one.y) not in columns[z + 1]]
                if missing:
                    todo.append((tile, missing))
        for number, (tile, missing) in enumerate(todo, 1):
            heights = self._at(tile)
            assert heights is not None
            for child in missing:
                found.take(child, _known_below(heights, child, self.zoom))
            yield Advance("look", number, len(todo), "tiles")
        return found.coordinates()

    def _inside(self, z: int, box: Box) -> set[tuple[int, int]]:
        """Return the columns and rows of the archive's tiles of a zoom that a box of quadrants touches."""
        shift, world = self.zoom - z, 1 << z
        there = self._reader.coordinates(z).astype(np.int64)
        low_x, low_y, high_x, high_y = (edge >> shift for edge in box)
        across = (there[:, 0] - low_x) % world <= high_x - low_x
        down = (there[:, 1] >= low_y) & (there[:, 1] <= high_y)
        return {(int(x), int(y)) for x, y in there[across & down]}

    def _at(self, tile: Tile) -> Heights | None:
        """Return a tile's heights: its own, or enlarged from the nearest tile above."""
        if tile in self._known:
            self._known.move_to_end(tile)
            return self._known[tile]
        heights = self._stored(tile)
        if heights is None:
            heights = self._enlarged(tile)
        self._known[tile] = heights
        while len(self._known) > CACHED_TILES:
            self._known.popitem(last=False)
        return heights

    def _enlarged(self, tile: Tile) -> Heights | None:
        for levels in range(1, tile.z - self.metadata.minzoom + 1):
            if self._reader.read(grid.parent(tile, levels)) is not None:
                return overzoom(tile, levels, self._at, _SMOOTH)
        return None

    def _stored(self, tile: Tile) -> Heights | None:
        data = self._reader.read(tile)
        if data is None:
            return None
        try:
            heights = self._decode(decode_image(data))
        except ImageInvalid as error:
            raise TileCorrupt(self.path, tile, str(error)) from error
        if heights.shape != (TILE_SIZE_PX, TILE_SIZE_PX):
            size = f"{heights.shape[1]} x {heights.shape[0]}"
            raise ArchiveUnsuitable(
                self.path, f"has tiles of {size} px; `fusi merge` makes an archive of 512 px tiles of it"
            )
        return np.where(heights == 0, np.float32(np.nan), heights)

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Found:
    """Which quadrants of a box have heights; a box may reach around the world."""

    def __init__(self, box: Box, zoom: int) -> None:
        self._box = box
        self._zoom = zoom
        self._grid = np.zeros((box[3] - box[1] + 1, box[2] - box[0] + 1), dtype=bool)

    def take(self, tile: Tile, known: npt.NDArray[np.bool_]) -> None:
        """Note which quadrants below a tile have heights; `known` has their rows and columns."""
        size, world = len(known), 1 << self._zoom
        height, width = self._grid.shape
        top, first = tile.y * size - self._box[1], tile.x * size - self._box[0]
        rows = slice(max(top, 0), min(top + size, height))
        for left in range(first % world - world, width, world):
            cols = slice(max(left, 0), min(left + size, width))
            if rows.start < rows.stop and cols.start < cols.stop:
                part = known[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
                self._grid[rows, cols] |= part

    def coordinates(self) -> npt.NDArray[np.int64]:
        """Return the (x, y) of the quadrants, shape (n, 2), row by row."""
        rows, cols = np.nonzero(self._grid)
        return np.stack([cols + self._box[0], rows + self._box[1]], axis=1)


def _known_below(heights: Heights, child: Tile, zoom: int) -> npt.NDArray[np.bool_]:
    """Return which quadrants below a child of a tile have a height in it, by row and column."""
    half = TILE_SIZE_PX // 2
    row, col = child.y % 2 * half, child.x % 2 * half
    quarter = heights[row : row + half, col : col + half]
    side = 1 << (zoom - child.z)
    known = ~np.isnan(quarter).reshape(side, half // side, side, half // side)
    return np.asarray(known.any(axis=(1, 3)))

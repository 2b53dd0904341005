"""The pixel grids of a source: which files share one, and how coarse it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusi_pipeline.sources import SourceFile

PixelGridKey = tuple[str, str, str]
"""CRS and the two sides of a pixel, to six digits: what decides whether files are averaged."""

PHASE_PX = 0.02
"""Pixel grids that agree to this are one grid; GDAL's mosaics round such offsets too."""


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """Files that share a CRS and a pixel grid, whose origin is the corner of the first file."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    files: tuple[tuple[SourceFile, int, int], ...]
    """Each file with the column and row of its corner."""

    @property
    def key(self) -> PixelGridKey:
        """What this grid has in common with every grid of the same resolution."""
        return pixel_grid_key(self.files[0][0])

    def position(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return (column, row) of coordinates in the grid's CRS."""
        a, _, c, _, e, f = self.transform
        return (x - c) / a, (y - f) / e


def pixel_sides_m(file: SourceFile) -> tuple[float, float]:
    """Return the width and height of a file's pixels in EPSG:3857 metres."""
    width_m = sum(part.right - part.left for part in file.box.parts())
    return width_m / file.width, (file.box.top - file.box.bottom) / file.height


def pixel_grid_key(file: SourceFile) -> PixelGridKey:
    """Return what files of one CRS and resolution have in common."""
    return file.crs, f"{file.transform[0]:.6g}", f"{file.transform[4]:.6g}"


def pixel_grids(files: Sequence[SourceFile]) -> list[PixelGrid]:
    """Return the files grouped by pixel grid, in order of first appearance."""
    groups: list[tuple[SourceFile, list[tuple[SourceFile, int, int]]]] = []
    for file in files:
        for first, members in groups:
            offset = _offset(first, file)
            if offset is not None:
                members.append((file, *offset))
                break
        else:
            groups.append((file, [(file, 0, 0)]))
    return [PixelGrid(first.crs, first.transform, tuple(members)) for first, members in groups]


def _offset(first: SourceFile, file: SourceFile) -> tuple[int, int] | None:
    """Return the whole columns and rows from one file's corner to another's, or None off its grid."""
    if first.crs != file.crs:
        return None
    a, _, c, _, e, f = first.transform
    drift = max(abs(file.transform[0] / a - 1) * file.width, abs(file.transform[4] / e - 1) * file.height)
    col, row = (file.transform[2] - c) / a, (file.transform[5] - f) / e
    if drift > PHASE_PX or max(abs(col - round(col)), abs(row - round(row))) > PHASE_PX:
        return None
    return round(col), round(row)

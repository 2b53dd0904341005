"""One window of one source, warped once, as heights with NaN where missing.

All files of the source that touch the window are mosaicked on their own pixel
grid first, so that neighbouring files meet without a seam; files on different
grids or in different CRSs are warped one grid after another, finest first,
each filling what is still missing. Coordinates come from PROJ on a lattice
that is refined until interpolating in it is exact (`Lattice`, `_TOLERANCE_PX`).
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.env import set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform as project_points
from rasterio.windows import Window

from fusi_pipeline import height_shift
from fusi_pipeline.errors import SourceUnreadable
from fusi_pipeline.pixel_grid import PHASE_PX, PixelGrid, PixelGridKey, pixel_grids
from fusi_pipeline.sources import SourceFile, heights_m
from fusi_pipeline.tasks import WarpParameters
from fusi_pipeline.tiles import grid, resample
from fusi_pipeline.tiles.grid import XYBounds
from fusi_pipeline.tiles.resample import Heights, Lattice
from fusi_pipeline.vertical_shift import Shift

_WEB_MERCATOR = CRS.from_epsg(3857)
_SPACING_PX = 32
_TOLERANCE_PX = 1e-4
"""Largest error of an interpolated coordinate, in source pixels, before the lattice is refined."""
_MAX_SOURCE_PX = 4096 * 4096
"""A source window larger than this is warped in quarters, to bound memory."""


@dataclass(frozen=True, slots=True)
class TargetWindow:
    """A rectangle of the global pixel grid of a zoom; (0, 0) is the north-west corner of the world."""

    z: int
    col_off: int
    row_off: int
    width: int
    height: int

    @property
    def box(self) -> XYBounds:
        """The window in EPSG:3857 metres."""
        size = grid.resolution_m(self.z)
        left = -grid.HALF_WORLD_M + self.col_off * size
        top = grid.HALF_WORLD_M - self.row_off * size
        return XYBounds(left, top - self.height * size, left + self.width * size, top)

    def quarters(self) -> list[TargetWindow]:
        """Return the window cut in four (in two where it is one pixel wide or high)."""
        parts = []
        for row_off, height in _halves(self.row_off, self.height):
            for col_off, width in _halves(self.col_off, self.width):
                parts.append(TargetWindow(self.z, col_off, row_off, width, height))
        return parts


def configure_gdal(cache_mib: int, threads: int) -> None:
    """Set, for the rest of this process, GDAL's block cache and its threads for decoding.

    Folders are not listed when a file is opened: they may hold half a million.
    """
    set_gdal_config("GDAL_CACHEMAX", cache_mib << 20)  # rasterio takes bytes for this one
    set_gdal_config("GDAL_NUM_THREADS", threads)
    set_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")


class Datasets:
    """The source files a worker keeps open, the least recently used closed first."""

    def __init__(self, folder: Path, limit: int = 64) -> None:
        self._folder = folder
        self._limit = limit
        self._open: OrderedDict[str, Any] = OrderedDict()

    def dataset(self, filename: str) -> Any:
        """Return a file of the folder, open for reading. Raises SourceUnreadable."""
        if filename in self._open:
            self._open.move_to_end(filename)
            return self._open[filename]
        path = self._folder / filename
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = rasterio.open(path)
        except (RasterioError, OSError) as error:
            raise SourceUnreadable(path, _reason(error)) from error
        self._open[filename] = dataset
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return dataset

    def read(self, file: SourceFile, window: Window, parameters: WarpParameters) -> Heights:
        """Return the heights of a window of a file, shape (window.height, window.width)."""
        dataset = self.dataset(file.filename)
        try:
            raw = dataset.read(1, window=window)
            mask = dataset.read_masks(1, window=window) if file.has_mask else None
        except (RasterioError, OSError) as error:
            raise SourceUnreadable(self._folder / file.filename, _reason(error)) from error
        return heights_m(raw, mask, file, parameters.unit_factor, parameters.offset_m)

    def close(self) -> None:
        """Close every file."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: BaseException) -> str:
    """Return what GDAL said, which rasterio keeps in the cause of its own error."""
    return str(error.__cause__ or error).rstrip(".")


def warp(
    files: Sequence[SourceFile],
    datasets: Datasets,
    window: TargetWindow,
    parameters: WarpParameters,
    *,
    part: TargetWindow | None = None,
    threads: int = 1,
) -> Heights:
    """Return the heights of a target window, shape (height, width), NaN where no file has any.

    `files` are those that may touch the window, in order of precedence where
    they overlap on one grid; of overlapping grids the finest has precedence.
    Heights are converted to the vertical CRS that the source wants. Of a `part`
    of the window only its heights are returned, which are to the last bit those
    that it has in the whole; less is read, and less memory taken. Raises
    SourceUnreadable and OutsideGeoidGrid.
    """
    if part is None:
        out = np.full((window.height, window.width), np.nan, dtype=np.float32)
        place = out
    else:  # what is not missing is not made: only the part is
        out = np.zeros((window.height, window.width), dtype=np.float32)
        row, col = part.row_off - window.row_off, part.col_off - window.col_off
        place = out[row : row + part.height, col : col + part.width]
        place.fill(np.nan)
    for pixel_grid, shift in _grids(files, parameters):
        method = parameters.resampling
        if pixel_grid.key in parameters.averaged:
            method = "average"
        for near in _touched(window, [file for file, _, _ in pixel_grid.files]):
            rows = slice(near.row_off - window.row_off, near.row_off - window.row_off + near.height)
            cols = slice(near.col_off - window.col_off, near.col_off - window.col_off + near.width)
            target = out[rows, cols]
            before = None if shift is None else np.isnan(target)
            _warp_grid(pixel_grid, datasets, near, method, parameters, target, threads, part is not None)
            if shift is not None and before is not None:
                _convert(target, before & ~np.isnan(target), near, shift)
    return place if part is None else place.copy()


def _grids(files: Sequence[SourceFile], parameters: WarpParameters) -> list[tuple[PixelGrid, Shift | None]]:
    """Return the pixel grids of files, those with precedence first, with what is added to their heights.

    Files whose heights are converted differently are never one grid.
    """
    groups: dict[Shift | None, list[SourceFile]] = {}
    for file in files:
        groups.setdefault(parameters.vertical.shift(file.vertical_crs), []).append(file)
    grids = [(one, shift) for shift, members in groups.items() for one in pixel_grids(members)]
    return sorted(grids, key=lambda pair: (_precedence(pair[0]), "" if pair[1] is None else pair[1].digest))


def _convert(out: Heights, filled: npt.NDArray[np.bool_], window: TargetWindow, shift: Shift) -> None:
    """Add a shift to the heights of a window that were filled just now."""
    for rows, cols, metres in height_shift.shifts(shift, window.z, window.col_off, window.row_off, filled):
        part = out[rows, cols]
        np.add(part, metres, out=part, where=filled[rows, cols])


def _precedence(pixel_grid: PixelGrid) -> tuple[float, PixelGridKey, tuple[int, int]]:
    """Return what pixel grids are sorted by: finest first.

    Only what all files of a grid have in common counts, so that two grids have
    the same order in every window, whichever of their files reach into it.
    """
    crs, width, height = pixel_grid.key
    a, _, c, _, e, f = pixel_grid.transform
    size_m = _unit_m(crs) * min(abs(float(width)), abs(float(height)))
    return size_m, pixel_grid.key, (_phase(c / a), _phase(f / e))


def _phase(corner_px: float) -> int:
    """Return where in a pixel a grid's corner lies, coarse enough to be one number for all its files."""
    return math.floor(corner_px / PHASE_PX + 0.3) % round(1 / PHASE_PX)


@lru_cache(maxsize=64)
def _unit_m(wkt: str) -> float:
    """Return the length of a CRS's unit in metres, on the equator where it is an angle."""
    crs = CRS.from_wkt(wkt)
    _, per_unit = crs.units_factor
    return float(per_unit) * (grid.EARTH_RADIUS_M if crs.is_geographic else 1)


def _warp_grid(
    pixel_grid: PixelGrid,
    datasets: Datasets,
    window: TargetWindow,
    method: str,
    parameters: WarpParameters,
    out: Heights,
    threads: int,
    sparing: bool,
) -> None:
    """Fill what is missing of a window from one pixel grid.

    `sparing` means that only a part is missing, and that only what that needs
    is to be read; coordinates are those of the whole all the same.
    """
    missing = np.isnan(out)
    if not missing.any():
        return
    lattice, period = _lattice(pixel_grid, window)
    margin = resample.RADIUS_PX[method] + 1
    extent = _source_extent(pixel_grid, lattice, period, margin)
    if extent is None:
        return
    col_off, row_off, width, height = extent
    if width * height > _MAX_SOURCE_PX and window.width * window.height > 1:
        for quarter in window.quarters():
            row, col = quarter.row_off - window.row_off, quarter.col_off - window.col_off
            target = out[row : row + quarter.height, col : col + quarter.width]
            _warp_grid(pixel_grid, datasets, quarter, method, parameters, target, threads, sparing)
        return
    if sparing:
        near = _around(lattice, missing)
        needed = _source_extent(pixel_grid, near, period, margin + _overshoot_px(near))
        source = None if needed is None else _mosaic_part(pixel_grid, datasets, extent, needed, parameters)
    else:
        source = _mosaic(pixel_grid, datasets, extent, parameters)
    if source is None:
        return
    shifted = Lattice(lattice.spacing, lattice.x - col_off, lattice.y - row_off)
    resample.sample(source, shifted, method, out, period=period, threads=threads)


def _mosaic(
    pixel_grid: PixelGrid,
    datasets: Datasets,
    extent: tuple[int, int, int, int],
    parameters: WarpParameters,
) -> Heights | None:
    """Return the heights of a rectangle of the pixel grid from every file that touches it."""
    col_off, row_off, width, height = extent
    mosaic: Heights | None = None
    for file, file_col, file_row in pixel_grid.files:
        left, top = max(col_off, file_col), max(row_off, file_row)
        right = min(col_off + width, file_col + file.width)
        bottom = min(row_off + height, file_row + file.height)
        if left >= right or top >= bottom:
            continue
        window = Window(left - file_col, top - file_row, right - left, bottom - top)
        part = datasets.read(file, window, parameters)
        if mosaic is None and part.shape == (height, width):
            mosaic = part
            continue
        if mosaic is None:
            mosaic = np.full((height, width), np.nan, dtype=np.float32)
        place = mosaic[top - row_off : bottom - row_off, left - col_off : right - col_off]
        np.copyto(place, part, where=np.isnan(place))
    return mosaic


def _mosaic_part(
    pixel_grid: PixelGrid,
    datasets: Datasets,
    extent: tuple[int, int, int, int],
    needed: tuple[int, int, int, int],
    parameters: WarpParameters,
) -> Heights | None:
    """Return the mosaic of `extent` of which only the rectangle `needed` may be looked at.

    The system gives memory to the pages that are written to, and no others.
    """
    col_off, row_off, width, height = extent
    left, top = max(needed[0], col_off), max(needed[1], row_off)
    right = min(needed[0] + needed[2], col_off + width)
    bottom = min(needed[1] + needed[3], row_off + height)
    if left >= right or top >= bottom:
        return None
    part = _mosaic(pixel_grid, datasets, (left, top, right - left, bottom - top), parameters)
    if part is None:
        return None
    mosaic = np.empty((height, width), dtype=np.float32)
    mosaic[top - row_off : bottom - row_off, left - col_off : right - col_off] = part
    return mosaic


def _around(lattice: Lattice, missing: npt.NDArray[np.bool_]) -> Lattice:
    """Return the cells of a lattice that hold the missing pixels of its window."""
    rows, cols = np.flatnonzero(missing.any(axis=1)), np.flatnonzero(missing.any(axis=0))
    cell = 2 * lattice.spacing
    i = slice(2 * (int(rows[0]) // cell), 2 * (int(rows[-1]) // cell) + 3)
    j = slice(2 * (int(cols[0]) // cell), 2 * (int(cols[-1]) // cell) + 3)
    return Lattice(lattice.spacing, lattice.x[i, j], lattice.y[i, j])


def _overshoot_px(lattice: Lattice) -> int:
    """Return by how many pixels coordinates within the cells may lie beyond those at their corners."""
    bent = [0.0]
    for grid_of in (lattice.x, lattice.y):
        for axis in (0, 1):
            with np.errstate(invalid="ignore"):  # positions that have no coordinates
                second = np.abs(np.diff(grid_of, n=2, axis=axis))
            bent.append(float(np.max(second, initial=0.0, where=np.isfinite(second))))
    return 1 + math.ceil(sum(bent))


def _lattice(pixel_grid: PixelGrid, window: TargetWindow) -> tuple[Lattice, float]:
    """Return source coordinates for a window, fine enough, and the world's width in columns."""
    crs = CRS.from_wkt(pixel_grid.crs)
    period = abs(_turn(crs) / pixel_grid.transform[0])
    spacing = _SPACING_PX
    while True:
        lattice = _project(pixel_grid, crs, window, spacing, period)
        if spacing == 1 or _lattice_error(pixel_grid, crs, window, lattice, period) <= _TOLERANCE_PX:
            return lattice, period
        spacing //= 2


def _project(pixel_grid: PixelGrid, crs: CRS, window: TargetWindow, spacing: int, period: float) -> Lattice:
    cells_x = -(-window.width // (2 * spacing))
    cells_y = -(-window.height // (2 * spacing))
    cols = np.arange(2 * cells_x + 1, dtype=np.float64) * spacing
    rows = np.arange(2 * cells_y + 1, dtype=np.float64) * spacing
    x, y = _source_positions(pixel_grid, crs, window, *np.meshgrid(cols, rows))
    if period:
        x = np.unwrap(np.unwrap(x, period=period, axis=1), period=period, axis=0)
    return Lattice(spacing, x, y)


def _source_positions(
    pixel_grid: PixelGrid,
    crs: CRS,
    window: TargetWindow,
    cols: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    size = grid.resolution_m(window.z)
    x_m = -grid.HALF_WORLD_M + (window.col_off + cols.ravel()) * size
    y_m = grid.HALF_WORLD_M - (window.row_off + rows.ravel()) * size
    xs, ys = project_points(_WEB_MERCATOR, crs, x_m, y_m)
    x, y = pixel_grid.position(np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64))
    return x.reshape(cols.shape), y.reshape(cols.shape)


def _lattice_error(
    pixel_grid: PixelGrid, crs: CRS, window: TargetWindow, lattice: Lattice, period: float
) -> float:
    """Return the largest error, in source pixels, at a sample of positions between the lattice's corners."""
    if not (np.isfinite(lattice.x).all() and np.isfinite(lattice.y).all()):
        return math.inf
    cols = np.linspace(lattice.spacing / 2, max(window.width - lattice.spacing / 2, 1), 6)
    rows = np.linspace(lattice.spacing / 2, max(window.height - lattice.spacing / 2, 1), 6)
    cols = (np.floor(cols / lattice.spacing) + 0.5) * lattice.spacing
    rows = (np.floor(rows / lattice.spacing) + 0.5) * lattice.spacing
    at_col, at_row = (axis.ravel() for axis in np.meshgrid(cols, rows))
    exact_x, exact_y = _source_positions(pixel_grid, crs, window, at_col, at_row)
    near_x, near_y = lattice.at(at_col, at_row)
    off = np.abs(near_x - exact_x)
    if period:
        off = np.minimum(off % period, period - off % period)
    error = float(np.max([off, np.abs(near_y - exact_y)]))
    return error if math.isfinite(error) else math.inf


def _source_extent(
    pixel_grid: PixelGrid, lattice: Lattice, period: float, margin: int
) -> tuple[int, int, int, int] | None:
    """Return (col_off, row_off, width, height) of what the lattice needs of the files, or None."""
    finite = np.isfinite(lattice.x) & np.isfinite(lattice.y)
    if not finite.any():
        return None
    left_px, right_px = float(lattice.x[finite].min()), float(lattice.x[finite].max())
    top_px, bottom_px = float(lattice.y[finite].min()), float(lattice.y[finite].max())
    first_col = min(col for _, col, _ in pixel_grid.files)
    last_col = max(col + file.width for file, col, _ in pixel_grid.files)
    first_row = min(row for _, _, row in pixel_grid.files)
    last_row = max(row + file.height for file, _, row in pixel_grid.files)
    spans = []
    for turns in (-1, 0, 1) if period else (0,):
        start = max(math.floor(left_px + turns * period) - margin, first_col)
        stop = min(math.ceil(right_px + turns * period) + margin, last_col)
        if start < stop:
            spans.append((start, stop))
    top = max(math.floor(top_px) - margin, first_row)
    bottom = min(math.ceil(bottom_px) + margin, last_row)
    if not spans or top >= bottom:
        return None
    left, right = min(start for start, _ in spans), max(stop for _, stop in spans)
    return left, top, right - left, bottom - top


def _touched(window: TargetWindow, files: Sequence[SourceFile]) -> list[TargetWindow]:
    """Return the part of a window that the files' boxes cover (two parts, at most, round the world).

    Boxes are widened a little: they come from edges sampled at intervals.
    """
    size = grid.resolution_m(window.z)
    first_col, last_col = window.col_off + window.width, window.col_off
    first_row, last_row = window.row_off + window.height, window.row_off
    for file in files:
        for box in file.box.parts():
            slack = 2 * size + 0.002 * max(box.right - box.left, box.top - box.bottom)
            left = math.floor((box.left - slack + grid.HALF_WORLD_M) / size)
            right = math.ceil((box.right + slack + grid.HALF_WORLD_M) / size)
            top = math.floor((grid.HALF_WORLD_M - box.top - slack) / size)
            bottom = math.ceil((grid.HALF_WORLD_M - box.bottom + slack) / size)
            if right <= window.col_off or left >= window.col_off + window.width:
                continue
            if bottom <= window.row_off or top >= window.row_off + window.height:
                continue
            first_col, last_col = min(first_col, left), max(last_col, right)
            first_row, last_row = min(first_row, top), max(last_row, bottom)
    first_col, first_row = max(first_col, window.col_off), max(first_row, window.row_off)
    last_col = min(last_col, window.col_off + window.width)
    last_row = min(last_row, window.row_off + window.height)
    if first_col >= last_col or first_row >= last_row:
        return []
    return [TargetWindow(window.z, first_col, first_row, last_col - first_col, last_row - first_row)]


def _halves(offset: int, length: int) -> list[tuple[int, int]]:
    if length == 1:
        return [(offset, 1)]
    half = length // 2
    return [(offset, half), (offset + half, length - half)]


def _turn(crs: CRS) -> float:
    """Return a full turn round the world in the units of a CRS; 0 where coordinates do not go round."""
    if crs == _WEB_MERCATOR:
        return 2 * grid.HALF_WORLD_M
    _, radians_per_unit = crs.units_factor
    return 2 * math.pi / float(radians_per_unit) if crs.is_geographic else 0.0

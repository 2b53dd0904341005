"""Small rasters with known heights for the tests of the whole project.

Heights are float64 arrays of shape (rows, cols), row 0 in the north, made from
a formula and never from chance. `write` puts any of them into a file; the
other writers make one kind of broken or unusual file each.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

Heights = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def plane(
    rows: int, cols: int, *, corner_m: float = 100.0, east_m: float = 1.0, south_m: float = 2.0
) -> Heights:
    """Return a tilted plane: `corner_m` at the north-west pixel, rising per pixel to the east and south."""
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float64)
    heights: Heights = corner_m + east_m * x + south_m * y
    return heights


def cone(rows: int, cols: int, *, top_m: float = 1000.0, slope_m: float = 10.0) -> Heights:
    """Return a cone around the middle: `top_m` less `slope_m` per pixel of distance."""
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float64)
    heights: Heights = top_m - slope_m * np.hypot(y - (rows - 1) / 2, x - (cols - 1) / 2)
    return heights


def terrain(
    rows: int, cols: int, *, base_m: float = 500.0, relief_m: float = 300.0, phase: float = 0.0
) -> Heights:
    """Return rough terrain within about `relief_m` of `base_m`: waves of seven sizes, no two in step."""
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float64)
    heights = np.zeros((rows, cols))
    for octave in range(7):
        turn, length = phase + 1.7 * octave, 300.0 / 2**octave
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        heights += np.sin(along / length + turn) * np.cos(across / (1.3 * length) - turn) / 2**octave
    return base_m + relief_m / 2 * heights


def hole(rows: int, cols: int, *, share: float = 0.3) -> Mask:
    """Return a ragged blob around the middle that covers about `share` of the pixels, True inside."""
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float64)
    angle = np.arctan2(y - rows / 2, x - cols / 2)
    ragged = 1 + 0.25 * np.sin(3 * angle) + 0.15 * np.sin(7 * angle + 1)
    distance = np.hypot((y - rows / 2) / rows, (x - cols / 2) / cols) / ragged
    inside: Mask = distance <= np.quantile(distance, share)
    return inside


def write(
    path: Path,
    heights: Heights,
    *,
    crs: str | None = "EPSG:4326",
    left: float = 7.0,
    top: float = 47.0,
    pixel: float | tuple[float, float] = 0.01,
    nodata: float | None = None,
    absent: Mask | None = None,
    fill: float | None = None,
    dtype: str = "float32",
    tile_px: int | None = None,
    mask_band: bool = False,
    alpha: bool = False,
    south_up: bool = False,
    scale: float = 1.0,
    offset: float = 0.0,
    transform: Affine | None = None,
    **options: Any,
) -> Path:
    """Write heights as a one-band raster and return its path.

    `left` and `top` are the outer corner and `pixel` the size of a pixel (x, y)
    in the units of the CRS. `absent` pixels hold `fill` (`nodata` unless
    given), and are masked where there is a `mask_band` or an `alpha` band.
    Stored numbers are (heights - offset) / scale. `transform` replaces all of
    the placing; `options` go to GDAL.
    """
    wide, high = pixel if isinstance(pixel, tuple) else (pixel, pixel)
    numbers = (heights - offset) / scale
    filler = nodata if fill is None else fill
    if absent is not None and filler is not None:
        numbers = np.where(absent, filler, numbers)
    placed = Affine(wide, 0, left, 0, -high, top) if transform is None else transform
    if south_up:
        numbers = numbers[::-1]
        placed = Affine(wide, 0, left, 0, high, top - high * heights.shape[0])
    rows, cols = heights.shape
    profile: dict[str, Any] = {"driver": "GTiff", "width": cols, "height": rows, "dtype": dtype, **options}
    profile |= {"count": 2 if alpha else 1, "crs": crs, "transform": placed, "nodata": nodata}
    if tile_px is not None:
        profile |= {"tiled": True, "blockxsize": tile_px, "blockysize": tile_px}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.dtype(dtype).kind in "iu"
    valid = np.where(np.zeros(heights.shape, bool) if absent is None else absent, 0, 255)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write((np.rint(numbers) if whole else numbers).astype(dtype), 1)
            if scale != 1.0 or offset != 0.0:
                dataset.scales, dataset.offsets = (scale,), (offset,)
            if alpha:
                dataset.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
                dataset.write(valid.astype(dtype), 2)
            if mask_band:
                dataset.write_mask(valid.astype(np.uint8))
    return path


def write_many(
    folder: Path,
    heights: Heights,
    cuts: int,
    *,
    left: float = 7.0,
    top: float = 47.0,
    pixel: float = 0.01,
    **how: Any,
) -> list[Path]:
    """Write heights as `cuts` by `cuts` neighbouring files, named row-column, and return their paths."""
    paths = []
    step_y, step_x = (-(-size // cuts) for size in heights.shape)
    for row in range(cuts):
        for col in range(cuts):
            part = heights[row * step_y : (row + 1) * step_y, col * step_x : (col + 1) * step_x]
            place = {"left": left + col * step_x * pixel, "top": top - row * step_y * pixel, "pixel": pixel}
            paths.append(write(folder / f"{row}-{col}.tif", part, **{**place, **how}))
    return paths


def write_rotated(path: Path, degrees: float = 10.0) -> Path:
    """Write a raster whose grid is turned against north."""
    east, north = 30 * math.cos(math.radians(degrees)), 30 * math.sin(math.radians(degrees))
    turned = Affine(east, north, 500_000, north, -east, 5_000_000)
    return write(path, plane(20, 20), crs="EPSG:32632", transform=turned)


def write_without_place(path: Path) -> Path:
    """Write a raster that has a CRS but no geotransform."""
    return write(path, plane(20, 20), transform=Affine.identity())


def write_two_bands(path: Path) -> Path:
    """Write a raster of two bands, neither of them alpha."""
    return _write_bands(path, 2)


def write_with_gcps(path: Path) -> Path:
    """Write a raster that is placed by ground control points."""

    def place(dataset: Any) -> None:
        corners = [(0, 0, 7.0, 47.0), (0, 20, 7.2, 47.0), (20, 0, 7.0, 46.8), (20, 20, 7.2, 46.8)]
        points = [GroundControlPoint(row=row, col=col, x=x, y=y) for row, col, x, y in corners]
        dataset.gcps = (points, CRS.from_epsg(4326))

    return _write_bands(path, 1, place)


def write_complex(path: Path) -> Path:
    """Write a raster of complex numbers."""
    return _write_bands(path, 1, dtype="complex64")


def truncate(path: Path, share: float = 0.6) -> Path:
    """Cut the end off a file, keeping `share` of its bytes; return its path."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def write_vrt(path: Path, members: Sequence[Path]) -> Path:
    """Write a VRT mosaic of one-band, north-up members on one pixel grid, named relative to it."""
    with rasterio.open(members[0]) as dataset:
        wkt, kind, nodata = dataset.crs.to_wkt(), dataset.dtypes[0], dataset.nodata
        wide, high = dataset.transform.a, -dataset.transform.e
    placed = []
    for member in members:
        with rasterio.open(member) as dataset:
            placed.append((member, dataset.bounds, dataset.width, dataset.height))
    left, top = min(box.left for _, box, _, _ in placed), max(box.top for _, box, _, _ in placed)
    cols = round((max(box.right for _, box, _, _ in placed) - left) / wide)
    rows = round((top - min(box.bottom for _, box, _, _ in placed)) / high)
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(member.name)}</SourceFilename>'
        f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
        f'<DstRect xOff="{round((box.left - left) / wide)}" yOff="{round((top - box.top) / high)}" '
        f'xSize="{width}" ySize="{height}"/></SimpleSource>'
        for member, box, width, height in placed
    )
    absent = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    path.write_text(
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}"><SRS>{escape(wkt)}</SRS>'
        f"<GeoTransform>{left!r}, {wide!r}, 0, {top!r}, 0, {-high!r}</GeoTransform>"
        f'<VRTRasterBand dataType="{kind.capitalize()}" band="1">{absent}{sources}'
        "</VRTRasterBand></VRTDataset>",
        encoding="utf-8",
    )
    return path


def _write_bands(
    path: Path, count: int, place: Callable[[Any], None] | None = None, dtype: str = "float32"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {"driver": "GTiff", "width": 20, "height": 20, "count": count, "dtype": dtype}
    if place is None:
        profile |= {"crs": "EPSG:4326", "transform": Affine(0.01, 0, 7, 0, -0.01, 47)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(np.stack([plane(20, 20).astype(dtype)] * count))
            if place is not None:
                place(dataset)
    return path

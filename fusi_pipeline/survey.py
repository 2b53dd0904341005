"""One raster of a source: opened, checked, hashed and read through once.

Runs in threads; GDAL and hashing release the interpreter lock.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform, transform_bounds
from rasterio.windows import Window

from fusi_pipeline import vertical
from fusi_pipeline.census import Census
from fusi_pipeline.footprint import Coordinates, Extent, OutsideMercator, footprint, width_m
from fusi_pipeline.sketch import Sketcher
from fusi_pipeline.sources import (
    AUTO_MAXZOOM_CAP,
    BrokenFile,
    RasterEntry,
    SourceConfig,
    SourceFile,
    metres_per_number,
    part_state,
)
from fusi_pipeline.tiles.grid import MAX_LATITUDE_DEG, XYBounds, zoom_for_resolution

_WINDOW_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_WIDE_STRIP_PX = 30_000
_METRE_NAMES = {"", "m", "metre", "metres", "meter", "meters", "metre (m)"}
_OPENING = threading.Lock()
_WGS84 = CRS.from_epsg(4326)
_MERCATOR = CRS.from_epsg(3857)


class _Unusable(Exception):
    """A file cannot be used; the message is a sentence about it."""


class _Stopped(Exception):
    """The scan is over; nobody waits for this file."""


class Survey:
    """Looks at the files of a source, in any thread; call it with an entry of the folder."""

    def __init__(self, folder: Path, config: SourceConfig) -> None:
        self._folder = folder
        self._config = config
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Make surveys under way end soon, without an answer of use."""
        self._stopping.set()

    def __call__(self, entry: RasterEntry) -> SourceFile | BrokenFile:
        """Return the record of a file, or what is wrong with it."""
        try:
            # Without a listing of the folder at every open, which half a million files cannot afford.
            # Old GeoTIFFs too shall tell what their heights are counted from.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE", GTIFF_REPORT_COMPD_CS="YES"):
                return self._survey(entry)
        except _Unusable as unusable:
            problem = str(unusable)
        except OutsideMercator as outside:
            problem = str(outside)
        except _Stopped:
            problem = "the scan was stopped"
        except CRSError as error:
            problem = f"its CRS cannot be used: {_reason(error)}"
        except (RasterioError, OSError, CPLE_BaseError) as error:
            problem = f"cannot be read to its end, damaged or truncated: {_reason(error)}"
        return BrokenFile(
            filename=entry.filename,
            problem=problem,
            size_bytes=entry.size_bytes,
            mtime_ns=entry.mtime_ns,
        )

    def _survey(self, entry: RasterEntry) -> SourceFile:
        path = self._folder / entry.filename
        with _open(path) as dataset:
            _check(dataset)
            crs, vertical_crs = _crs(dataset.crs.to_wkt())
            box = _box(dataset, crs)
            parts = self._parts(dataset, entry)
            fingerprint = self._fingerprint(path, [name for name, _, _ in parts])
            census, sketcher = self._census(dataset)
            if (problem := census.problem()) is not None:
                raise _Unusable(problem)
            pixel_m = min(width_m(box) / dataset.width, (box.top - box.bottom) / dataset.height)
            minimum, maximum = census.heights_m
            return SourceFile(
                filename=entry.filename,
                size_bytes=entry.size_bytes,
                mtime_ns=entry.mtime_ns,
                fingerprint=fingerprint,
                crs=crs,
                transform=tuple(dataset.transform)[:6],
                width=dataset.width,
                height=dataset.height,
                dtype=dataset.dtypes[0],
                nodata=self._nodata(dataset),
                scale=dataset.scales[0],
                offset=dataset.offsets[0],
                has_mask=_has_mask(dataset),
                valid_pixels=census.valid,
                minimum=minimum,
                maximum=maximum,
                box=box,
                maxzoom=min(AUTO_MAXZOOM_CAP, zoom_for_resolution(pixel_m)),
                warnings=tuple(_warnings(dataset, census, self._config)),
                parts=tuple(parts),
                vertical_crs=vertical_crs,
                sketch=sketcher.text(),
            )

    def _nodata(self, dataset: Any) -> float | None:
        nodata = dataset.nodata if self._config.nodata is None else self._config.nodata
        return None if nodata is None else float(nodata)

    def _parts(self, dataset: Any, entry: RasterEntry) -> list[tuple[str, int, int]]:
        """Return (path as from the folder, bytes, mtime_ns) of the sidecars and members of a file."""
        names = set(entry.sidecars)
        for name in _members(dataset):
            local = not name.startswith("/vsi") and "://" not in name
            names.add(Path(os.path.relpath(name, self._folder)).as_posix() if local else name)
        return [part_state(self._folder, name) for name in sorted(names - {entry.filename})]

    def _fingerprint(self, path: Path, parts: list[str]) -> str:
        """Return the SHA-256 (hex) of a file, and of its parts with their names."""
        digest = hashlib.sha256()
        self._hash(digest, path)
        for name in parts:
            digest.update(f"\0{name}\0".encode())
            with suppress(FileNotFoundError):  # not a local file
                self._hash(digest, self._folder / name)
        return digest.hexdigest()

    def _hash(self, digest: Any, path: Path) -> None:
        buffer = bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                self._check_stop()
                digest.update(view[:count])

    def _census(self, dataset: Any) -> tuple[Census, Sketcher]:
        config = self._config
        gain, shift = metres_per_number(
            dataset.scales[0], dataset.offsets[0], config.unit_factor, config.offset_m
        )
        census = Census(self._nodata(dataset), gain, shift)
        sketcher = Sketcher(dataset.width, dataset.height, self._nodata(dataset))
        masked = _has_mask(dataset)
        for window in _windows(dataset):
            self._check_stop()
            raw = dataset.read(1, window=window)
            mask = dataset.read_masks(1, window=window) if masked else None
            census.feed(raw, mask)
            sketcher.feed(raw, mask, int(window.col_off), int(window.row_off))
        return census, sketcher

    def _check_stop(self) -> None:
        if self._stopping.is_set():
            raise _Stopped


def gdal_facts() -> tuple[str, frozenset[str]]:
    """Return GDAL's version, and the names of the drivers that it can read with."""
    with rasterio.Env() as env:
        return str(rasterio.__gdal_version__), frozenset(env.drivers())


@contextmanager
def cache_limit(mib: int | None) -> Iterator[None]:
    """Hold GDAL's block cache to a size for a while; None leaves it alone."""
    if mib is None:
        yield
        return
    before = get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", mib << 20)
    try:
        yield
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)


def _open(path: Path) -> Any:
    # The filters of `warnings` belong to the whole process; the check is made from the transform instead.
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(path)
        except RasterioError as error:
            reason = _reason(error).replace(str(path), path.name)
            raise _Unusable(f"cannot be opened as a raster: {reason}") from error


def _check(dataset: Any) -> None:
    """Raise _Unusable for what can be told without reading pixels."""
    bands = [
        band
        for band, kind in zip(dataset.indexes, dataset.colorinterp, strict=True)
        if kind != ColorInterp.alpha
    ]
    if bands != [1]:
        raise _Unusable(f"has {len(bands)} bands, not one: extract the heights into a file of their own")
    if dataset.count > 1 and MaskFlags.all_valid in dataset.mask_flag_enums[0]:
        raise _Unusable(
            f"its alpha band is {dataset.dtypes[1]}, which GDAL does not take for a mask: "
            "make it one with gdal_translate -b 1 -mask 2"
        )
    if dataset.dtypes[0].startswith("complex"):
        raise _Unusable(f"holds complex numbers ({dataset.dtypes[0]}), not heights")
    if not dataset.scales[0] or not math.isfinite(dataset.scales[0] + dataset.offsets[0]):
        raise _Unusable(f"its band scale {dataset.scales[0]} and offset {dataset.offsets[0]} give no heights")
    affine = dataset.transform
    if affine.is_identity and (dataset.gcps[0] or dataset.rpcs):
        raise _Unusable("is placed by control points, not a geotransform: warp it with gdalwarp first")
    if affine.is_identity or not affine.a * affine.e - affine.b * affine.d:
        raise _Unusable("has no geotransform, so its place is unknown")
    if dataset.crs is None:
        raise _Unusable("has no CRS: assign the right one with gdal_edit.py -a_srs")
    skew = max(abs(affine.b) * dataset.height, abs(affine.d) * dataset.width)
    if skew > 0.01 * min(abs(affine.a), abs(affine.e)):
        raise _Unusable("is rotated or sheared: warp it to a north-up grid with gdalwarp first")


def _has_mask(dataset: Any) -> bool:
    return MaskFlags.per_dataset in dataset.mask_flag_enums[0]


def _warnings(dataset: Any, census: Census, config: SourceConfig) -> Iterator[str]:
    """Yield what looks odd about a usable file."""
    if census.valid == 0:
        yield "has no valid pixel"
    if (suspicion := census.suspicion()) is not None:
        yield suspicion
    unit = dataset.units[0] or ""
    if unit.lower() not in _METRE_NAMES and config.unit_factor == 1:
        yield f"says its unit is {unit!r}: set unit_factor in source.toml unless these are metres"
    rows, cols = dataset.block_shapes[0]
    if cols == dataset.width > _WIDE_STRIP_PX and rows < dataset.height:
        yield f"strips {cols} px wide are slow to read: convert it to a COG"


def _members(dataset: Any) -> set[str]:
    """Return the paths of all files a dataset is made of, those of a VRT's VRTs too."""
    found: set[str] = set(dataset.files)
    pending = [name for name in found if name.lower().endswith(".vrt") and name != dataset.name]
    while pending:
        with _open(Path(pending.pop())) as inner:
            more = set(inner.files) - found
        found |= more
        pending += [name for name in more if name.lower().endswith(".vrt")]
    return found


def _windows(dataset: Any) -> Iterator[Window]:
    """Yield windows of whole blocks, where these are not too large, that cover a dataset."""
    rows, cols = dataset.block_shapes[0]
    budget = _WINDOW_BYTES // np.dtype(dataset.dtypes[0]).itemsize
    side = math.isqrt(budget)
    cols = min(dataset.width, cols * max(1, min(side, budget // rows) // cols))
    rows = rows * (budget // cols // rows) or max(1, budget // cols)
    for row in range(0, dataset.height, rows):
        for col in range(0, dataset.width, cols):
            yield Window(col, row, min(cols, dataset.width - col), min(rows, dataset.height - row))


@lru_cache(maxsize=64)
def _crs(wkt: str) -> tuple[str, str]:
    """Return the horizontal CRS of a dataset as GDAL writes it, and what it declares of heights."""
    horizontal, declared = vertical.split(wkt)
    return (CRS.from_wkt(horizontal).to_wkt(), declared) if declared else (wkt, "")


def _box(dataset: Any, crs: str) -> XYBounds:
    """Return the box of a dataset in EPSG:3857. Raises OutsideMercator or CRSError."""
    place = _place(crs)
    west, south, east, north = dataset.bounds
    left, right = sorted((west, east))
    bottom, top = sorted((south, north))
    if place.in_degrees and bottom < MAX_LATITUDE_DEG and top > -MAX_LATITUDE_DEG:
        bottom, top = max(bottom, -MAX_LATITUDE_DEG), min(top, MAX_LATITUDE_DEG)
    return footprint((left, bottom, right, top), place.to_lonlat, place.to_mercator, place.poles)


class _Place:
    """A CRS with the ways from it to degrees and web mercator."""

    def __init__(self, wkt: str) -> None:
        self._crs = CRS.from_wkt(wkt)
        probe = np.array([10.0, -100.0]), np.array([20.0, -45.0])
        moved = self.to_lonlat(*probe) if self._crs.is_geographic else (np.full(2, np.inf), probe[1])
        self.in_degrees = all(np.allclose(a, b, atol=0.1) for a, b in zip(probe, moved, strict=True))
        """Coordinates are longitude and latitude in degrees from Greenwich, in whatever datum."""
        x, y = _transformed(_WGS84, self._crs, np.zeros(2), np.array([90.0, -90.0]))
        self.poles = np.full((0, 2), 0.0) if self._crs.is_geographic else np.stack([x, y], axis=1)

    def to_lonlat(self, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Return longitudes and latitudes in degrees, infinite where there are none."""
        return _transformed(self._crs, _WGS84, x, y)

    def to_mercator(self, extent: Extent) -> Extent | None:
        """Return the box of an extent in EPSG:3857 metres, or None where PROJ gives none."""
        try:
            left, bottom, right, top = transform_bounds(self._crs, _MERCATOR, *extent, densify_pts=21)
        except (CPLE_BaseError, RasterioError):
            return None
        return (left, bottom, right, top) if np.isfinite([left, bottom, right, top]).all() else None


_place = lru_cache(maxsize=64)(_Place)


def _transformed(source: CRS, target: CRS, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Return coordinates in another CRS, infinite where PROJ has none."""
    try:
        xs, ys = transform(source, target, x, y)
    except CPLE_BaseError:
        if len(x) == 1:
            return np.full(1, np.inf), np.full(1, np.inf)
        half = len(x) // 2
        first, second = (
            _transformed(source, target, x[part], y[part]) for part in (slice(half), slice(half, None))
        )
        return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
    return np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)


def _reason(error: BaseException) -> str:
    """Return the most telling message of a chain of errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())

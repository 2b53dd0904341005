"""Ways from one vertical reference to another: operations of PROJ, and what one of them adds at a position.

PROJ's network access stays off: a grid is on the disk or it is missing, and a
missing one is an error, for without it PROJ would add nothing and say nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer
from pyproj.crs import CompoundCRS
from pyproj.datadir import get_data_dir, get_user_data_dir  # type: ignore[attr-defined]
from pyproj.exceptions import ProjError
from pyproj.network import set_network_enabled  # type: ignore[attr-defined]
from pyproj.transformer import AreaOfInterest, TransformerGroup

from fusi_pipeline.errors import GeoidGridMissing, HeightsInconvertible
from fusi_pipeline.tiles.grid import Bounds
from fusi_pipeline.vertical import LON_LAT, UNUSABLE_IN_PATHS, Reference

Degrees = npt.NDArray[np.float64]
Metres = npt.NDArray[np.float64]

_GRID_FILES = re.compile(r"\b(?:grids|file|model)=(\S+)")
_PROBE_M = 1000.0
_SAME_M = 1e-3
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Shift:
    """What is added to the heights of a source to count them from elsewhere: one operation of PROJ."""

    source: str
    pipeline: str
    """(longitude, latitude, height) -> (longitude, latitude, height), degrees and the units below."""
    digest: str
    """Hash of the operation and of the content of its grids."""
    description: str
    grids: tuple[str, ...] = ()
    positions: str = ""
    """(longitude, latitude) in WGS 84 -> those of the heights' own datum; empty where it is the same."""
    metres: float = 1.0
    """Metres upward per unit of the heights that the pipeline takes; it gives metres."""

    def at(self, lon: Degrees, lat: Degrees, height_m: float = 0.0) -> Metres:
        """Return the metres to add at WGS 84 positions, in their shape; not finite where there are none.

        Longitudes lie in -180..180.
        """
        if self.positions:
            moved = _transformer(self.positions, "").transform(lon, lat, errcheck=False)
            known = np.isfinite(moved[0])  # elsewhere the difference, of metres, is left out
            lon, lat = (np.where(known, new, old) for new, old in zip(moved, (lon, lat), strict=True))
        given = np.full(np.shape(lon), height_m / self.metres)
        converted = _transformer(self.pipeline, self.digest).transform(lon, lat, given, errcheck=False)[2]
        shift: Metres = np.asarray(converted, dtype=np.float64) - height_m
        return shift


@dataclass(frozen=True, slots=True)
class Conversion:
    """How the heights of a source are converted, and what they are counted from afterwards."""

    shifts: tuple[tuple[str, Shift | None], ...] = ()
    """For each thing that a file of the source may declare (see `split`); None where nothing is added."""
    datum: str = ""
    """Name of what the heights are counted from afterwards; empty where unknown."""
    crs: str = ""
    """The same as a code or WKT."""

    @property
    def description(self) -> str:
        """How heights are converted, in words; empty where they are not."""
        texts = {shift.description for _, shift in self.shifts if shift is not None}
        return "; ".join(sorted(texts))

    def shift(self, declared: str) -> Shift | None:
        """Return what is added to the heights of a file that declares this."""
        return dict(self.shifts).get(declared)


UNCONVERTED = Conversion()


def grid_file(source: str, folder: Path, geoid_grid: str) -> Path:
    """Return the file of a geoid grid: in the source's folder, or else in one of PROJ's data folders.

    Raises GeoidGridMissing.
    """
    for place in (folder, *_data_folders()):
        path = (place / geoid_grid).absolute()
        if path.is_file():
            if UNUSABLE_IN_PATHS & set(str(path)):
                reason = "PROJ takes no path with a comma, a quote or @ in it; move it to another folder"
                raise HeightsInconvertible(source, f"{path}: {reason}")
            return path
    more = f"where PROJ has its grids ({get_user_data_dir()})"
    raise GeoidGridMissing(source, [geoid_grid], folder, more)


def through_grid(source: str, declared: Reference, path: Path) -> Shift:
    """Return the shift from ellipsoidal heights to those above a grid's geoid: H = h - N.

    Raises HeightsInconvertible where PROJ cannot read the grid.
    """
    steps = (
        "proj=pipeline step proj=unitconvert xy_in=deg xy_out=rad "
        f'step proj=vgridshift grids="{path}" multiplier=-1 '
        "step proj=unitconvert xy_in=rad xy_out=deg"
    )
    digest = _digest("H = h - N", declared.base, _content(path))
    try:
        _transformer(steps, digest)
    except ProjError as error:
        raise HeightsInconvertible(
            source, f"{path}: PROJ cannot read it as a grid of geoid heights (.gtx, or .tif in PROJ's form)"
        ) from error
    return Shift(
        source=source,
        pipeline=steps,
        digest=digest,
        description=f"{declared.name} less the geoid heights of {path.name}",
        grids=(path.name,),
        positions=_positions(declared, None),
    )


def between(source: str, declared: Reference, target: Reference, area: Bounds | None) -> Shift | None:
    """Return the shift from one reference to another by PROJ's best operation; None for the same datum.

    `area` is where the heights are; which operation is best is only known with
    it. Raises GeoidGridMissing where the best operation (without an area:
    every one) wants a grid that is not there, and HeightsInconvertible where
    PROJ knows no operation.
    """
    if (declared.datum, declared.ellipsoidal) == (target.datum, target.ellipsoidal):
        return None
    start, end = CRS.from_wkt(declared.crs), CRS.from_wkt(target.crs)
    if not target.ellipsoidal:
        end = CompoundCRS(target.name, [CRS.from_wkt(declared.base), end.sub_crs_list[-1]])
    group = _operations(start, end, area)
    what = f"from {declared.name} to {target.name}"
    strict = area is not None or not group.transformers
    if strict and not group.best_available and group.unavailable_operations:
        best = group.unavailable_operations[0]
        missing = [grid.short_name for grid in best.grids if not grid.available]
        if not missing:
            raise HeightsInconvertible(source, f"PROJ cannot do {best.name}, its way {what}")
        more = "give another way in source.toml (geoid_grid, or a compound vertical_crs)"
        raise GeoidGridMissing(source, missing, Path(get_user_data_dir()), more, what)
    if not group.transformers or "ballpark vertical" in group.transformers[0].description.lower():
        raise HeightsInconvertible(
            source, f"PROJ knows no way {what} there; give geoid_grid or another CRS in source.toml"
        )
    pipeline, positions = group.transformers[0].definition, _positions(declared, area)
    files = _grid_files(pipeline)
    return Shift(
        source=source,
        pipeline=pipeline,
        digest=_digest(pipeline, positions, repr(declared.metres), *map(_content, files)),
        description=f"{declared.name} to {target.name} ({_words(group.transformers[0].description)})",
        grids=tuple(sorted({path.name for path in files})),
        positions=positions,
        metres=declared.metres,
    )


def zero_everywhere(shift: Shift) -> HeightsInconvertible:
    """Return the error for a shift between two datums that adds nothing anywhere."""
    return HeightsInconvertible(
        shift.source,
        f"the shift is zero everywhere ({shift.description}); if that is meant, "
        "leave target_vertical_crs and geoid_grid out and say what the heights are in vertical_datum",
    )


def check_slope(shift: Shift, lon: Degrees, lat: Degrees) -> None:
    """Raise HeightsInconvertible where what is added at positions depends on the height.

    Positions where a shift has no value do not count.
    """
    with np.errstate(invalid="ignore"):
        change = np.abs(shift.at(lon, lat, _PROBE_M) - shift.at(lon, lat))
    if (change > _SAME_M).any():
        raise HeightsInconvertible(
            shift.source,
            f"the shift depends on the height ({shift.description}); convert the files with gdalwarp first",
        )


@lru_cache(maxsize=64)
def to_degrees(crs: str) -> Transformer:
    """Return the way from a CRS (WKT) to longitude and latitude on WGS 84."""
    set_network_enabled(False)
    return Transformer.from_crs(crs, LON_LAT, always_xy=True)


def _operations(start: CRS, end: CRS, area: Bounds | None) -> TransformerGroup:
    set_network_enabled(False)
    box = None if area is None else AreaOfInterest(area.west, area.south, area.east, area.north)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of missing grids, which become errors
        return TransformerGroup(start, end, always_xy=True, area_of_interest=box, allow_ballpark=False)


def _words(description: str) -> str:
    """Return PROJ's description of an operation without the steps that only swap axes."""
    return " + ".join(step for step in description.split(" + ") if step != "axis order change (2D)")


def _positions(declared: Reference, area: Bounds | None) -> str:
    """Return the pipeline from WGS 84 to the positions of a reference; empty where nothing changes."""
    base = CRS.from_wkt(declared.base)
    if base.equals(CRS.from_user_input(LON_LAT), ignore_axis_order=True):
        return ""
    found = _operations(CRS.from_user_input(LON_LAT), base, area).transformers
    pipeline = found[0].definition if found else ""
    return "" if pipeline.startswith("proj=noop") else pipeline


@lru_cache(maxsize=64)
def _transformer(pipeline: str, digest: str) -> Transformer:
    """Return an operation; one whose grids have other content (`digest`) is another."""
    set_network_enabled(False)
    return Transformer.from_pipeline(pipeline)


def _data_folders() -> list[Path]:
    return [Path(get_user_data_dir()), *map(Path, get_data_dir().split(os.pathsep))]


def _grid_files(pipeline: str) -> list[Path]:
    """Return the grids that a pipeline names, wherever PROJ may find them."""
    names = {name.lstrip("@") for text in _GRID_FILES.findall(pipeline) for name in text.split(",")}
    paths = [folder / name for name in sorted(names) for folder in _data_folders()]
    return [path for path in paths if path.is_file()]


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()

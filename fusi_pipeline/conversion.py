"""How the heights of a source are to be converted: what it wishes, what its files declare, what PROJ has.

Reads the index and grids; looked up after every scan and before every plan, so
that what cannot be converted is known before hours of work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from fusi_pipeline import vertical, vertical_shift
from fusi_pipeline.errors import HeightsUndeclared, OutsideGeoidGrid
from fusi_pipeline.sources import SourceConfig, SourceFile, SourceIndex
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Bounds
from fusi_pipeline.vertical_shift import Conversion, Degrees, Metres, Shift

_FILES_AT_ONCE = 4096
_ZERO_M = 1e-6
_PROBES = np.array([[0, 0], [1, 0], [0.5, 0.5], [0, 1], [1, 1]], dtype=np.float64)
"""Where in a file the shift is tried, in shares of the way from the first pixel to the last."""


def is_wanted(config: SourceConfig) -> bool:
    """Tell whether heights of a source are to be converted."""
    return bool(config.target_vertical_crs or config.geoid_grid)


def check_before_scan(name: str, folder: Path, config: SourceConfig) -> None:
    """Raise what can be known to stand in the way of a conversion before any file is read.

    Raises as `conversion` does.
    """
    if not is_wanted(config):
        return
    if config.vertical_crs or config.geoid_grid:
        _shift(name, folder, config, config.vertical_crs, None)


def oddities(config: SourceConfig, declared: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (filename, text) of what files declare that does not go with each other or with `source.toml`.

    `declared` holds what files say of their heights, with the name of the first that does.
    """
    own = {name: vertical.reference(text) for text, name in sorted(declared.items()) if text}
    found = []
    if config.vertical_crs:
        wished = vertical.reference(config.vertical_crs)
        for name, said in own.items():
            if (said.datum, said.ellipsoidal) != (wished.datum, wished.ellipsoidal):
                text = f"its CRS says that heights are {said.name}, vertical_crs in source.toml {wished.name}"
                found.append((name, text))
        return found
    for name, said in own.items():
        if said.metres < 0 and (wrong := vertical.wrong_unit(said, config.unit_factor)) is not None:
            found.append((name, f"its vertical CRS {said.name} {wrong}"))
    if not is_wanted(config) and (differing := vertical.differing(said.name for said in own.values())):
        found.append((next(iter(own)), f"with other files of the source: {differing}"))
    return found


def conversion(
    name: str,
    folder: Path | None,
    config: SourceConfig,
    index: SourceIndex,
    declared: Mapping[str, str],
    bbox: Bounds | None = None,
) -> Conversion:
    """Return how the heights of a source are converted.

    `folder` is where `geoid_grid` is looked for first; `declared` holds what
    files say of their heights, with the name of the first that does. It is
    tried out at files that touch `bbox`. Raises HeightsUndeclared,
    GeoidGridMissing, HeightsInconvertible, and OutsideGeoidGrid where a wholly
    valid one of them reaches out of the grid.
    """
    if not is_wanted(config):
        known = config.vertical_crs or (next(iter(declared)) if len(declared) == 1 else "")
        datum = vertical.reference(known).name if known else ""
        return Conversion(datum=datum, crs=known)
    box = grid.geographic(index.bounds())
    shifts = []
    for text, filename in sorted(declared.items()):
        if not (config.vertical_crs or text or config.geoid_grid):
            raise HeightsUndeclared(
                name,
                f"{filename} does not say what its heights are counted from, so they cannot be converted "
                f"to {config.target_vertical_crs}: set vertical_crs in source.toml",
            )
        shifts.append((text, _shift(name, folder or Path(), config, config.vertical_crs or text, box)))
    found = Conversion(tuple(shifts), *_result(config))
    _try_out(found, index.files() if bbox is None else index.touching(grid.projected(bbox)))
    return found


def _result(config: SourceConfig) -> tuple[str, str]:
    """Return the name and the CRS of what heights are counted from after a conversion."""
    target = config.target_vertical_crs
    if target:
        return vertical.reference(target).name, target
    return f"geoid of {Path(config.geoid_grid).name}", ""


def _shift(name: str, folder: Path, config: SourceConfig, declared: str, area: Bounds | None) -> Shift | None:
    start = vertical.reference(declared or vertical.ELLIPSOIDAL)
    what = f"vertical CRS {start.text if len(start.text) < 40 else start.name}"
    if (wrong := vertical.wrong_unit(start, config.unit_factor)) is not None:
        raise HeightsUndeclared(name, f"{what} {wrong}")
    if config.geoid_grid:
        if not start.ellipsoidal:
            raise HeightsUndeclared(name, vertical.not_ellipsoidal(f"{what} of the files", start))
        path = vertical_shift.grid_file(name, folder, config.geoid_grid)
        return vertical_shift.through_grid(name, start, path)
    return vertical_shift.between(name, start, vertical.reference(config.target_vertical_crs), area)


def _try_out(found: Conversion, files: Iterable[SourceFile]) -> None:
    """Evaluate every shift at some pixels of the files it is for, which may raise (see `conversion`)."""
    moves: dict[Shift, bool] = {}
    pending = iter(files)
    while chunk := list(islice(pending, _FILES_AT_ONCE)):
        groups: defaultdict[tuple[Shift, str], list[SourceFile]] = defaultdict(list)
        for file in chunk:
            if (shift := found.shift(file.vertical_crs)) is not None:
                groups[shift, file.crs].append(file)
        for (shift, crs), members in groups.items():
            lon, lat = _positions(crs, members)
            if shift not in moves:
                vertical_shift.check_slope(shift, lon.ravel(), lat.ravel())
            metres = shift.at(lon.ravel(), lat.ravel()).reshape(lon.shape)
            _refuse_lost(shift, members, lon, lat, metres)
            known = metres[np.isfinite(metres)]
            if known.size:
                moves[shift] = moves.get(shift, False) or bool((np.abs(known) > _ZERO_M).any())
    for shift, moved in moves.items():
        if not moved:
            raise vertical_shift.zero_everywhere(shift)


def _positions(crs: str, files: Sequence[SourceFile]) -> tuple[Degrees, Degrees]:
    """Return longitudes and latitudes of some pixels of files in one CRS, shape (files, probes)."""
    a, _, c, _, e, f = np.array([file.transform for file in files]).T[:, :, None]
    cols = 0.5 + _PROBES[:, 0] * np.array([[file.width - 1] for file in files])
    rows = 0.5 + _PROBES[:, 1] * np.array([[file.height - 1] for file in files])
    lon, lat = vertical_shift.to_degrees(crs).transform(a * cols + c, e * rows + f, errcheck=False)
    with np.errstate(invalid="ignore"):
        return (lon + 180.0) % 360.0 - 180.0, lat


def _refuse_lost(
    shift: Shift, files: Sequence[SourceFile], lon: Degrees, lat: Degrees, metres: Metres
) -> None:
    """Raise OutsideGeoidGrid for the first position of a wholly valid file that has no shift."""
    whole = np.array([[file.valid_pixels == file.width * file.height] for file in files])
    lost = np.argwhere(whole & (np.abs(lat) <= grid.MAX_LATITUDE_DEG) & ~np.isfinite(metres))
    if len(lost):
        row, column = lost[0]
        place = float(lon[row, column]), float(lat[row, column])
        raise OutsideGeoidGrid(shift.source, shift.description, *place, files[row].filename)

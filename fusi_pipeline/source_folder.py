"""The folder of a source: what `source.toml` says and which of its files are rasters.

Pure: names, sizes and times only; a raster is never opened here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from fusi_pipeline.errors import SourceConfigInvalid, SourceMissing, UsageError
from fusi_pipeline.tiles.grid import MAX_ZOOM

RESAMPLINGS = ("bilinear", "cubic", "cubicspline", "nearest", "average")
CONFIG_FILENAME = "source.toml"

_SIDECAR_ENDINGS = (
    ".aux.xml .msk .msk.ovr .ovr .tfw .tifw .tiffw .wld .prj .hdr .blw .bpw .flw .bqw .rsc .rpb .rpc"
)
"""Endings of files that change what the raster beside them says."""
_OTHER_ENDINGS = (
    ".7z .aux .bak .bz2 .clr .cpg .css .csv .dbf .db .doc .docx .fgb .gif .geojson .gml .gpkg .gsb .gtx .gz "
    ".htm .html .ige .ini .jpeg .jpg .js .json .kml .kmz .las .laz .lock .log .lst .lyr .mbtiles .md .md5 "
    ".meta .mtl .parquet .part .pdf .pmtiles .png .ps1 .py .qgs .qgz .qix .qml .qpj .rar .rrd .sbn "
    ".sbx .sh .sha1 .sha256 .sha512 .shp .shx .sld .sqlite .stx .svg .tab .tar .tfwx .tgz .tmp .toml .tsv "
    ".txt .url .webp .xls .xlsx .xml .xsd .xsl .xz .yaml .yml .zip .zst"
)
"""Endings of files that are never elevation."""
_SIDECARS = tuple(_SIDECAR_ENDINGS.split())
_NOT_RASTERS = frozenset(_OTHER_ENDINGS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """What `source.toml` says of a source; every field has a default."""

    name: str
    """Display name; the folder's unless given."""
    attribution: str = ""
    license: str = ""
    website: str = ""
    resampling: str = "bilinear"
    """One of RESAMPLINGS."""
    nodata: float | None = None
    """Replaces the nodata number inside the files; in the unit of the file."""
    unit_factor: float = 1.0
    """Metres per unit of the (scaled) value in the file; negative for depths."""
    offset_m: float = 0.0
    """Added after the factor."""
    max_zoom: int | None = None
    vertical_datum: str = ""
    """Name for the metadata, in place of that of the vertical CRS."""
    vertical_crs: str = ""
    """What the heights in the files are counted from, in place of what the files say."""
    target_vertical_crs: str = ""
    """What they are converted to."""
    geoid_grid: str = ""
    """Grid of geoid heights that are subtracted; a path from the folder, or a name in PROJ's folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterEntry:
    """One raster candidate of a folder listing."""

    filename: str
    """Relative to the source folder, posix."""
    size_bytes: int
    mtime_ns: int
    sidecars: tuple[str, ...] = ()
    """Sidecar files found beside it, relative like `filename`, sorted."""


def read_config(folder: Path) -> SourceConfig:
    """Return what `source.toml` of a source folder says, or the defaults where there is none.

    Raises SourceConfigInvalid for what cannot be read, is not known or is of
    the wrong type. `licence` is taken for `license`.
    """
    path = folder / CONFIG_FILENAME
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        return SourceConfig(name=folder.name)
    except (OSError, UnicodeDecodeError) as error:
        raise SourceConfigInvalid(path, f"cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SourceConfigInvalid(path, f"is not TOML: {error}") from error
    if "licence" in table:
        if "license" in table:
            raise SourceConfigInvalid(path, "says both license and licence; keep one")
        table["license"] = table.pop("licence")
    known = [field.name for field in fields(SourceConfig)]
    for key, value in table.items():
        if key not in known:
            raise SourceConfigInvalid(path, f"unknown key {key!r}; known are {', '.join(known)}")
        if (expected := _wrong_type(key, value)) is not None:
            raise SourceConfigInvalid(path, f"{key} = {value!r}: expected {expected}")
        if isinstance(value, int) and key != "max_zoom":
            table[key] = float(value)
    config = SourceConfig(**{"name": folder.name, **table})
    _check_heights(path, config)
    return config


def _check_heights(path: Path, config: SourceConfig) -> None:
    """Raise SourceConfigInvalid where the vertical keys cannot be used, alone or together."""
    if not (config.vertical_crs or config.target_vertical_crs or config.geoid_grid):
        return
    from fusi_pipeline import vertical  # PROJ takes long to load, and few sources need it

    reason = vertical.invalid(
        config.vertical_crs, config.target_vertical_crs, config.geoid_grid, config.unit_factor
    )
    if reason is not None:
        raise SourceConfigInvalid(path, reason)


def _wrong_type(key: str, value: object) -> str | None:
    """Return what a key expects where the value is not that, else None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "resampling":
        return None if value in RESAMPLINGS else f"one of {', '.join(RESAMPLINGS)}"
    if key == "nodata":
        return None if number else "a number"
    if key == "unit_factor":
        return None if number and math.isfinite(cast(float, value)) and value else "a number other than 0"
    if key == "offset_m":
        return None if number and math.isfinite(cast(float, value)) else "a number of metres"
    if key == "max_zoom":
        fits = isinstance(value, int) and number and 0 <= value <= MAX_ZOOM
        return None if fits else f"a whole number from 0 to {MAX_ZOOM}"
    if key == "name":
        return None if isinstance(value, str) and value.strip() else "some text"
    return None if isinstance(value, str) else "text"


def config_digest(config: SourceConfig) -> str:
    """Return a hash (hex) of everything a source's configuration says."""
    return _digest(asdict(config))


def reading_digest(config: SourceConfig) -> str:
    """Return a hash (hex) of what decides how the pixels of a source are read."""
    return _digest([config.nodata, config.unit_factor, config.offset_m])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def find_sources(store: Path) -> list[str]:
    """Return the names of the sources in a source store, sorted.

    A source is a folder that holds a `source.toml` or a raster candidate.
    """
    if not store.is_dir():
        return []
    names = (path.name for path in store.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(name for name in names if _is_source(store / name))


def _is_source(folder: Path) -> bool:
    if (folder / CONFIG_FILENAME).is_file():
        return True
    return any(_is_candidate(relative) for relative, _ in _walk(folder))


def source_folder(store: Path, name: str) -> Path:
    """Return the folder of a source. Raises UsageError for a bad name, SourceMissing for an unknown."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise UsageError(
            f"source name {name!r}: expected the name of a folder of {store}, "
            "without slashes and not starting with a dot"
        )
    folder = store / name
    if not folder.is_dir():
        raise SourceMissing(name, folder, find_sources(store))
    return folder


def raster_files(folder: Path) -> list[Path]:
    """Return every file of a source folder and its sub-folders that may be a raster.

    Sorted by relative posix path; hidden files and known other kinds of files
    are left out. A VRT counts as one file beside its members.
    """
    return [folder / entry.filename for entry in raster_entries(folder)]


def raster_entries(folder: Path) -> list[RasterEntry]:
    """Return the raster candidates of a source folder with their state, sorted by name.

    The geoid grid that `source.toml` names is none. Raises SourceConfigInvalid.
    """
    geoid_grid = os.path.normpath(read_config(folder).geoid_grid)
    found: list[tuple[str, os.DirEntry[str]]] = []
    sidecars: dict[str, list[str]] = {}
    for relative, item in _walk(folder):
        if _is_candidate(relative) and relative != geoid_grid:
            found.append((relative, item))
        elif (base := _sidecar_base(relative)) is not None:
            sidecars.setdefault(base, []).append(relative)
    entries = []
    for relative, item in sorted(found, key=lambda one: one[0]):
        state = item.stat()
        beside = sidecars.get(relative, []) + sidecars.get(os.path.splitext(relative)[0], [])
        entries.append(
            RasterEntry(
                filename=relative,
                size_bytes=state.st_size,
                mtime_ns=state.st_mtime_ns,
                sidecars=tuple(sorted(set(beside))),
            )
        )
    return entries


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (posix path relative to `folder`, entry) of every file that is not hidden, each folder once."""
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        prefix = pending.pop()
        place = os.stat(folder / prefix)
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        with os.scandir(folder / prefix) as items:
            for item in items:
                if item.name.startswith("."):
                    continue
                if item.is_dir():
                    pending.append(f"{prefix}{item.name}/")
                elif item.is_file():
                    yield prefix + item.name, item


def _is_candidate(relative: str) -> bool:
    name = relative.rsplit("/", 1)[-1].lower()
    if name.endswith(".adf"):
        return name == "w001001.adf"  # the one file of an ESRI grid folder that stands for the grid
    if _sidecar_base(name) is not None:
        return False
    return os.path.splitext(name)[1] not in _NOT_RASTERS


def _sidecar_base(relative: str) -> str | None:
    """Return the name that a sidecar's own ending is appended to, or None for other files."""
    lower = relative.lower()
    for ending in _SIDECARS:
        if lower.endswith(ending):
            return relative[: -len(ending)]
    return None

"""Files of geographic features, written one feature at a time: GeoJSON and GeoParquet.

Both are in longitude and latitude of WGS 84. GeoJSON is RFC 7946; GeoParquet is
1.1 and needs pyarrow, the extra `geoparquet`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import shapely

from fusi_pipeline.errors import ExtraMissing, OutputExists, UsageError
from fusi_pipeline.tiles.archive import GENERATOR
from fusi_pipeline.tiles.files import replacing

_GEOJSON = (".geojson", ".json")
_GEOPARQUET = (".parquet", ".geoparquet")
_GROUP_FEATURES = 2000
_GROUP_BYTES = 1 << 25
"""Features that are held until they are written to a GeoParquet, by number and by size."""
_HEAD_BYTES = 512
_NAMES = {3: "Polygon", 6: "MultiPolygon"}
"""By the number that shapely gives the kinds of areas."""
_KINDS = {str: "string", int: "int64", float: "float64"}


@dataclass(frozen=True, slots=True)
class Feature:
    """A place and what is said of it."""

    geometry: shapely.Geometry | None
    """Degrees; shells counter-clockwise."""
    properties: Mapping[str, str | int | float]
    """By name, in order; of the same names and types in all features of a file."""


class Sink(Protocol):
    """Takes features one by one."""

    def add(self, feature: Feature) -> None:
        """Write a feature, now or soon."""
        ...


@contextmanager
def writing(output: Path | IO[str], kinds: Mapping[str, type], *, overwrite: bool = False) -> Iterator[Sink]:
    """Yield a sink of features with properties of these `kinds`; a file is absent or complete.

    Raises UsageError for a name that ends in neither format's way, OutputExists
    for a file that fusi did not write, ExtraMissing without pyarrow, DiskFull.
    """
    if not isinstance(output, Path):
        yield from _geojson(output)
        return
    kind = output.suffix.lower()
    if kind not in _GEOJSON + _GEOPARQUET or output.is_dir():
        raise UsageError(f"{output}: give a name that ends in .geojson, or in .parquet for GeoParquet")
    if kind in _GEOPARQUET:
        _arrow()
    if output.exists() and not overwrite and not _is_ours(output):
        raise OutputExists(output)
    with replacing(output) as scratch:
        if kind in _GEOPARQUET:
            yield from _geoparquet(scratch, kinds)
        else:
            with scratch.open("w", encoding="utf-8") as file:
                yield from _geojson(file)


def _is_ours(path: Path) -> bool:
    """Tell whether fusi wrote a file of features."""
    try:
        if path.suffix.lower() in _GEOPARQUET:
            stated = _arrow()[1].read_metadata(path).metadata or {}
            return bool(stated.get(b"generator") == GENERATOR.encode())
        with path.open("rb") as file:
            return f'"generator": "{GENERATOR}"'.encode() in file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return False


class _GeoJSON:
    """Features as lines of a GeoJSON text."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._before = "\n"

    def add(self, feature: Feature) -> None:
        geometry = "null" if feature.geometry is None else shapely.to_geojson(feature.geometry)
        properties = json.dumps(feature.properties, ensure_ascii=False, allow_nan=False)
        self._file.write(
            f'{self._before}{{"type": "Feature", "properties": {properties}, "geometry": {geometry}}}'
        )
        self._before = ",\n"


def _geojson(file: IO[str]) -> Iterator[Sink]:
    file.write(f'{{"type": "FeatureCollection", "generator": "{GENERATOR}", "features": [')
    yield _GeoJSON(file)
    file.write("\n]}\n")
    file.flush()


class _GeoParquet:
    """Features in row groups of a GeoParquet file."""

    def __init__(self, path: Path, kinds: Mapping[str, type]) -> None:
        self._arrow, parquet = _arrow()
        box = self._arrow.struct([(name, self._arrow.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
        columns = [(name, self._arrow.type_for_alias(_KINDS[kind])) for name, kind in kinds.items()]
        self._schema = self._arrow.schema([*columns, ("bbox", box), ("geometry", self._arrow.binary())])
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd", store_schema=False)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._kinds: set[str] = set()
        self._bounds: list[float] = []

    def add(self, feature: Feature) -> None:
        row: dict[str, Any] = dict(feature.properties)
        if feature.geometry is not None:
            west, south, east, north = shapely.bounds(feature.geometry).tolist()
            row["bbox"] = {"xmin": west, "ymin": south, "xmax": east, "ymax": north}
            row["geometry"] = shapely.to_wkb(feature.geometry)
            self._bytes += len(row["geometry"])
            self._kinds.add(_NAMES[int(shapely.get_type_id(feature.geometry))])
            known = self._bounds or [west, south, east, north]
            self._bounds = [*map(min, known[:2], (west, south)), *map(max, known[2:], (east, north))]
        self._rows.append(row)
        if len(self._rows) >= _GROUP_FEATURES or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def finish(self) -> None:
        """Write what is held and the metadata of the format."""
        if self._rows:
            self._flush()
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(self._kinds),
            "orientation": "counterclockwise",
            "edges": "planar",
            "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
        }
        if self._bounds:
            column["bbox"] = self._bounds
        stated = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        self._writer.add_key_value_metadata({"geo": json.dumps(stated), "generator": GENERATOR})
        self._writer.close()

    def close(self) -> None:
        """Release the file."""
        self._writer.close()


def _geoparquet(path: Path, kinds: Mapping[str, type]) -> Iterator[Sink]:
    sink = _GeoParquet(path, kinds)
    try:
        yield sink
        sink.finish()
    finally:
        sink.close()


def _arrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module. Raises ExtraMissing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExtraMissing("GeoParquet", "pyarrow", "geoparquet", "write GeoJSON (.geojson)") from error
    return pyarrow, pyarrow.parquet

"""An archive that takes part in a merge, as heights of 512 px tiles, whatever it holds.

Archives of 256 px tiles are presented one zoom lower, four tiles as one.
Mapbox heights, values that stand for nothing, a cut line and an offset are
dealt with here, so that a merge sees float32 metres with NaN where missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline import lineage
from fusi_pipeline.cut_line import CutLine
from fusi_pipeline.errors import ArchiveUnsuitable, FusiError, TileCorrupt
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata, TileReader
from fusi_pipeline.tiles.files import file_state
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_image, is_plain
from fusi_pipeline.tiles.ledger import digest_of
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.overzoom import overzoom
from fusi_pipeline.tiles.resample import Heights
from fusi_pipeline.tiles.terrarium import DECODERS, step_m

_HALF_PX = TILE_SIZE_PX // 2
_LAYERS_KEPT = 96

Cache = OrderedDict[tuple[int, Tile], Heights | None]


class TerrainInput:
    """An open archive of heights. Use it as a context manager.

    `cache` holds decoded tiles, 1 MiB each, and may be shared by inputs of
    different `number`. Raises ArchiveMissing, ArchiveUnreadable, and
    ArchiveUnsuitable for an archive that holds no heights this can read.
    """

    def __init__(self, options: InputOptions, number: int = 0, cache: Cache | None = None) -> None:
        self.options = options
        self.number = number
        self.reader: TileReader = open_archive(options.path)
        self._cache: Cache = OrderedDict() if cache is None else cache
        try:
            self.encoding = _encoding(self.reader, options)
            counts = self.reader.counts()
            self.tile_px = _tile_px(self.reader, counts)
            self._shift = 0 if self.tile_px == TILE_SIZE_PX else 1
            self.minzoom, self.maxzoom = self._zooms(counts)
            self._lineage = _lineage_of(self.reader)
            self._cut = None if options.cut_line is None else CutLine(options.cut_line)
            self._below: dict[int, npt.NDArray[np.int64]] = {}
        except BaseException:
            self.reader.close()
            raise

    @property
    def path(self) -> Path:
        """The file."""
        return self.options.path

    @property
    def lineage_path(self) -> Path | None:
        """The lineage that tells which of its pixels are valid, None where there is none."""
        return None if self._lineage is None else self._lineage.path

    def state(self) -> str:
        """Return by what its files can be told to have been changed."""
        files = [self.path, self.lineage_path, self.options.cut_line]
        return "|".join(_state(path) for path in files if path is not None)

    def check_unchanged(self, state: str) -> None:
        """Raise ArchiveUnsuitable where its files are not in a state that `state` returned."""
        if self.state() != state:
            raise ArchiveUnsuitable(
                self.path, "changed while it was being merged; run the same command again when it is finished"
            )

    @property
    def metadata(self) -> ArchiveMetadata:
        """What the archive says of itself."""
        return self.reader.metadata

    @property
    def is_exact(self) -> bool:
        """Whether the archive tells of every pixel if it is valid: of one source, or with a lineage."""
        return self.is_of_one_source or self._lineage is not None

    @property
    def is_of_one_source(self) -> bool:
        """Whether fusi built the archive from rasters: with alpha, and overviews that are means."""
        extra = self.metadata.extra
        return extra.get("generator") == GENERATOR and "merge_mode" not in extra

    @property
    def is_stored_plainly(self) -> bool:
        """Whether a 512 px tile depends on nothing but one tile of the archive."""
        return not self._shift and self._lineage is None

    @property
    def kind(self) -> str:
        """How the archive's bytes become heights, as far as the archive decides it."""
        return f"{self.encoding}|{self.tile_px}"

    def fingerprint(self, tile: Tile) -> bytes:
        """Return a hash, 16 bytes, of all bytes that a 512 px tile depends on."""
        parts = [self.reader.read(part) for part in self.parts(tile)]
        if self._lineage is not None:
            parts.append(self._lineage.read(tile))
        if len(parts) == 1:
            return digest_of(parts[0] or b"")
        return digest_of(b"".join(b"-" if part is None else digest_of(part) for part in parts))

    @cached_property
    def rows(self) -> tuple[int, int]:
        """The first and the last row of its tiles at its highest zoom."""
        rows = self.coordinates(self.maxzoom)[:, 1]
        return int(rows.min()), int(rows.max())

    @cached_property
    def bounds(self) -> Bounds:
        """The box that it states, as far as its tiles go; that of its tiles where it states none of use."""
        columns = self.coordinates(self.maxzoom)[:, 0]
        north_west = grid.bounds(Tile(self.maxzoom, int(columns.min()), self.rows[0]))
        south_east = grid.bounds(Tile(self.maxzoom, int(columns.max()), self.rows[1]))
        tiles = Bounds(north_west.west, south_east.south, south_east.east, north_west.north)
        stated = self.metadata.bounds
        if not getattr(self.reader, "states_bounds", True):
            return tiles
        south, north = max(stated.south, tiles.south), min(stated.north, tiles.north)
        if south >= north:
            return tiles
        if stated.west > stated.east:
            return Bounds(stated.west, south, stated.east, north)
        west, east = max(stated.west, tiles.west), min(stated.east, tiles.east)
        return Bounds(west, south, east, north) if west < east else tiles

    @property
    def cut_bounds(self) -> Bounds | None:
        """The box around its cut line's areas, None where there is no cut line or no one box."""
        return None if self._cut is None else self._cut.bounds

    def close(self) -> None:
        """Release the files."""
        self.reader.close()
        if self._lineage is not None:
            self._lineage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def coordinates(self, z: int) -> npt.NDArray[np.int64]:
        """Return the (x, y) of the 512 px tiles of a zoom, shape (n, 2), each once."""
        if not self.minzoom <= z <= self.maxzoom:
            return np.empty((0, 2), dtype=np.int64)
        places = self.reader.coordinates(z + self._shift).astype(np.int64) >> self._shift
        return np.unique(places, axis=0) if self._shift else places

    def parts(self, tile: Tile) -> tuple[Tile, ...]:
        """Return the tiles of the archive that make up a 512 px tile."""
        return tuple(grid.children(tile)) if self._shift else (tile,)

    def has(self, tile: Tile) -> bool:
        """Tell whether the archive has a 512 px tile, or a part of one."""
        if not self.minzoom <= tile.z <= self.maxzoom:
            return False
        return any(self.reader.read(part) is not None for part in self.parts(tile))

    def levels_up(self, tile: Tile, has: Callable[[Tile], bool] | None = None) -> int | None:
        """Return how many zooms above a tile its heights are found: 0 for its own, None where nowhere.

        A tile that is missing below its archive's highest zoom takes its heights
        from an ancestor only where the archive tells which of the ancestor's
        pixels are valid, or has nothing finer under the whole ancestor. `has` is a
        quicker way to know which tiles there are.
        """
        has = self.has if has is None else has
        if has(tile):
            return 0
        above = max(tile.z - self.maxzoom, 1)
        if self.is_of_one_source:  # a tile that is absent below the highest zoom has no pixel
            found = tile.z > self.maxzoom and has(grid.parent(tile, above))
            return above if found else None
        for levels in range(above, tile.z - self.minzoom + 1):
            ancestor = grid.parent(tile, levels)
            if has(ancestor):
                return levels if self._lineage is not None or not self._goes_on_below(ancestor) else None
        return None

    def _goes_on_below(self, ancestor: Tile) -> bool:
        """Tell whether the archive has a tile anywhere under one of its tiles."""
        inhabited = self._inhabited(ancestor.z)
        key = np.int64(ancestor.x << 32 | ancestor.y)
        at = int(inhabited.searchsorted(key))
        return at < len(inhabited) and bool(inhabited[at] == key)

    def _inhabited(self, z: int) -> npt.NDArray[np.int64]:
        """Return x << 32 | y of the tiles of a zoom under which there are tiles, in ascending order."""
        if z not in self._below:
            if z >= self.maxzoom:
                self._below[z] = np.empty(0, dtype=np.int64)
            else:
                places, deeper = self.coordinates(z + 1) >> 1, self._inhabited(z + 1)
                keys = places[:, 0] << 32 | places[:, 1]
                self._below[z] = np.unique(np.concatenate([keys, _parents(deeper)]))
        return self._below[z]

    def layer(self, tile: Tile, levels: int | None = None) -> Heights | None:
        """Return the heights of a tile, shape (512, 512), NaN where missing; None where nothing is there.

        `levels` is what `levels_up` says, where that is known already. Raises TileCorrupt.
        """
        if levels is None:
            levels = self.levels_up(tile)
        if levels is None:
            return None
        heights = overzoom(tile, levels, self._stored) if levels else self._stored(tile)
        if heights is None:
            return None
        if self._cut is not None:
            heights = np.where(self._cut.inside(tile), heights, np.float32(np.nan))
        if self.options.offset_m:
            heights = heights + np.float32(self.options.offset_m)
        return heights

    def copyable(self, tile: Tile, heights: Heights) -> bool:
        """Tell whether a tile's bytes, all of whose heights are valid, may stand in a final archive."""
        if self._shift or self.encoding != "terrarium" or self.options.changes_heights or self._lineage:
            return False
        data = self.reader.read(tile)
        if data is None or not is_plain(data) or _has_alpha(data):
            return False
        if self.metadata.extra.get("generator") == GENERATOR:
            return True  # which rounds every height
        steps = heights.astype(np.float64) / step_m(tile.z)
        return bool((steps == np.rint(steps)).all())

    def _stored(self, tile: Tile) -> Heights | None:
        """Return the heights as stored, missing values taken out; kept for a while."""
        key = (self.number, tile)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        heights = self._read(tile)
        self._cache[key] = heights
        if len(self._cache) > _LAYERS_KEPT:
            self._cache.popitem(last=False)
        return heights

    def _read(self, tile: Tile) -> Heights | None:
        parts = [self._decoded(part) for part in self.parts(tile)]
        if all(part is None for part in parts):
            return None
        heights = parts[0] if not self._shift else _joined(parts)
        assert heights is not None
        for low, high in self.options.missing:
            heights[(heights >= low) & (heights <= high)] = np.nan
        if self._lineage is not None:
            self._drop_unknown(heights, tile)
        return heights

    def _decoded(self, part: Tile) -> Heights | None:
        data = self.reader.read(part)
        if data is None:
            return None
        try:
            pixels = decode_image(data)
        except ImageInvalid as error:
            raise TileCorrupt(self.path, part, str(error)) from error
        if pixels.shape[:2] != (self.tile_px, self.tile_px):
            size = f"{pixels.shape[1]} x {pixels.shape[0]} px"
            raise TileCorrupt(self.path, part, f"it is {size}, not {self.tile_px} x {self.tile_px}")
        if isinstance(self.reader, MBTilesReader):
            stated = self.reader.stated_digest(part)
            if stated is not None and stated != digest_of(data):
                raise ArchiveUnsuitable(self.path, f"tile {part} is not what its ledger says; build it anew")
        return DECODERS[self.encoding](pixels)

    def _drop_unknown(self, heights: Heights, tile: Tile) -> None:
        """Make the pixels missing that a merged archive says no source of it has."""
        assert self._lineage is not None
        data = self._lineage.read(tile)
        if data is None:
            raise TileCorrupt(self._lineage.path, tile, f"it is missing, and {self.path} has it")
        try:
            first, _, _ = lineage.decode(decode_image(data))
        except ImageInvalid as error:
            raise TileCorrupt(self._lineage.path, tile, str(error)) from error
        heights[first == 0] = np.nan

    def _zooms(self, counts: dict[int, int]) -> tuple[int, int]:
        low, high = min(counts) - self._shift, max(counts) - self._shift
        if high < 0:
            raise ArchiveUnsuitable(
                self.path, "holds tiles of 256 px at zoom 0 only, less than a tile of 512 px"
            )
        cap = self.options.max_zoom
        if cap is not None and cap < low:
            raise ArchiveUnsuitable(
                self.path, f"has no tile at or below max_zoom = {cap}; its lowest is {low}"
            )
        return max(low, 0), high if cap is None else min(high, cap)


def _encoding(reader: TileReader, options: InputOptions) -> str:
    encoding = options.encoding or reader.metadata.encoding
    if reader.metadata.is_picture and not options.encoding:
        raise ArchiveUnsuitable(reader.path, "holds the pictures of a layer and no heights")
    if encoding not in DECODERS:
        stated = f"encoding {encoding!r}" if encoding else "no encoding"
        raise ArchiveUnsuitable(
            reader.path,
            f"is not known to be terrain: its metadata states {stated}; if it is, say"
            ' encoding = "terrarium" or "mapbox" for it in the file of --inputs',
        )
    return encoding


def _tile_px(reader: TileReader, counts: dict[int, int]) -> int:
    """Return 512 or 256, as the first tile of the lowest zoom is."""
    if not counts:
        raise ArchiveUnsuitable(reader.path, "holds no tile")
    z = min(counts)
    x, y = reader.coordinates(z)[0].tolist()
    try:
        rows, cols = decode_image(reader.read(Tile(z, x, y)) or b"").shape[:2]
    except ImageInvalid as error:
        raise TileCorrupt(reader.path, Tile(z, x, y), str(error)) from error
    if (rows, cols) not in ((TILE_SIZE_PX, TILE_SIZE_PX), (_HALF_PX, _HALF_PX)):
        raise ArchiveUnsuitable(
            reader.path, f"its tiles are {cols} x {rows} px; a merge takes 512 x 512 and 256 x 256"
        )
    return int(rows)


def _lineage_of(reader: TileReader) -> TileReader | None:
    """Return the lineage of a merged archive, where it lies beside it and was written with it."""
    name = reader.metadata.extra.get("lineage")
    if not isinstance(name, str) or Path(name).name != name:
        return None
    try:
        found = open_archive(reader.path.with_name(name))
    except FusiError:
        return None
    of_this = found.metadata.extra.get("content_key") == reader.metadata.extra.get("content_key")
    if found.metadata.encoding == lineage.ENCODING and of_this:
        return found
    found.close()
    return None


def _parents(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return x << 32 | y of the tiles above those of such keys."""
    return (keys >> 33) << 32 | (keys & 0xFFFFFFFF) >> 1


def _state(path: Path) -> str:
    try:
        return file_state(path)
    except OSError:
        return "gone"


def _joined(parts: list[Heights | None]) -> Heights:
    """Return a 512 px tile of its NW, NE, SW and SE quarters of 256 px."""
    heights = np.full((TILE_SIZE_PX, TILE_SIZE_PX), np.nan, dtype=np.float32)
    for index, part in enumerate(parts):
        if part is not None:
            row, col = index // 2 * _HALF_PX, index % 2 * _HALF_PX
            heights[row : row + _HALF_PX, col : col + _HALF_PX] = part
    return heights


def _has_alpha(data: bytes) -> bool:
    """Tell whether a plain lossless WebP says that it uses alpha.

    Source: WebP lossless bitstream specification, section 3: after the signature
    byte, 14 bits of width, 14 of height, 1 of alpha.
    """
    return bool(int.from_bytes(data[21:25], "little") >> 28 & 1)

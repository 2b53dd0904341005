"""An archive's reader, by what the file is."""

from __future__ import annotations

from pathlib import Path

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.pmtiles import PMTilesReader

_PMTILES_MAGIC = b"PMTiles"
_SQLITE_MAGIC = b"SQLite format 3\x00"


def open_archive(path: Path) -> TileReader:
    """Return the reader of an MBTiles or PMTiles file. Raises ArchiveMissing and ArchiveUnreadable."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_SQLITE_MAGIC))
    except FileNotFoundError:
        raise ArchiveMissing(path) from None
    except OSError as error:
        raise ArchiveUnreadable(path, error.strerror or str(error)) from error
    if magic == _SQLITE_MAGIC:
        return MBTilesReader(path)
    if magic.startswith(_PMTILES_MAGIC):
        return PMTilesReader(path)
    raise ArchiveUnreadable(path, "neither MBTiles nor PMTiles")

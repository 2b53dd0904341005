"""Which lineage archive belongs to a terrain archive, and which terrain to a lineage.

Archives name each other by file name in their metadata, and are looked for
beside each other.
"""

from __future__ import annotations

from pathlib import Path

from fusi_pipeline import lineage
from fusi_pipeline.errors import ArchiveUnsuitable, LineageMissing, TileCorrupt
from fusi_pipeline.lineage import Pixels
from fusi_pipeline.tiles.archive import ArchiveMetadata, TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_image
from fusi_pipeline.tiles.open import open_archive

LINEAGE_KEY = "lineage"
"""Names the lineage archive, in the metadata of a terrain archive."""
TERRAIN_KEY = "terrain"
"""Names the terrain archive, in the metadata of a lineage."""
CONTENT_KEY = "content_key"
"""Is equal in the archives of one merge."""


def is_lineage(metadata: ArchiveMetadata) -> bool:
    """Tell whether an archive holds lineage and not heights."""
    return metadata.encoding == lineage.ENCODING


def named(path: Path, metadata: ArchiveMetadata, key: str) -> Path | None:
    """Return the archive that another names under `key`, beside it; None where it names none."""
    name = metadata.extra.get(key)
    if not isinstance(name, str) or not name or Path(name).name != name:
        return None
    return path.with_name(name)


def belong(terrain: ArchiveMetadata, sources: ArchiveMetadata) -> bool:
    """Tell whether two archives are of one merge, as far as both say which."""
    keys = {one.extra[CONTENT_KEY] for one in (terrain, sources) if CONTENT_KEY in one.extra}
    return len(keys) <= 1


def beside(path: Path, metadata: ArchiveMetadata) -> Path | None:
    """Return the lineage archive that a terrain archive names, where it is there and of the same merge."""
    found = named(path, metadata, LINEAGE_KEY)
    if found is None or not found.is_file():
        return None
    with open_archive(found) as reader:
        fits = is_lineage(reader.metadata) and belong(metadata, reader.metadata)
    return found if fits else None


def lineage_path(path: Path) -> Path:
    """Return the lineage archive of an archive: itself, or the one its metadata names.

    Raises LineageMissing where it names none, or none of the same merge is there.
    """
    with open_archive(path) as reader:
        metadata = reader.metadata
    if is_lineage(metadata):
        return path
    if metadata.is_picture:
        raise ArchiveUnsuitable(path, "holds the pictures of a layer, which have no lineage")
    found = beside(path, metadata)
    if found is None:
        raise LineageMissing(path, named(path, metadata, LINEAGE_KEY))
    return found


def open_lineage(path: Path) -> TileReader:
    """Return the reader of a lineage archive. Raises ArchiveUnsuitable where it holds something else."""
    reader = open_archive(path)
    if not is_lineage(reader.metadata):
        stated = reader.metadata.encoding or "none"
        reader.close()
        raise ArchiveUnsuitable(
            path, f"is no lineage archive: its metadata states the encoding {stated}, not {lineage.ENCODING}"
        )
    return reader


def tile_pixels(reader: TileReader, tile: Tile) -> Pixels | None:
    """Return the lineage of a tile, shape (512, 512, 3), or None where there is none. Raises TileCorrupt."""
    data = reader.read(tile)
    if data is None:
        return None
    try:
        pixels = decode_image(data)
    except ImageInvalid as error:
        raise TileCorrupt(reader.path, tile, str(error)) from error
    if pixels.shape != (TILE_SIZE_PX, TILE_SIZE_PX, 3):
        shape = " x ".join(str(length) for length in pixels.shape)
        raise TileCorrupt(reader.path, tile, f"it is {shape}, not {TILE_SIZE_PX} x {TILE_SIZE_PX} x 3")
    return pixels

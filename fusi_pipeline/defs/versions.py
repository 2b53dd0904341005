"""Data versions: hashes of what things are made of, so that equal versions mean equal bytes.

Pure but for reading indexes, ledgers and names; a raster is never opened here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from fusi_pipeline.lineage_files import CONTENT_KEY
from fusi_pipeline.merge_request import MERGE_VERSION
from fusi_pipeline.sources import (
    SourceFile,
    config_digest,
    part_state,
    raster_entries,
    read_config,
    source_folder,
)
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.open import open_archive


def folder_version(store: Path, name: str) -> str:
    """Return a hash of a source's folder: names, sizes and times of its files, and what `source.toml` says.

    Content is not read. Raises SourceMissing and SourceConfigInvalid.
    """
    folder = source_folder(store, name)
    config = read_config(folder)
    digest = _Digest(config_digest(config))
    if config.geoid_grid:
        digest.add(*part_state(folder, config.geoid_grid))
    for entry in raster_entries(folder):
        digest.add(entry.filename, entry.size_bytes, entry.mtime_ns)
        for sidecar in entry.sidecars:
            digest.add(*part_state(folder, sidecar))
    return digest.text()


def index_version(configuration: str, files: Iterable[SourceFile]) -> str:
    """Return a hash of a source's configuration and of the content of its usable files, by name."""
    digest = _Digest(configuration)
    for file in files:
        digest.add(file.filename, file.fingerprint)
    return digest.text()


def archive_version(path: Path) -> str:
    """Return a hash of an archive's metadata and ledger: which blocks it has, and what they were made of."""
    digest = _Digest()
    with MBTilesReader(path) as reader:
        digest.add(json.dumps(asdict(reader.metadata), sort_keys=True))
        for record in reader.ledger():
            digest.add(record.tile, record.key)
    return digest.text()


def merged_version(archives: Sequence[Path], *rule: object) -> str:
    """Return a hash of the archives that a merge takes, in their order, and of the rule it follows."""
    digest = _Digest(MERGE_VERSION, *rule)
    for path in archives:
        digest.add(path.stem, archive_version(path))
    return digest.text()


def coverage_version(lineage: Path, *rule: object) -> str:
    """Return a hash of the merge that a lineage is of, and of how its coverage is written."""
    digest = _Digest(*rule)
    with open_archive(lineage) as reader:
        digest.add(reader.metadata.extra.get(CONTENT_KEY))
    return digest.text()


class _Digest:
    """A hash of rows of values."""

    def __init__(self, *values: object) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.add(*values)

    def add(self, *values: object) -> None:
        self._hash.update(repr(tuple(map(str, values))).encode())

    def text(self) -> str:
        return self._hash.hexdigest()

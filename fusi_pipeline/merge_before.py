"""The merge before this one: what it made, and where its bytes may be read from."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from fusi_pipeline.errors import FusiError
from fusi_pipeline.merge_ledger import LINEAGE, TERRAIN, MergeLedger, MergeWork, TileRecord, opened
from fusi_pipeline.tiles.archive import GENERATOR, TileReader
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import digest_of
from fusi_pipeline.tiles.open import open_archive


class OutdatedError(Exception):
    """Bytes that were to be taken over are not those that the ledger speaks of."""


class MergeBefore:
    """The merge before this one: its ledger, and the archives that its tiles may be read from."""

    def __init__(
        self, output: Path, lineage_output: Path | None, ledger: Path, key: str, stack: ExitStack
    ) -> None:
        self._ledger: MergeLedger | None = opened(ledger)
        self._readers: dict[int, TileReader] = {}
        if self._ledger is not None:
            stack.enter_context(self._ledger)
        known = {key, "" if self._ledger is None else self._ledger.facts.get("content_key", "")}
        for kind, path in ((TERRAIN, output), (LINEAGE, lineage_output)):
            if path is not None and path.exists() and content_key_of(path) in known:
                self._readers[kind] = stack.enter_context(open_archive(path))

    @property
    def tiles(self) -> int:
        """How many tiles it made."""
        return 0 if self._ledger is None else int(self._ledger.facts.get("tiles", 0))

    def cell(self, z: int, cell: Tile) -> dict[Tile, TileRecord]:
        """Return what became of the tiles of a cell."""
        return {} if self._ledger is None else self._ledger.cell(z, cell)

    def has(self, kind: int) -> bool:
        """Tell whether the tiles of a kind can be read."""
        return kind in self._readers

    def read(self, kind: int, tile: Tile) -> bytes | None:
        """Return the bytes of a tile."""
        return self._readers[kind].read(tile) if kind in self._readers else None


def checked(digest: bytes, work: MergeWork, before: MergeBefore, kind: int, tile: Tile) -> bytes:
    """Return the bytes of a tile made in this merge or the one before; raises OutdatedError."""
    data = work.read(kind, tile)
    if data is None or digest_of(data) != digest:
        try:
            data = before.read(kind, tile)
        except FusiError as error:
            raise OutdatedError from error
    if data is None or digest_of(data) != digest:
        raise OutdatedError
    return data


def content_key_of(path: Path) -> str | None:
    """Return the content key that an archive of fusi's states; None for any other file."""
    try:
        with open_archive(path) as reader:
            extra = reader.metadata.extra
    except FusiError:
        return None
    key = extra.get("content_key")
    return key if extra.get("generator") == GENERATOR and isinstance(key, str) else None

"""The builds before this one: archives of the source, finished or not, whose blocks may be taken over.

What is taken over is compared with the hashes in its ledger, so that damage to
an earlier archive is not handed on: a block that is not whole is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveUnreadable, FusiError, OutputExists
from fusi_pipeline.plan import SourcePlan
from fusi_pipeline.tasks import Made
from fusi_pipeline.tiles.archive import GENERATOR
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import BlockRecord, digests_of
from fusi_pipeline.tiles.mbtiles import MBTilesReader


class BuildBefore:
    """Earlier archives of a source, the one that is to be replaced first."""

    def __init__(self, paths: Sequence[Path], plan: SourcePlan, stack: ExitStack) -> None:
        """Open those archives that are there and have a ledger; `stack` closes them."""
        self._plan = plan
        opened = [_reusable(path) for path in paths]
        self._readers = [stack.enter_context(reader) for reader in opened if reader is not None]
        self._replaced = opened[0] if opened else None

    @property
    def has_any(self) -> bool:
        """Whether there is any."""
        return bool(self._readers)

    def has(self, tile: Tile, key: str) -> bool:
        """Tell whether a block is in a ledger; its tiles are not looked at yet."""
        return next(self._records(tile, key), None) is not None

    def block(self, tile: Tile, key: str) -> Made | None:
        """Return a block with its tiles; None where no archive has it as it was written."""
        for reader, record in self._records(tile, key):
            with suppress(ArchiveUnreadable):
                tiles = tuple(_tiles_of_block(reader, tile, self._plan))
                if digests_of(tiles) == record.digests:
                    return Made(record, tiles)
        return None

    def removed(self, finished: Path) -> tuple[int, int]:
        """Return how many blocks and tiles of the earlier archive `finished` no longer has.

        Counts nothing where the earlier one cannot be read through.
        """
        earlier = self._replaced
        if earlier is None:
            return 0, 0
        with suppress(ArchiveUnreadable), MBTilesReader(finished) as reader:
            blocks = {record.tile for record in earlier.ledger()}
            kept = {record.tile for record in reader.ledger()}
            tiles = sum(
                len(np.setdiff1d(_packed(earlier.coordinates(z)), _packed(reader.coordinates(z))))
                for z in earlier.counts()
            )
            return len(blocks - kept), tiles
        return 0, 0

    def _records(self, tile: Tile, key: str) -> Iterator[tuple[MBTilesReader, BlockRecord]]:
        for reader in self._readers:
            record = None
            with suppress(ArchiveUnreadable):
                record = reader.block(tile, key)
            if record is not None:
                yield reader, record


def refuse_foreign(output: Path) -> None:
    """Raise OutputExists where a file is in the way that fusi did not write."""
    if not output.exists():
        return
    try:
        with MBTilesReader(output) as reader:
            ours = reader.has_ledger or reader.metadata.extra.get("generator") == GENERATOR
    except FusiError:
        ours = False
    if not ours:
        raise OutputExists(output)


def _reusable(path: Path) -> MBTilesReader | None:
    """Return an earlier archive of fusi's to take blocks from, if there is one."""
    if not path.is_file():
        return None
    try:
        reader = MBTilesReader(path)
    except ArchiveUnreadable:
        return None
    with suppress(ArchiveUnreadable):
        if reader.has_ledger:
            return reader
    reader.close()
    return None


def _tiles_of_block(reader: MBTilesReader, block: Tile, plan: SourcePlan) -> Iterator[tuple[Tile, bytes]]:
    """Yield the tiles that a block (or a tile above the blocks) put into an archive, in writing order."""
    deepest = plan.maxzoom if block.z == plan.block_zoom else block.z
    for z in range(deepest, max(block.z, plan.minzoom) - 1, -1):
        yield from reader.square(block, z)


def _packed(xy: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    columns, rows = xy[:, 0].astype(np.uint64), xy[:, 1].astype(np.uint64)
    return np.asarray(columns << np.uint64(32) | rows)

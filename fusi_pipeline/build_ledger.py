"""What a build has committed: the beginning of its plan in the archive, the rest beside it.

Rows of the archive's ledger are those of the plan, in its order, so that its
bytes do not depend on what happened. Where a block could not be made, those
behind it wait in `NAME.mbtiles.ahead.partial`, and take their place in the
archive when the gap is closed.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from fusi_pipeline.tasks import Extent, Made
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter, WriterPace, partial_path


def ahead_path(output: Path) -> Path:
    """Return the archive in which blocks behind a gap wait; it is never finished."""
    return output.with_name(output.name + ".ahead")


def forget_ahead(output: Path, pace: WriterPace) -> None:
    """Remove the blocks that wait behind a gap."""
    path = ahead_path(output)
    if partial_path(path).exists():
        MBTilesWriter(path, pace).discard()


class BuildLedger:
    """The unfinished archive of a source, with what waits behind a gap. Use it as a context manager."""

    def __init__(self, output: Path, pace: WriterPace) -> None:
        """Open what is there, or begin. Raises OutputBusy, OutputUnwritable, DiskFull."""
        self._output = output
        self._pace = pace
        self.main = MBTilesWriter(output, pace)
        self._ahead: MBTilesWriter | None = None
        if partial_path(ahead_path(output)).exists():
            self._ahead = self._opened_ahead()

    def _opened_ahead(self) -> MBTilesWriter:
        try:
            return MBTilesWriter(ahead_path(self._output), self._pace)
        except BaseException:
            self.main.close()
            raise

    @property
    def count(self) -> int:
        """How many rows of the plan, from its first on, are in the archive."""
        return self.main.count

    def waits(self, tile: Tile, key: str) -> bool:
        """Tell whether a block waits behind a gap."""
        return self._ahead is not None and self._ahead.key(tile) == key

    def waiting(self, tile: Tile, key: str) -> Made | None:
        """Return a block that waits behind a gap; None where it does not, or not as it was written."""
        if self._ahead is None:
            return None
        record = self._ahead.block(tile)
        if record is None or record.key != key:
            return None
        tiles = self._ahead.tiles_of(record)
        return None if tiles is None else Made(record, tiles)

    def commit(self, position: int, made: Made) -> None:
        """Commit the block of a position of the plan, in the archive or, behind a gap, beside it.

        Raises DiskFull.
        """
        if position == self.main.count:
            self.main.commit(made.record, made.tiles)
            return
        if not self.waits(made.record.tile, made.record.key):
            if self._ahead is None:
                self._ahead = self._opened_ahead()
            self._ahead.commit(made.record, made.tiles, replace=True)

    def key(self, tile: Tile) -> str | None:
        """Return the key of a committed block, None where it is not there."""
        for writer in (self.main, self._ahead):
            key = None if writer is None else writer.key(tile)
            if key is not None:
                return key
        return None

    def left_for_parent(self, tile: Tile) -> tuple[bytes | None, Extent | None]:
        """Return what a committed block left for the tile above it; (None, None) without one."""
        for writer in (self.main, self._ahead):
            record = None if writer is None else writer.block(tile)
            if record is not None:
                return record.overview, record.extent
        return None, None

    def closed_gap(self) -> None:
        """Remove what waited behind a gap, as all of it is in the archive."""
        if self._ahead is not None:
            self._ahead.discard()
            self._ahead = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.main.__exit__(kind, error, trace)
        if self._ahead is not None:
            self._ahead.__exit__(kind, error, trace)

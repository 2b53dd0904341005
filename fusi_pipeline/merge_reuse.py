"""What a merge may take over of the merge before, or of an interrupted one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusi_pipeline.contributions import Contributions, Contributors, carried_over
from fusi_pipeline.merge_before import MergeBefore, OutdatedError, checked
from fusi_pipeline.merge_cells import Cell
from fusi_pipeline.merge_ledger import LINEAGE, NO_DIGEST, TERRAIN, MergeWork, TileRecord
from fusi_pipeline.tasks import ABSENT, ENCODED, MergeTask, TileTask
from fusi_pipeline.tiles.grid import Tile


@dataclass(frozen=True, slots=True)
class MergeReuse:
    """What is at hand, and by which rule it may be taken over."""

    contributors: Contributors
    work: MergeWork
    before: MergeBefore
    mode: str
    has_lineage: bool
    """Whether the merge writes a lineage."""
    careful: bool
    """Whether bytes are looked at before they are counted on."""

    def cell(self, z: int, cell: Tile, tiles: Sequence[Tile]) -> Cell:
        """Return what is known of a cell's tiles, and what is to be made."""
        contributions = tuple(self.contributors.of(tile) for tile in tiles)
        committed, earlier = self.work.cell(z, cell), self.before.cell(z, cell)
        known: dict[Tile, TileRecord] = {}
        tasks = []
        for one in contributions:
            record = self._known(one, committed.get(one.tile), earlier.get(one.tile))
            if record is not None:
                known[one.tile] = record
            wants_lineage = self.has_lineage and (
                record is None or (record.lineage == NO_DIGEST and record.choice != ABSENT)
            )
            if record is None or wants_lineage:
                tasks.append(TileTask(one.tile, one.inputs, record is None, wants_lineage))
        was = frozenset(tile for tile, record in earlier.items() if record.choice != ABSENT)
        return Cell(cell, contributions, known, MergeTask(cell, tuple(tasks)), committed, was)

    def _known(self, wanted: Contributions, *records: TileRecord | None) -> TileRecord | None:
        """Return a record by which a tile may be taken over; without lineage where that is to be made."""
        for earlier in records:
            record = None if earlier is None else carried_over(earlier, wanted, self.mode)
            if record is None:
                continue
            if record.choice == ENCODED and not self._at_hand(TERRAIN, record.terrain, record.tile):
                continue
            keeps_lineage = (
                self.has_lineage
                and record.lineage != NO_DIGEST
                and self._at_hand(LINEAGE, record.lineage, record.tile)
            )
            return record if keeps_lineage else replace(record, lineage=NO_DIGEST)
        return None

    def _at_hand(self, kind: int, digest: bytes, tile: Tile) -> bool:
        """Tell whether the bytes of a tile can be had; if there is doubt, by a look at them."""
        if not self.careful:
            return self.work.has(kind, tile) or self.before.has(kind)
        try:
            checked(digest, self.work, self.before, kind, tile)
        except OutdatedError:
            return False
        return True

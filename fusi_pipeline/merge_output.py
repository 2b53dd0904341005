"""The archives of a merge written, in tile order, from its work file, its inputs and the merge before."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from fusi_pipeline.archive_writer import archive_writer
from fusi_pipeline.contributions import TileIndex
from fusi_pipeline.errors import ArchiveUnsuitable
from fusi_pipeline.merge_before import MergeBefore, checked
from fusi_pipeline.merge_cells import cells
from fusi_pipeline.merge_ledger import LINEAGE, TERRAIN, MergeWork, TileRecord
from fusi_pipeline.merge_metadata import lineage_metadata, terrain_metadata
from fusi_pipeline.merge_report import MergeTally
from fusi_pipeline.merge_request import MergeRequest
from fusi_pipeline.pack import pack
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tasks import ABSENT, COPIED, ENCODED
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles.ledger import digest_of
from fusi_pipeline.tiles.mbtiles import MBTilesReader

_STRIDE = 64
"""Tiles between two words of progress."""


class MergeOutput:
    """The archives of one merge, from what was committed to its work file."""

    def __init__(
        self,
        request: MergeRequest,
        indexes: Sequence[TileIndex],
        key: str,
        settings: Settings,
        work: MergeWork,
        before: MergeBefore,
    ) -> None:
        self._request = request
        self._indexes = indexes
        self._key = key
        self._settings = settings
        self._work = work
        self._before = before

    def write(self, tally: MergeTally) -> Generator[Progress, None, None]:
        """Write the archives, counting what was taken over. Raises OutdatedError, ArchiveUnsuitable."""
        request, rule, total = self._request, self._request.rule, tally.total
        metadata = terrain_metadata(
            rule.name, request.inputs, tally.pixels, sorted(tally.tiles),
            mode=rule.mode, feather_m=rule.feather_m, key=self._key,
            lineage_name="" if rule.lineage is None else rule.lineage.name,
        )  # fmt: skip
        targets = [self._written_first(path) for path in request.outputs]
        done = size = 0
        made = tally.bytes_merged + tally.bytes_copied
        with ExitStack() as stack:
            terrain = stack.enter_context(archive_writer(targets[0], metadata, total))
            second = None
            if rule.lineage is not None:
                facts = lineage_metadata(metadata, request.inputs, request.output)
                second = stack.enter_context(archive_writer(targets[1], facts, total))
            for record in self._records():
                data = self._terrain_bytes(record)
                terrain.write(record.tile, data)
                if second is not None:
                    lineage = checked(record.lineage, self._work, self._before, LINEAGE, record.tile)
                    second.write(record.tile, lineage)
                done += 1
                size += len(data)
                tally.bytes_reused = size - made
                if done % _STRIDE == 0 or done == total:
                    yield Progress("pack", done, total, "tiles", size)
            check_inputs(request, self._work)
        for target, path in zip(targets, request.outputs, strict=True):
            yield from self._packed_by_command(target, path)

    def _records(self) -> Iterator[TileRecord]:
        """Yield what became of the tiles that there are, in tile order."""
        for z, cell, tiles in cells(self._indexes):
            records = self._work.cell(z, cell)
            yield from (records[tile] for tile in tiles if records[tile].choice != ABSENT)

    def _terrain_bytes(self, record: TileRecord) -> bytes:
        if record.choice == ENCODED:
            return checked(record.terrain, self._work, self._before, TERRAIN, record.tile)
        one: TerrainInput = self._request.inputs[record.inputs[record.choice - COPIED]]
        data = one.reader.read(record.tile)
        if data is None or digest_of(data) != record.terrain:
            raise ArchiveUnsuitable(
                one.path,
                f"tile {record.tile} is not what it was when the merge began, or what the ledger says of it;"
                " make the archive anew, or run the command again",
            )
        return data

    def _written_first(self, path: Path) -> Path:
        """Return where an archive is written: in its place, or to an MBTiles for the `pmtiles` command."""
        by_command = self._settings.packer == "cli" and path.suffix == ".pmtiles"
        return path.with_name(f".{path.name}.packing.mbtiles") if by_command else path

    def _packed_by_command(self, target: Path, path: Path) -> Generator[Progress, None, None]:
        """Pack what was written elsewhere first, and remove it."""
        if target == path:
            return
        try:
            with MBTilesReader(target) as reader:
                environment = self._settings.process_environment()
                yield from pack(reader, path, packer="cli", overwrite=True, environment=environment)
        finally:
            target.unlink(missing_ok=True)


def check_inputs(request: MergeRequest, work: MergeWork) -> None:
    """Raise ArchiveUnsuitable, and forget what was done, where an input changed meanwhile."""
    for one, state in zip(request.inputs, request.states, strict=True):
        try:
            one.check_unchanged(state)
        except ArchiveUnsuitable:
            work.discard()
            raise

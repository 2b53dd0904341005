"""A block made in quarters: what passes between the writer and its workers. Pure.

Each quarter is warped as a part of the whole block and makes the tiles below
one child of the block's own tile; that one is made of what the four leave for
it, as the tiles above blocks are. The tiles, their order and what is left for
the zooms above are those of a block made at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusi_pipeline.plan import Block
from fusi_pipeline.tasks import Extent
from fusi_pipeline.tiles.grid import Tile


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A quarter of a block."""

    block: Block
    number: int
    """0 to 3: NW, NE, SW, SE."""

    @property
    def tile(self) -> Tile:
        """The child of the block's own tile that the quarter fills."""
        own = self.block.tile
        return Tile(own.z + 1, 2 * own.x + self.number % 2, 2 * own.y + self.number // 2)

    def __str__(self) -> str:
        return f"quarter {self.number + 1} of {self.block}"


@dataclass(frozen=True, slots=True)
class PartMade:
    """What a quarter of a block came to."""

    tiles: tuple[tuple[Tile, bytes], ...]
    quarter: bytes | None
    """Its packed heights at the zoom of the block's own tile, shape (256, 256); None where none is valid."""
    extent: Extent | None


@dataclass(frozen=True, slots=True)
class BlockJoin:
    """The four quarters of a block."""

    block: Block
    parts: tuple[PartMade, ...]

    @property
    def tiles(self) -> list[tuple[Tile, bytes]]:
        """Return the tiles of all quarters in the order of a block made at once."""
        tiles = [one for part in self.parts for one in part.tiles]
        return sorted(tiles, key=lambda one: (-one[0].z, one[0].y, one[0].x))


def parts_of(block: Block) -> tuple[BlockPart, ...]:
    """Return the quarters of a block."""
    return tuple(BlockPart(block, number) for number in range(4))


def join_of(block: Block, parts: Sequence[PartMade]) -> BlockJoin:
    """Return what a worker joins to a block."""
    return BlockJoin(block, tuple(parts))

"""What building takes: memory of processes, bytes and time of tiles, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

from fusi_pipeline.errors import BudgetTooSmall

BLOCK_LEVELS = 2
"""A block is 2^2 = 4 tiles, 2048 px, wide: the size at which warping is cheapest per tile."""
_PROCESS_MIB = 120
"""Resident memory of each process before it works: the parent, the fork server, a worker (measured)."""
_ARRAYS_MIB = {0: 20, 1: 40, 2: 90}
"""Arrays of a worker by block levels (measured)."""
TILE_BYTES = 80_000
_TILE_CPU_S = 0.05
"""Means over the benchmark's sources, for estimates before anything is known."""
PYRAMID = 4 / 3
"""Tiles of all zooms for one of the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEstimate:
    """What a group will take."""

    number: int
    source: str
    minzoom: int
    maxzoom: int
    blocks: int
    tiles: int
    bytes: int
    memory_mib: int
    """Peak of all processes together, that of the run itself among them."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a build will take, before it is begun."""

    source: str
    files: int
    blocks: int
    minzoom: int
    maxzoom: int
    tiles: int
    bytes: int
    """Size of the finished MBTiles."""
    workers: int
    memory_mib: int
    """Peak of all processes together."""
    scratch_bytes: int
    """Free space needed on the output's volume while building."""
    seconds: float
    groups: tuple[GroupEstimate, ...] = ()
    """What each group will take, where the run is to be cut into groups."""


def workers_for(
    memory_mib: int, wanted: int, cache_mib: int, levels: int = BLOCK_LEVELS, *, processes: int = 2
) -> int:
    """Return how many workers a memory budget holds beside other `processes`, `wanted` at most.

    Raises BudgetTooSmall.
    """
    each = worker_mib(cache_mib, levels)
    fitting = (memory_mib - processes * _PROCESS_MIB) // each
    if fitting < 1:
        raise BudgetTooSmall(memory_mib, processes * _PROCESS_MIB + each)
    return min(wanted, fitting)


def worker_mib(cache_mib: int, levels: int = BLOCK_LEVELS) -> int:
    """Return the peak resident memory of one worker in MiB."""
    return _PROCESS_MIB + _ARRAYS_MIB[levels] + cache_mib


@dataclass(frozen=True, slots=True)
class BuildCost:
    """What tiles take to build, as an average over sources."""

    workers: int
    memory_mib: int
    """Peak of all processes together."""

    @classmethod
    def of(cls, workers: int, cache_mib: int, *, processes: int = 2) -> BuildCost:
        """Return the cost with so many workers and other processes."""
        return cls(workers, processes * _PROCESS_MIB + workers * worker_mib(cache_mib))

    def bytes_of(self, tiles: int) -> int:
        """Return the size of so many tiles."""
        return tiles * TILE_BYTES

    def seconds_of(self, tiles: int) -> float:
        """Return how long so many tiles take, in a process that has to begin first."""
        return tiles * _TILE_CPU_S / self.workers + 2.0

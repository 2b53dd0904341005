"""Pack the tiles of one archive into a PMTiles archive, in tile order.

Either by the writer of `tiles.pmtiles`, or by the `pmtiles` command
(go-pmtiles) where it is installed, which also gives a second opinion.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from fusi_pipeline.errors import (
    ArchiveUnsuitable,
    DiskFull,
    FusiError,
    OutputExists,
    PackerUnavailable,
    UsageError,
)
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata, TileReader
from fusi_pipeline.tiles.files import free_mib, replacing
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.pmtiles import PMTilesReader, tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.tiles.structure import problems

Packer = Literal["auto", "builtin", "cli"]
PACKERS: tuple[Packer, ...] = ("auto", "builtin", "cli")
"""`auto` is the faster one, which is our own (see DESIGN, "Packers")."""

_TILES_PER_STEP = 256
_POLL_S = 0.5
_COMPARED = 256
"""Tiles of what the command wrote that are held against the source, spread over it."""
_WRITTEN_TWICE = 2
"""The command writes tiles to a temporary file, and from there to the archive."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """What was packed."""

    tiles: int
    """Tiles in the archive, equal ones counted each time."""
    bytes: int
    """Length of the archive."""


def pack(
    source: TileReader,
    output: Path,
    *,
    packer: Packer = "auto",
    overwrite: bool = False,
    metadata: ArchiveMetadata | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[Progress, None, PackReport]:
    """Write all tiles of `source` to the PMTiles archive `output`, yielding how far it is.

    `packer` is ours for `auto`. `environment` is what the command is given, this process's own by default.
    `metadata` stands in for the source's own; the command line packer has no
    use for it and packs MBTiles only. Raises OutputExists without
    `overwrite`, ArchiveUnsuitable for a source that cannot be packed,
    PackerUnavailable where the command is missing or fails, DiskFull and
    OutputUnwritable for the volume. Nothing is left behind unless it is whole.
    """
    if output.suffix != ".pmtiles" or output.is_dir():
        raise UsageError(f"{output}: the output is a PMTiles file; give a name that ends in .pmtiles")
    if output.exists() and output.samefile(source.path):
        raise UsageError(f"{output}: is the archive to pack; choose another name for the output")
    if output.exists() and not overwrite and not is_ours(output):
        raise OutputExists(output)
    if packer == "cli":
        return (yield from _pack_by_command(source, output, environment))
    return (yield from _pack(source, output, metadata or source.metadata))


def is_ours(path: Path) -> bool:
    """Tell whether fusi wrote a PMTiles archive, and may therefore write it again."""
    try:
        with PMTilesReader(path) as reader:
            return reader.metadata.extra.get("generator") == GENERATOR
    except FusiError:
        return False


def in_tile_order(source: TileReader) -> Iterator[Tile]:
    """Yield every tile of an archive in the order PMTiles wants; memory grows by one zoom at a time."""
    for z in sorted(source.counts()):
        places = source.coordinates(z)
        order = np.argsort(tile_ids(z, places[:, 0], places[:, 1]), kind="stable")
        for start in range(0, len(order), 1 << 16):
            for x, y in places[order[start : start + (1 << 16)]].tolist():
                yield Tile(z, x, y)


def _pack(
    source: TileReader, output: Path, metadata: ArchiveMetadata
) -> Generator[Progress, None, PackReport]:
    total = sum(source.counts().values())
    with PMTilesWriter(output, metadata, total) as writer:
        for tile in in_tile_order(source):
            if writer.tiles_written % _TILES_PER_STEP == 0:
                yield Progress("pack", writer.tiles_written, total, "tiles", writer.bytes_written)
            data = source.read(tile)
            if not data:
                raise ArchiveUnsuitable(source.path, f"tile {tile} is listed and has no bytes")
            writer.write(tile, data)
    yield Progress("pack", total, total, "tiles", writer.bytes_written)
    return PackReport(writer.tiles_written, writer.bytes_written)


def cli_path() -> str | None:
    """Return the path of the `pmtiles` (or `go-pmtiles`) command, or None where there is none."""
    return shutil.which("pmtiles") or shutil.which("go-pmtiles")


def cli_verify(path: Path) -> str | None:
    """Return the complaint of `pmtiles verify` about an archive, or None; raises PackerUnavailable."""
    try:
        run = subprocess.run(
            [_command(), "verify", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise PackerUnavailable(f"the pmtiles command does not start ({error})") from error
    # Some findings of go-pmtiles are only printed and leave the exit status at 0.
    printed = [line for line in run.stdout.splitlines() if line.startswith("Invalid")]
    if run.returncode == 0:
        return "\n".join(printed) or None
    return run.stdout.strip() or f"exit status {run.returncode}"


def _command() -> str:
    command = cli_path()
    if command is None:
        raise PackerUnavailable("there is no pmtiles (or go-pmtiles) on the PATH")
    return command


def _pack_by_command(
    source: TileReader, output: Path, environment: Mapping[str, str] | None
) -> Generator[Progress, None, PackReport]:
    command = _command()
    if source.path.suffix.lower() != ".mbtiles":
        raise ArchiveUnsuitable(source.path, "the pmtiles command packs .mbtiles files only")
    total = sum(source.counts().values())
    if not total:
        raise ArchiveUnsuitable(source.path, "there is no tile to pack")
    with (
        replacing(output) as scratch,
        tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder,
    ):
        packed = Path(folder) / "packed.pmtiles"
        arguments = [command, "convert", str(source.path.absolute()), str(packed), "--tmpdir", folder]
        expected = max(source.path.stat().st_size, 1) * _WRITTEN_TWICE
        for size in _running(arguments, Path(folder), output, environment):
            done = min(total * size // expected, total - 1)
            yield Progress("pack", done, total, "tiles", size)
        tiles = _checked(packed, source, total)
        size = packed.stat().st_size
        os.replace(packed, scratch)
    yield Progress("pack", total, total, "tiles", size)
    return PackReport(tiles, size)


def _checked(packed: Path, source: TileReader, total: int) -> int:
    """Return the number of tiles of a new archive that is whole and holds what its source does.

    Raises PackerUnavailable.
    """
    if not packed.is_file():
        raise PackerUnavailable("pmtiles convert ended well and wrote nothing")
    found = problems(packed)
    if found:
        raise PackerUnavailable(f"pmtiles convert wrote an unsound archive: {'; '.join(found)}")
    with PMTilesReader(packed) as reader:
        tiles = reader.header.addressed_tiles_count
        stride = max(1, total // _COMPARED)
        for tile in islice(in_tile_order(source), 0, None, stride):
            if tiles == total and reader.read(tile) != source.read(tile):
                raise PackerUnavailable(f"pmtiles convert wrote another tile {tile} than it was given")
    if tiles != total:
        raise PackerUnavailable(f"pmtiles convert packed {tiles} tiles of {total}")
    return tiles


def _running(
    arguments: list[str], folder: Path, output: Path, environment: Mapping[str, str] | None
) -> Iterator[int]:
    """Run a command, yielding the bytes in its folder now and then; it ends with the iterator."""
    with (folder / "log").open("w+b") as log:
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        except OSError as error:
            raise PackerUnavailable(f"the pmtiles command does not start ({error})") from error
        try:
            while process.poll() is None:
                yield _size(folder)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            log.seek(0)
            _fail(log.read().decode(errors="replace").strip(), process.returncode, output)


def _fail(said: str, status: int, output: Path) -> None:
    if "no space left on device" in said.lower():
        raise DiskFull(output, free_mib(output))
    last = said.splitlines()[-1] if said else "it said nothing"
    raise PackerUnavailable(f"pmtiles convert failed with status {status}: {last}")


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; files that vanish meanwhile count nothing."""
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size

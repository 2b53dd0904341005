"""Answers of models that are paid for and not yet part of the layer, kept on the disk.

An answer is written as soon as it is there, and goes when its block is complete.
A run that dies in between leaves it to the next one, which need not ask again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusi_pipeline.tiles.files import raise_for, sync
from layer_generation.owners import is_gone, own_name
from layer_generation.pictures import Pixels, png

FOLDER = ".fusi-received"
"""Within the folder of the layer's pictures."""
_ENDING = ".answer"
_UNDER_WAY = ".part"


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came."""

    path: Path
    key: str
    """What was asked, as a hash."""
    image: Pixels
    """Shape (rows, cols, 3), of the server's size."""
    facts: Mapping[str, Any]
    """How it came about."""


class Answers:
    """The answers of a layer that wait to be used. Threads and processes may share the folder."""

    def __init__(self, generations: Path) -> None:
        self.generations = generations
        self.folder = generations / FOLDER

    def keep(self, block: int, key: str, image: Pixels, facts: Mapping[str, Any]) -> Received:
        """Write the answer for a block, absent or complete. Raises DiskFull and OutputUnwritable."""
        target = self.folder / f"{block}-{key}{_ENDING}"
        scratch = self.folder / _piece(block)
        written = io.BytesIO()
        text = np.frombuffer(json.dumps(dict(facts), sort_keys=True).encode(), dtype=np.uint8)
        np.savez(written, image=image, facts=text)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(written.getbuffer())
            # a kill loses it no more; a power cut may damage it, which is noticed
            os.replace(scratch, target)
        except OSError as error:
            raise_for(error, target)
        return Received(target, key, image, facts)

    def of(self, block: int) -> Iterator[Received]:
        """Yield the answers for a block; what is damaged is passed over."""
        for path in sorted(self.folder.glob(f"{block}-*{_ENDING}")):
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    image, text = stored["image"], stored["facts"].tobytes()
                facts = json.loads(text)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue
            if image.dtype == np.uint8 and image.ndim == 3 and isinstance(facts, dict):
                key = path.name.removeprefix(f"{block}-").removesuffix(_ENDING)
                yield Received(path, key, image, facts)

    def prepare(self, block: int, pictures: Sequence[tuple[tuple[int, int], Pixels]]) -> Path:
        """Write the pictures of a block's quadrants beside their names, on the disk; return their folder.

        Raises DiskFull and OutputUnwritable.
        """
        folder = self.folder / (_piece(block) + ".d")
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for (x, y), picture in pictures:
                path = folder / f"{x}_{y}.png"
                path.write_bytes(png(picture))
                sync(path)
        except OSError as error:
            raise_for(error, folder)
        return folder

    def publish(self, folder: Path, quadrants: Sequence[tuple[int, int]]) -> None:
        """Give the pictures of a folder their names. Raises DiskFull and OutputUnwritable."""
        try:
            for x, y in quadrants:
                os.replace(folder / f"{x}_{y}.png", self.generations / f"{x}_{y}.png")
            sync(self.generations)
        except OSError as error:
            raise_for(error, self.generations)

    def forget(self, block: int) -> None:
        """Remove the answers for a block."""
        for path in self.folder.glob(f"{block}-*{_ENDING}"):
            path.unlink(missing_ok=True)

    def clear(self, complete: Collection[int], *, whole: bool) -> None:
        """Remove what interrupted runs left: answers of complete blocks, pieces of processes that ended.

        `whole` tells that all blocks are complete, so that no one needs the folder.
        """
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            block = path.name.partition("-")[0]
            if path.name.endswith(_ENDING):
                if block.isdigit() and int(block) in complete:
                    path.unlink(missing_ok=True)
            elif is_gone(_owner_of(path.name)):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        if whole:
            with suppress(OSError):
                self.folder.rmdir()


def _piece(block: int) -> str:
    """Return the name of what the calling thread is writing for a block."""
    return "@".join((str(block), own_name().replace(":", "~"), f"{threading.get_ident()}{_UNDER_WAY}"))


def _owner_of(piece: str) -> str:
    """Return the name of the process that wrote a piece."""
    return piece.split("@")[1].replace("~", ":") if piece.count("@") == 2 else ""

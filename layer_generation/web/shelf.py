"""What there is to look at: the renders and generations of the map, and every layer drawn over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fusi_pipeline.errors import FusiError
from layer_generation.layer_config import FILENAME, read_layer
from layer_generation.quadrants import KINDS, Kind, QuadrantStore
from layer_generation.web.items import Quadrant

LAYER = "layer:"
GENERATIONS = "generations"
_NAMES = {"render": "Render", "generation": "Generation"}


class Pictures(Protocol):
    """Pictures of quadrants, from wherever they are. Threads may share it."""

    @property
    def id(self) -> str:
        """What paths call it."""
        ...

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def versions(self) -> Mapping[Quadrant, int]:
        """Return a number for every quadrant that has a picture; it changes when the picture does."""
        ...

    def read(self, x: int, y: int) -> bytes | None:
        """Return a picture as it is stored, None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class MapPictures:
    """Renders or generations."""

    folder: Path
    kind: Kind

    @property
    def id(self) -> str:
        """`render` or `generation`."""
        return self.kind

    @property
    def name(self) -> str:
        """What people call it."""
        return _NAMES[self.kind]

    def versions(self) -> Mapping[Quadrant, int]:
        """Return the revision of every picture's newest change."""
        with QuadrantStore(self.folder) as store:
            return store.versions(self.kind)

    def read(self, x: int, y: int) -> bytes | None:
        """Return a picture as it is stored."""
        with QuadrantStore(self.folder) as store:
            return store.image(self.kind, x, y)


@dataclass(frozen=True, slots=True)
class LayerPictures:
    """What a layer has drawn so far."""

    folder: Path
    name: str

    @property
    def id(self) -> str:
        """`layer:` and the name of its folder."""
        return f"{LAYER}{self.folder.name}"

    def versions(self) -> Mapping[Quadrant, int]:
        """Return when each picture was written, in nanoseconds."""
        return dict(self._files())

    def _files(self) -> Iterator[tuple[Quadrant, int]]:
        try:
            entries = list(os.scandir(self.folder / GENERATIONS))
        except OSError:
            return
        for entry in entries:
            quadrant = _named(entry.name)
            if quadrant is not None:
                try:
                    yield quadrant, entry.stat().st_mtime_ns
                except FileNotFoundError:
                    continue

    def read(self, x: int, y: int) -> bytes | None:
        """Return a picture as it is stored."""
        try:
            return (self.folder / GENERATIONS / f"{x}_{y}.png").read_bytes()
        except FileNotFoundError:
            return None


class Shelf:
    """The pictures of one map. Layers may come and go while it is open."""

    def __init__(self, folder: Path, layer_folders: Sequence[Path]) -> None:
        """Take the map's folder, and folders that hold layers."""
        self.folder = folder
        self._layer_folders = tuple(layer_folders)

    def all(self) -> list[Pictures]:
        """Return what there is now: the map's pictures, then its layers by name."""
        own: list[Pictures] = [MapPictures(self.folder, kind) for kind in KINDS]
        layers: dict[str, Pictures] = {}
        for one in self._layers():
            layers.setdefault(one.id, one)
        return own + [layers[key] for key in sorted(layers)]

    def find(self, name: str) -> Pictures | None:
        """Return the pictures of an id, None where there are none of it."""
        if name in KINDS:
            return MapPictures(self.folder, name)
        if not name.startswith(LAYER):
            return None
        return next((one for one in self._layers() if one.id == name), None)

    def _layers(self) -> Iterator[LayerPictures]:
        mine = self.folder.resolve()
        for parent in self._layer_folders:
            try:
                found = sorted(one for one in parent.iterdir() if (one / FILENAME).is_file())
            except OSError:
                continue
            for one in found:
                try:
                    config = read_layer(one)
                except FusiError:
                    continue  # a layer that cannot be read is none to look at; `fusi layer status` says why
                if config.map_folder(one).resolve() == mine:
                    yield LayerPictures(one, config.name)


def _named(name: str) -> Quadrant | None:
    """Return the quadrant of a picture's file name, None for other files."""
    x, mark, y = name.removesuffix(".png").partition("_")
    if not (mark and name.endswith(".png")):
        return None
    try:
        return int(x), int(y)
    except ValueError:
        return None

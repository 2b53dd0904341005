"""Pictures changed by hand: a rectangle taken out as one PNG and put back, fills, colours replaced softly."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from layer_generation.camera import QUADRANT_PX
from layer_generation.errors import (
    ImageInvalid,
    ItemInvalid,
    NothingBeneath,
    PicturesMissing,
    PicturesThere,
)
from layer_generation.pictures import Pixels, decoded, png, resized
from layer_generation.quadrants import Kind, QuadrantStore
from layer_generation.web.items import Quadrant, rectangle, shown
from layer_generation.web.shelf import Pictures

MOST_QUADRANTS = 256
"""Of a rectangle that goes out or comes in as one picture: 8192 x 8192 px."""
_MOST_TRIES = 5
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")

Picture = tuple[int, int, bytes]
"""Column, row and PNG of a quadrant."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of quadrants."""

    x: int
    y: int
    columns: int
    rows: int

    @classmethod
    def between(cls, first: Quadrant, second: Quadrant) -> Box:
        """Return the rectangle between two opposite corners, both included. Raises ItemInvalid."""
        x, y = min(first[0], second[0]), min(first[1], second[1])
        box = cls(x, y, abs(first[0] - second[0]) + 1, abs(first[1] - second[1]) + 1)
        if box.columns * box.rows > MOST_QUADRANTS:
            raise ItemInvalid(
                f"a rectangle of {box.columns} x {box.rows} quadrants: expected at most {MOST_QUADRANTS}"
            )
        return box

    @property
    def quadrants(self) -> tuple[Quadrant, ...]:
        """Its quadrants, row by row."""
        return tuple(rectangle((self.x, self.y), (self.x + self.columns - 1, self.y + self.rows - 1)))

    @property
    def name(self) -> str:
        """Its corners, as part of a file's name."""
        return f"{self.x}_{self.y}_{self.x + self.columns - 1}_{self.y + self.rows - 1}"


def exported(pictures: Pictures, box: Box, *, partial: bool) -> bytes:
    """Return a rectangle as one PNG, transparent where nothing is if `partial`.

    Raises PicturesMissing where something is missing otherwise.
    """
    canvas = np.zeros((box.rows * QUADRANT_PX, box.columns * QUADRANT_PX, 4), dtype=np.uint8)
    missing = []
    for x, y in box.quadrants:
        data = pictures.read(x, y)
        if data is None:
            missing.append((x, y))
            continue
        part = canvas[_span(y - box.y), _span(x - box.x)]
        part[..., :3] = _of_size(decoded(data, f"{pictures.name} {x},{y}"))
        part[..., 3] = 255
    if missing and not partial:
        raise PicturesMissing(pictures.name, shown(missing))
    return png(canvas if missing else np.ascontiguousarray(canvas[..., :3]))


def imported(
    store: QuadrantStore, kind: Kind, corner: Quadrant, data: bytes, *, overwrite: bool
) -> tuple[Quadrant, ...]:
    """Put a picture of whole quadrants into the map; return the quadrants that were written.

    It is laid over what is there: where it is transparent that stays, pixel by
    pixel, and quadrants that are wholly transparent in it are left as they are.
    Raises ImageInvalid for a picture of another size, PicturesThere, and
    NothingBeneath where it is partly transparent over a quadrant without a picture.
    """
    over = _with_alpha(data)
    rows, cols = over.shape[:2]
    if rows % QUADRANT_PX or cols % QUADRANT_PX or not rows * cols:
        raise ImageInvalid(
            "the picture", f"is {cols} x {rows} px; expected whole quadrants of {QUADRANT_PX} px"
        )
    box = Box.between(corner, (corner[0] + cols // QUADRANT_PX - 1, corner[1] + rows // QUADRANT_PX - 1))
    parts = {(x, y): over[_span(y - box.y), _span(x - box.x)] for x, y in box.quadrants}
    written = [one for one, part in parts.items() if part[..., 3].any()]
    _known(store, written)

    def laid() -> list[Picture]:
        there = [one for one in written if store.has(kind, *one)]
        if there and not overwrite:
            raise PicturesThere(kind, shown(there))
        bare = [one for one in written if one not in there and (parts[one][..., 3] < 255).any()]
        if bare:
            raise NothingBeneath(kind, shown(bare))
        return [(x, y, png(_over(_below(store, kind, x, y), parts[x, y]))) for x, y in written]

    _changed(store, kind, written, laid, {"model": "imported"})
    return tuple(written)


def _below(store: QuadrantStore, kind: Kind, x: int, y: int) -> Pixels | None:
    data = store.image(kind, x, y)
    return None if data is None else _of_size(decoded(data, f"{kind} {x},{y}"))


def _over(below: Pixels | None, part: Pixels) -> Pixels:
    """Return colours with alpha, shape (rows, cols, 4), laid over others, shape (rows, cols, 3)."""
    alpha = part[..., 3:].astype(np.float32) / 255
    if below is None or (alpha == 1).all():
        return np.ascontiguousarray(part[..., :3])
    return np.rint(part[..., :3] * alpha + below * (1 - alpha)).astype(np.uint8)


def _changed(
    store: QuadrantStore,
    kind: Kind,
    quadrants: Sequence[Quadrant],
    made: Callable[[], list[Picture]],
    facts: Mapping[str, object],
) -> list[Picture]:
    """Store pictures made from those that are there; made anew where somebody else changes one meanwhile."""
    for _ in range(_MOST_TRIES):
        before = {one: store.version(kind, *one) for one in quadrants}
        pictures = made()
        if store.store_over(kind, pictures, before, facts):
            return pictures
    raise ItemInvalid(f"{shown(quadrants)}: others change pictures there all the time; try again")


def filled(store: QuadrantStore, quadrants: Sequence[Quadrant], color: str) -> int:
    """Give quadrants generations of one colour; return how many. Raises ItemInvalid."""
    _known(store, quadrants)
    plain = np.empty((QUADRANT_PX, QUADRANT_PX, 3), dtype=np.uint8)
    plain[:] = color_of(color)
    data = png(plain)
    store.store("generation", [(x, y, data) for x, y in quadrants], "", {"model": f"filled with {color}"})
    return len(quadrants)


def recolored(
    store: QuadrantStore, quadrants: Sequence[Quadrant], color: str, replacement: str, softness: float
) -> int:
    """Replace a colour in generations; return how many quadrants changed.

    Pixels of the colour become the replacement; those near it move towards it, the
    less the farther they are, up to `softness` (0..100, in hundredths of the way
    from black to white). Raises ItemInvalid and ImageInvalid.
    """

    def replaced() -> list[Picture]:
        changed = []
        for x, y in quadrants:
            before = _below(store, "generation", x, y)
            if before is not None:
                after = _recolored(before, color_of(color), color_of(replacement), softness)
                if not np.array_equal(before, after):
                    changed.append((x, y, png(after)))
        return changed

    facts = {"model": f"{color} replaced by {replacement}"}
    return len(_changed(store, "generation", quadrants, replaced, facts))


def color_of(text: str) -> tuple[int, int, int]:
    """Return #rrggbb as three numbers. Raises ItemInvalid."""
    if not _COLOR.fullmatch(text):
        raise ItemInvalid(f"color {text!r:.40}: expected #rrggbb")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _recolored(
    pixels: Pixels, color: tuple[int, int, int], replacement: tuple[int, int, int], softness: float
) -> Pixels:
    from_color, to_color = np.array(color, dtype=np.float32), np.array(replacement, dtype=np.float32)
    distance = np.sqrt(((pixels - from_color) ** 2).sum(axis=-1))
    reach = softness / 100 * np.sqrt(3) * 255
    share = (distance == 0).astype(np.float32) if reach <= 0 else np.clip(1 - distance / reach, 0, 1)
    moved = pixels + share[..., None] * (to_color - from_color)
    return np.asarray(np.clip(np.rint(moved), 0, 255).astype(np.uint8))


def _with_alpha(data: bytes) -> Pixels:
    """Return the colours of a picture with alpha, shape (rows, cols, 4)."""
    most = MOST_QUADRANTS * QUADRANT_PX * QUADRANT_PX
    pixels = decoded(data, "the picture", most)
    with Image.open(io.BytesIO(data)) as image:
        if "A" in image.getbands() or "transparency" in image.info:
            return np.asarray(image.convert("RGBA"))
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)])


def _known(store: QuadrantStore, quadrants: Iterable[Quadrant]) -> None:
    """Raise ItemInvalid for quadrants that the map does not have."""
    strange = [one for one in quadrants if not store.holds(*one)]
    if strange:
        raise ItemInvalid(f"{shown(strange)}: the map has no such quadrant")


def _span(number: int) -> slice:
    return slice(number * QUADRANT_PX, (number + 1) * QUADRANT_PX)


def _of_size(picture: Pixels) -> Pixels:
    if picture.shape[:2] == (QUADRANT_PX, QUADRANT_PX):
        return picture
    return resized(picture, QUADRANT_PX, QUADRANT_PX)

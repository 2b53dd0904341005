"""Single pictures, from a prompt to PNG files that say how they were made."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusi_pipeline.errors import FusiError, OutputExists, UsageError
from fusi_pipeline.tiles.files import replacing, writable_folder
from layer_generation.advance import Advance
from layer_generation.endpoints.base import EndpointError, EndpointUnreached
from layer_generation.endpoints.generations import Drawing, Told
from layer_generation.picture_makers import CannotMake, Maker, Wanted

CHUNK = "fusi image"
"""Keyword of the text chunk of a PNG that says, as JSON, how it was made."""
_LOOK_S = 0.1
_LAST_WORDS_S = 10.0
"""How long a server may take to hear that a picture is not wanted any more."""


class PictureFailed(FusiError):
    """A picture was not made."""

    def __init__(self, name: str, error: EndpointError) -> None:
        remedy = (
            "; start a server with `fusi image-api`, or leave out --server"
            if isinstance(error, EndpointUnreached)
            else ""
        )
        super().__init__(f"{name}: {error}{remedy}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A picture that was made."""

    path: Path
    seed: int | None
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReport:
    """What was made, by whom."""

    server: str
    pictures: tuple[PictureFile, ...]
    seconds: float


def make_pictures(
    maker: Maker, wanted: Wanted, output: Path, *, overwrite: bool = False
) -> Generator[Advance, None, ImageReport]:
    """Make pictures, of which each file is absent or complete; yields how far they are.

    Closing the generator, or an exception within it, cancels what is drawn. Raises PictureFailed,
    CannotMake, OutputExists and what writing files raises.
    """
    paths = output_paths(output, wanted.count)
    for path in paths:
        if path.exists() and not (overwrite or _is_ours(path)):
            raise OutputExists(path)
        writable_folder(path.parent)
    began = time.monotonic()
    drawings = yield from _made(maker, wanted)
    for number, drawing in enumerate(drawings, 1):
        _check(maker.name, wanted, drawing, number)
    files = tuple(_write(maker.name, wanted, *pair) for pair in zip(paths, drawings, strict=True))
    return ImageReport(server=maker.name, pictures=files, seconds=round(time.monotonic() - began, 3))


def output_paths(output: Path, count: int) -> list[Path]:
    """Return the files of some pictures: OUT.png of one, OUT-1.png and so on of several."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"-o {output}: pictures are PNG; name a file that ends in .png")
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]


def _made(maker: Maker, wanted: Wanted) -> Generator[Advance, None, tuple[Drawing, ...]]:
    """Let the maker work in a thread; yield what it says."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    stop = threading.Event()
    ended: list[tuple[Drawing, ...] | BaseException] = []

    def work() -> None:
        try:
            ended.append(maker.make(wanted, stop, told.put))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            ended.append(error)

    thread = threading.Thread(target=work, name="picture", daemon=True)
    thread.start()
    percentage = 0
    try:
        yield Advance("wait", 0, 100, "%")
        while thread.is_alive():
            try:
                now = told.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            percentage = max(percentage, min(int(now.percentage), 99))
            yield _advance(now, percentage, wanted.count)
    except BaseException:
        stop.set()
        thread.join(_LAST_WORDS_S)
        raise
    (found,) = ended
    if isinstance(found, EndpointError):
        raise PictureFailed(maker.name, found) from found
    if isinstance(found, BaseException):
        raise found
    yield Advance("draw", 100, 100, "%")
    return found


def _advance(now: Told, percentage: int, count: int) -> Advance:
    """Return how far pictures are, for a person."""
    if now.status == "busy":
        return Advance("wait", 0, 100, "%", "the server is busy")
    if now.status in ("pending", "queued"):
        return Advance("wait", 0, 100, "%", f"place {now.position}" if now.position else "")
    number = f"picture {min(now.image, count)} of {count}" if count > 1 else ""
    return Advance("draw", percentage, 100, "%", " ".join(part for part in (number, now.stage) if part))


def _check(name: str, wanted: Wanted, drawing: Drawing, number: int) -> None:
    """Raise CannotMake where a picture is not of the size that was asked for."""
    rows, cols = drawing.image.shape[:2]
    image = wanted.image
    width = wanted.width or (cols if image is None else image.shape[1])
    height = wanted.height or (rows if image is None else image.shape[0])
    if (cols, rows) != (width, height):
        raise CannotMake(
            f"{name}: picture {number} came back as {cols} x {rows} px, not {width} x {height}; "
            "ask for a size that its model draws"
        )


def _write(name: str, wanted: Wanted, path: Path, drawing: Drawing) -> PictureFile:
    """Write a picture with how it was made; what the mask leaves out is as it was."""
    pixels = drawing.image
    if wanted.image is not None and wanted.mask is not None:
        pixels = np.where(wanted.mask[..., None], pixels, wanted.image)
    rows, cols = pixels.shape[:2]
    facts = {**_asked(wanted), "seed": drawing.seed, "width": cols, "height": rows, "server": name}
    info = PngInfo()
    info.add_text("Software", "fusi")
    info.add_itxt(CHUNK, json.dumps(facts, ensure_ascii=False))
    with replacing(path) as scratch:
        Image.fromarray(pixels).save(scratch, "PNG", pnginfo=info)
    return PictureFile(path=path, seed=drawing.seed, width=cols, height=rows, bytes=path.stat().st_size)


def _asked(wanted: Wanted) -> Mapping[str, Any]:
    """Return what was asked for beside the pictures to start from."""
    names = ("prompt", "negative_prompt", "steps", "cfg_scale", "sampler", "model", "strength")
    given = {name: getattr(wanted, name) for name in names}
    return {name: value for name, value in given.items() if value not in (None, "")}


def _is_ours(path: Path) -> bool:
    """Tell whether a file is a picture that this command wrote."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return CHUNK in picture.info
    except (OSError, SyntaxError, ValueError):
        return False

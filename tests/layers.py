"""Maps and layers of the tests: quadrants of one colour each, layers drawn to a known point."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pytest

from fusi_pipeline import console
from layer_generation.advance import Advance
from layer_generation.camera import Geometry
from layer_generation.cli import layer
from layer_generation.layer import init_layer
from layer_generation.map_making import new_store
from layer_generation.pictures import Pixels, png
from layer_generation.progress import BlockRow, Progress
from tests.command import Answer

Result = TypeVar("Result")
Quadrant = tuple[int, int]


def done(work: Generator[Advance, None, Result]) -> Result:
    """Drive a piece of work to its end; return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def told(capsys: pytest.CaptureFixture[str], *words: object) -> Answer:
    """Run a command of `fusi layer`."""
    fusi = click.Group("fusi", commands={"layer": layer})
    given = fusi.make_context
    fusi.make_context = lambda name, args, **more: given(  # type: ignore[method-assign, misc]
        "fusi", ["layer", *map(str, words)], **more
    )
    with pytest.raises(SystemExit) as end:
        console.main(fusi)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return Answer(int(end.value.code or 0), out, err)


def colour(x: int, y: int) -> tuple[int, int, int]:
    """Return a colour that no other quadrant nearby has."""
    return (37 * x + 11 * y) % 256, (53 * y + 7) % 256, (91 * x + 29 * y + 3) % 256


def picture(x: int, y: int, size: int = 512) -> Pixels:
    """Return a picture of a quadrant, with a pattern of pixels in its colour, shape (size, size, 3)."""
    pixels = np.full((size, size, 3), colour(x, y), dtype=np.uint8)
    pixels[::2, ::3] = 255 - pixels[::2, ::3]
    pixels[:7, :9] = (x % 256, y % 256, 128)
    return pixels


def write_map(folder: Path, geometry: Geometry, quadrants: Iterable[Quadrant], **facts: Any) -> Path:
    """Write a map whose quadrants have renders."""
    with new_store(folder, geometry, facts) as store:
        store.put("render", ((x, y, png(picture(x, y))) for x, y in quadrants))
    return folder


def write_layer(
    folder: Path,
    map_folder: Path,
    *,
    name: str = "snow",
    blocks: int | None = None,
    outcome: Callable[[BlockRow], str | None] = lambda block: None,
) -> Path:
    """Write a layer over the renders of a map with so many blocks done; `outcome` is a block's error."""
    init_layer(folder, name=name, generation_dir=map_folder, source_layer="renders")
    with Progress(folder) as progress:
        for _ in range(10**6 if blocks is None else blocks):
            block = progress.claim("worker", 1000)
            if block is None:
                break
            error = outcome(block)
            if error is not None:
                progress.fail(block.id, "worker", error, model_name="one")
                continue
            facts = json.dumps({"model": "brush", "prompt_sha256": "ab" * 32, "seconds": 1.5})
            progress.finish(
                block.id, "worker", model_name="one", provenance=facts,
                publish=lambda block=block: write_pictures(folder, block.quadrants),  # type: ignore[misc]
            )  # fmt: skip
    return folder


def write_pictures(folder: Path, quadrants: Sequence[Quadrant]) -> None:
    """Write the generations of quadrants of a layer."""
    for x, y in quadrants:
        (folder / "generations" / f"{x}_{y}.png").write_bytes(png(picture(x, y)))

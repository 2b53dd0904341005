"""A layer's folder: made, extended, looked at."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import OutputUnwritable, UsageError
from fusi_pipeline.tiles.files import sync, writable_folder
from layer_generation import layer_config, plan
from layer_generation.errors import LayerExists
from layer_generation.layer_config import EndpointConfig, LayerConfig, read_layer, write_layer
from layer_generation.progress import FILENAME as PROGRESS
from layer_generation.progress import BlockRow, NewBlock, Progress
from layer_generation.quadrants import Kind, QuadrantStore

GENERATIONS = "generations"
_IGNORED = "generations/\nprogress.db*\ndebug_map.html\n"
_COLUMNS = ("step", "wave", "x", "y", "width", "height", "extension")
BUILTIN = EndpointConfig(name="pixelart", url="builtin:pixelart", protocol="builtin", concurrency=2)
"""What draws a layer for which no model server was named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a layer's plan comes to."""

    layer_dir: Path
    name: str
    quadrants: int
    """Quadrants of the source that the plan covers."""
    added: int
    """Blocks that were added now."""
    calls: int
    """Blocks in all: each is one call of a model."""
    by_step: dict[str, int]
    by_type: dict[str, int]
    irregular: int
    """Blocks whose surroundings the shape of the map does not allow to be as they should."""
    reasons: dict[str, int]
    """Of these, how many for which reason."""
    bound: int | None
    """No plan can do with fewer calls; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatus:
    """How far a layer is."""

    layer_dir: Path
    name: str
    source_layer: str
    steps: dict[str, dict[str, int]]
    """Blocks by step and status; `blocked` are those that wait for a failed one."""
    complete: int
    total: int
    quadrants_complete: int
    quadrants: int
    errors: tuple[dict[str, object], ...]
    """Failed blocks: id, place, type, attempts, endpoint and message."""
    by_endpoint: dict[str, int] = field(default_factory=dict)
    irregular: tuple[dict[str, object], ...] = ()
    """Blocks with less context than they should have: id, place, type and the reason."""


def init_layer(
    layer_dir: Path,
    *,
    name: str,
    generation_dir: Path,
    source_layer: str = "generations",
    bounds: tuple[int, int, int, int] | None = None,
    endpoints: Sequence[EndpointConfig] = (),
    params: Mapping[str, Any] | None = None,
    force: bool = False,
) -> PlanReport:
    """Make a layer: its configuration, its plan, its folders; absent or complete.

    `force` puts a layer that is there aside under another name. Raises
    LayerExists, MapMissing, UsageError where the map has nothing to draw from.
    """
    if not name.strip() or not name.isprintable():
        raise UsageError(f"--name {name!r}: expected a text of one line")
    if _is_layer(layer_dir) and not force:
        raise LayerExists(layer_dir)
    if layer_dir.exists() and not layer_dir.is_dir():
        raise UsageError(f"{layer_dir}: is a file; choose another name for the folder")
    if layer_dir.exists() and not _is_layer(layer_dir) and any(layer_dir.iterdir()):
        raise UsageError(f"{layer_dir}: is not empty and no layer; choose another folder")
    config = LayerConfig(
        name=name,
        generation_dir=_relative(generation_dir, layer_dir),
        source_layer=source_layer,
        model_endpoints=tuple(endpoints) or (BUILTIN,),
        generation_params=dict(params or {}),
        bounds=bounds,
    )
    quadrants = _source_quadrants(generation_dir, config)
    planned = plan.plan(quadrants)
    writable_folder(layer_dir.parent)
    scratch = layer_dir.with_name(f".{layer_dir.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / GENERATIONS).mkdir(parents=True)
        (scratch / ".gitignore").write_text(_IGNORED, encoding="utf-8")
        write_layer(scratch, config)
        with Progress.create(scratch) as progress:
            progress.add(_new_blocks(planned), planned.waits_for.astype(np.int64))
            progress.close()
        _take_place(scratch, layer_dir, force=force)
        sync(layer_dir.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _report(layer_dir, config, len(planned.step), planned.summary.lower_bound)


def extend_layer(layer_dir: Path) -> PlanReport:
    """Add blocks for the quadrants of the map that no block covers yet."""
    config = read_layer(layer_dir)
    quadrants = _source_quadrants(config.map_folder(layer_dir), config)
    with Progress(layer_dir) as progress:
        blocks = list(progress.blocks())
        known = {quadrant for block in blocks for quadrant in block.quadrants}
        new = np.array([one for one in map(tuple, quadrants.tolist()) if one not in known], dtype=np.int64)
        if len(new):
            added = plan.extend(_plan_of(blocks, progress.edges()), new.reshape(-1, 2))
            progress.add(*_extension(added, blocks))
    return _report(layer_dir, config, 0 if not len(new) else len(added.step) - len(blocks), None)


def status_of(layer_dir: Path) -> LayerStatus:
    """Return how far a layer is."""
    config = read_layer(layer_dir)
    with Progress(layer_dir) as progress:
        counts, blocks = progress.counts(), list(progress.blocks())
    complete = [block for block in blocks if block.status == "complete"]
    by_endpoint: dict[str, int] = {}
    for block in complete:
        by_endpoint[block.model_name or ""] = by_endpoint.get(block.model_name or "", 0) + 1
    return LayerStatus(
        layer_dir=layer_dir,
        name=config.name,
        source_layer=config.source_layer,
        steps={str(step): found for step, found in counts.items()},
        complete=len(complete),
        total=len(blocks),
        quadrants_complete=sum(block.width * block.height for block in complete),
        quadrants=sum(block.width * block.height for block in blocks),
        errors=tuple(_trouble(block) for block in blocks if block.status == "error"),
        by_endpoint=dict(sorted(by_endpoint.items())),
        irregular=tuple({**_place(block), "reason": block.reason} for block in blocks if block.reason),
    )


def retry_errors(layer_dir: Path) -> int:
    """Make failed blocks pending again; return how many."""
    with Progress(layer_dir) as progress:
        return progress.retry_errors()


def _place(block: BlockRow) -> dict[str, object]:
    return {
        "id": block.id,
        "x": block.x,
        "y": block.y,
        "type": f"{block.width}x{block.height}",
        "step": block.step,
    }


def _trouble(block: BlockRow) -> dict[str, object]:
    return {
        **_place(block),
        "attempts": block.attempts,
        "endpoint": block.model_name,
        "message": block.error_message,
    }


def _is_layer(folder: Path) -> bool:
    return (folder / layer_config.FILENAME).exists() or (folder / PROGRESS).exists()


def _take_place(scratch: Path, layer_dir: Path, *, force: bool) -> None:
    """Give a new layer its name; with `force`, a layer that has it gets another.

    A folder takes the place of an empty one or none, so of two processes one
    is first. Raises LayerExists for the other.
    """
    while True:
        try:
            os.replace(scratch, layer_dir)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise OutputUnwritable(layer_dir, error.strerror or str(error)) from error
        if not force:
            raise LayerExists(layer_dir)
        _put_aside(layer_dir)


def _put_aside(layer_dir: Path) -> None:
    """Give a layer that is there another name, if another process did not do so before."""
    for number in itertools.count(1):
        try:
            os.replace(layer_dir, layer_dir.with_name(f"{layer_dir.name}.backup-{number}"))
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise OutputUnwritable(layer_dir, error.strerror or str(error)) from error
        else:
            return


def _relative(folder: Path, layer_dir: Path) -> str:
    """Return the map's folder as seen from the layer's, so that both may be moved together."""
    return os.path.relpath(folder.resolve(), layer_dir.resolve())


def _source_quadrants(folder: Path, config: LayerConfig) -> npt.NDArray[np.int64]:
    """Return the (x, y) of the quadrants that there is something to draw from, within the bounds."""
    kind: Kind = "render" if config.source_layer == "renders" else "generation"
    with QuadrantStore(folder) as store:
        found = store.coordinates(kind)
    if not len(found):
        other = "renders" if kind == "generation" else "generations"
        raise UsageError(
            f"{folder}: has no quadrant with a {kind}; fill them in with `fusi layer map render` or"
            f" `import-images`, or use --source-layer {other}"
        )
    if config.bounds is not None:
        left, top, right, bottom = config.bounds
        inside = (found >= (left, top)).all(axis=1) & (found <= (right, bottom)).all(axis=1)
        if not inside.any():
            (x_0, y_0), (x_1, y_1) = found.min(axis=0).tolist(), found.max(axis=0).tolist()
            raise UsageError(
                f"--bounds {left},{top},{right},{bottom}: no quadrant with a {kind} is there; "
                f"they lie within {x_0},{y_0},{x_1},{y_1}"
            )
        found = found[inside]
    return found


def _new_blocks(planned: plan.Plan, first: int = 0) -> list[NewBlock]:
    columns = (getattr(planned, name)[first:].tolist() for name in _COLUMNS)
    return [
        NewBlock(step, wave, x, y, width, height, extension, planned.reason.get(number))
        for number, (step, wave, x, y, width, height, extension) in enumerate(
            zip(*columns, strict=True), first
        )
    ]


def _plan_of(blocks: Sequence[BlockRow], edges: npt.NDArray[np.int64]) -> plan.Plan:
    """Return the plan that a layer has already."""
    places = {block.id: place for place, block in enumerate(blocks)}
    columns = {
        name: np.array([getattr(block, name) for block in blocks], dtype=np.int32) for name in _COLUMNS
    }
    waits = np.array([(places[one], places[other]) for one, other in edges.tolist()], dtype=np.int32)
    reasons = {place: block.reason for place, block in enumerate(blocks) if block.reason}
    return plan.Plan(**columns, waits_for=waits.reshape(-1, 2), reason=reasons, summary=plan.plan([]).summary)


def _extension(
    extended: plan.Plan, blocks: Sequence[BlockRow]
) -> tuple[list[NewBlock], npt.NDArray[np.int64]]:
    """Return the blocks of an extended plan that are new, and their edges as `Progress.add` takes them."""
    first = len(blocks)
    edges = extended.waits_for.astype(np.int64)
    edges = edges[edges[:, 0] >= first]
    ids = np.array([block.id for block in blocks], dtype=np.int64)
    old = edges[:, 1] < first
    waits = np.where(old, -ids[np.minimum(edges[:, 1], max(first - 1, 0))], edges[:, 1] - first)
    return _new_blocks(extended, first), np.stack([edges[:, 0] - first, waits], axis=1)


def _report(layer_dir: Path, config: LayerConfig, added: int, bound: int | None) -> PlanReport:
    with Progress(layer_dir) as progress:
        blocks = list(progress.blocks())
    by_type: dict[str, int] = {}
    by_step = dict.fromkeys(("1", "2", "3"), 0)
    for block in blocks:
        kind = f"{block.width}x{block.height}"
        by_type[kind] = by_type.get(kind, 0) + 1
        by_step[str(block.step)] += 1
    return PlanReport(
        layer_dir=layer_dir,
        name=config.name,
        quadrants=sum(block.width * block.height for block in blocks),
        added=added,
        calls=len(blocks),
        by_step=by_step,
        by_type=dict(sorted(by_type.items(), reverse=True)),
        irregular=sum(block.reason is not None for block in blocks),
        reasons=dict(Counter(block.reason for block in blocks if block.reason).most_common()),
        bound=bound,
    )

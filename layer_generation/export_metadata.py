"""What an exported layer says of itself: where it lies, what drew it, whom to credit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import GENERATOR, PICTURES, ArchiveMetadata
from fusi_pipeline.tiles.grid import HALF_WORLD_M, Bounds, Tile
from layer_generation.camera import QUADRANT_PX, Geometry, MercatorGrid, geometry_json
from layer_generation.errors import GeometryInvalid
from layer_generation.layer_config import LayerConfig
from layer_generation.progress import Progress

PROVENANCE = PICTURES
"""Key of the metadata under which a layer says how it was made."""
FLAT = "fusi_flat"
"""Key under which a layer that lies on no grid of the Earth says where its quadrants are."""
_SEEDS = "blake2b of 'seed|x|y' of a block's top left quadrant, 4 bytes big-endian, 31 bits of them"
Quadrant = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """What the plan of a layer came to."""

    finished: tuple[Quadrant, ...]
    """Quadrants of complete blocks."""
    quadrants: int
    """Quadrants of the plan."""
    blocks: Mapping[str, Mapping[str, int]]
    """Complete blocks and all blocks, by step."""
    types: Mapping[str, int]
    """Blocks by type."""
    models: Mapping[str, int]
    """Complete blocks by the endpoint, and model where it is stated, that drew them."""
    prompts: tuple[str, ...]
    """SHA-256 of the prompts that were used."""
    plan_sha256: str
    """Of the blocks in their order, a line each: step, x, y, width, height."""

    @property
    def missing(self) -> int:
        """Quadrants that are not finished."""
        return self.quadrants - len(self.finished)


@dataclass(frozen=True, slots=True)
class Placing:
    """Which tile each quadrant becomes."""

    zoom: int
    quadrants: Mapping[Tile, Quadrant]
    bounds: Bounds
    origin: Quadrant | None
    """Quadrant of tile (0, 0) where the map is flat; None where a quadrant is its XYZ tile."""

    @property
    def flat(self) -> bool:
        """Whether tiles are numbered from an origin of their own."""
        return self.origin is not None


def summary_of(progress: Progress) -> Summary:
    """Return what the plan of a layer came to."""
    finished: list[Quadrant] = []
    blocks: dict[str, dict[str, int]] = {}
    types: dict[str, int] = {}
    quadrants, plan = 0, hashlib.sha256()
    for block in progress.blocks():
        plan.update(f"{block.step} {block.x} {block.y} {block.width} {block.height}\n".encode())
        quadrants += block.width * block.height
        kind = f"{block.width}x{block.height}"
        types[kind] = types.get(kind, 0) + 1
        step = blocks.setdefault(str(block.step), {"complete": 0, "total": 0})
        step["total"] += 1
        if block.status == "complete":
            step["complete"] += 1
            finished.extend(block.quadrants)
    models: dict[str, int] = {}
    prompts: set[str] = set()
    for _, name, stated in progress.provenance():
        facts = _object(stated)
        model = f"{name} ({facts['model']})" if facts.get("model") else name
        models[model] = models.get(model, 0) + 1
        if facts.get("prompt_sha256"):
            prompts.add(str(facts["prompt_sha256"]))
    return Summary(
        finished=tuple(finished),
        quadrants=quadrants,
        blocks=blocks,
        types=types,
        models=dict(sorted(models.items())),
        prompts=tuple(sorted(prompts)),
        plan_sha256=plan.hexdigest(),
    )


def placing_of(geometry: Geometry, finished: tuple[Quadrant, ...]) -> Placing:
    """Return which tiles quadrants become. Raises GeometryInvalid for two that are the same tile.

    On the web-mercator grid a quadrant is its tile. Of other maps quadrant (0, 0)
    is in the middle of the smallest square of 2^z tiles that holds all, so that a
    map that grows keeps its tiles together.
    """
    if isinstance(geometry, MercatorGrid):
        zoom, origin = geometry.zoom, None
        tiles = [(geometry.tile(x, y), (x, y)) for x, y in finished]
    else:
        reach = max(max(x + 1, -x, y + 1, -y) for x, y in finished)
        zoom = max(reach - 1, 0).bit_length() + 1
        origin = (-(1 << zoom - 1), -(1 << zoom - 1))
        tiles = [(Tile(zoom, x - origin[0], y - origin[1]), (x, y)) for x, y in finished]
    quadrants: dict[Tile, Quadrant] = {}
    for tile, quadrant in tiles:
        if tile is None:
            raise GeometryInvalid(f"quadrant {quadrant[0]},{quadrant[1]} is not on the grid of zoom {zoom}")
        if tile in quadrants:
            raise GeometryInvalid(f"quadrants {quadrants[tile]} and {quadrant} are the same tile {tile}")
        quadrants[tile] = quadrant
    places = [(x, y) for x, y in finished] if origin is None else [(one.x, one.y) for one in quadrants]
    return Placing(zoom, quadrants, _bounds(zoom, places), origin)


def _bounds(zoom: int, places: list[Quadrant]) -> Bounds:
    """Return the box of tiles in degrees; columns may go on around the world, west > east then."""
    size = 2 * HALF_WORLD_M / (1 << zoom)
    left, right = min(x for x, _ in places), max(x for x, _ in places) + 1
    top, bottom = min(y for _, y in places), max(y for _, y in places) + 1
    west, north = grid.unproject(left * size - HALF_WORLD_M, HALF_WORLD_M - top * size)
    east, south = grid.unproject(right * size - HALF_WORLD_M, HALF_WORLD_M - bottom * size)
    if right - left >= 1 << zoom:
        west, east = -180.0, 180.0
    return Bounds((west + 180) % 360 - 180, south, 180 - (180 - east) % 360, north)


def layer_metadata(
    config: LayerConfig,
    geometry: Geometry,
    placing: Placing,
    summary: Summary,
    terrain: Mapping[str, object],
    *,
    kind: str,
    image_format: str,
    minzoom: int,
) -> ArchiveMetadata:
    """Return the metadata of an exported layer; nothing in it depends on when or where it was made."""
    extra: dict[str, object] = {
        "generator": GENERATOR,
        "type": kind,
        PROVENANCE: _provenance(config, summary, terrain),
    }
    if placing.origin is not None:
        columns = [x for x, _ in placing.quadrants.values()]
        rows = [y for _, y in placing.quadrants.values()]
        extra[FLAT] = {
            "origin_x": placing.origin[0],
            "origin_y": placing.origin[1],
            "min_x": min(columns),
            "min_y": min(rows),
            "max_x": max(columns),
            "max_y": max(rows),
            "tile_size": QUADRANT_PX,
            "maxzoom": placing.zoom,
            "camera": geometry_json(geometry),
        }
    flat = "; flat, its coordinates are no places on the Earth" if placing.flat else ""
    return ArchiveMetadata(
        name=config.name,
        description=f"Image layer {config.name}, drawn over {config.source_layer}{flat}",
        attribution=str(terrain.get("attribution") or ""),
        minzoom=minzoom,
        maxzoom=placing.zoom,
        bounds=placing.bounds,
        format=image_format,
        encoding="",
        tile_size=QUADRANT_PX,
        extra=extra,
    )


def _provenance(config: LayerConfig, summary: Summary, terrain: Mapping[str, object]) -> dict[str, object]:
    return {
        "name": config.name,
        "source_layer": config.source_layer,
        "models": summary.models,
        "prompt": config.prompt,
        "prompt_sha256": list(summary.prompts) or [hashlib.sha256(config.prompt.encode()).hexdigest()],
        "seed": config.generation_params.get("seed", 0),
        "seeds": _SEEDS,
        "plan": {
            "quadrants": summary.quadrants,
            "steps": summary.blocks,
            "types": summary.types,
            "sha256": summary.plan_sha256,
        },
        "finished": len(summary.finished),
        "missing": summary.missing,
        "terrain": {key: terrain[key] for key in ("name", "attribution") if terrain.get(key)},
    }


def _object(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

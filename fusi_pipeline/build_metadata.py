"""What the finished archive of a source says of itself."""

from __future__ import annotations

from collections.abc import Sequence

from fusi_pipeline.plan import SourcePlan
from fusi_pipeline.sources import union
from fusi_pipeline.tasks import Extent
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, XYBounds


def source_metadata(plan: SourcePlan, extents: Sequence[Extent]) -> ArchiveMetadata:
    """Return the metadata of a plan's archive whose valid pixels lie within `extents`."""
    config = plan.config
    extra: dict[str, object] = {
        "generator": GENERATOR,
        "source": plan.name,
        "resampling": config.resampling,
        "vertical_step_m": {str(z): terrarium.step_m(z) for z in range(plan.minzoom, plan.maxzoom + 1)},
        "height_error_m": "at most half the vertical step, beyond resampling",
    }
    extra |= {key: text for key, text in _facts(plan).items() if text}
    return ArchiveMetadata(
        name=config.name,
        minzoom=plan.minzoom,
        maxzoom=plan.maxzoom,
        bounds=_data_bounds(extents, plan.maxzoom),
        description=f"Elevation of {config.name} as Terrarium tiles; transparent where there is no data",
        attribution=config.attribution,
        extra=extra,
    )


def _facts(plan: SourcePlan) -> dict[str, str]:
    """Return what a source says of its rights and its heights, empty where it says nothing."""
    config, heights = plan.config, plan.vertical
    factored = config.unit_factor != 1 or config.offset_m != 0
    return {
        "license": config.license,
        "website": config.website,
        "vertical_datum": config.vertical_datum or heights.datum,
        "vertical_crs": heights.crs,
        "vertical_conversion": heights.description,
        "height_formula_m": f"value * {config.unit_factor!r} + {config.offset_m!r}" if factored else "",
    }


def _data_bounds(extents: Sequence[Extent], z: int) -> Bounds:
    """Return the geographic box of extents on a zoom's pixel grid, across the antimeridian if need be."""
    size = grid.resolution_m(z)
    boxes = [
        XYBounds(
            left * size - grid.HALF_WORLD_M,
            grid.HALF_WORLD_M - bottom * size,
            right * size - grid.HALF_WORLD_M,
            grid.HALF_WORLD_M - top * size,
        )
        for left, top, right, bottom in extents
    ]
    box = grid.geographic(union(boxes))
    return Bounds(*(round(value, 7) for value in (box.west, box.south, box.east, box.north)))

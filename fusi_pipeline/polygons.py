"""Areas of equal labels in a raster as polygons. Arrays in, geometries out.

Coordinates are those of the pixels' corners, x to the east and y down, until
`placed` gives them others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

Labels = npt.NDArray[np.uint8]
Geometries = npt.NDArray[np.object_]
Points = npt.NDArray[np.float64]


def segments(labels: Labels, most: int | None = None) -> Points | None:
    """Return the borders between labels, and around those that are not 0, as segments, shape (n, 2, 2).

    Each is (x, y) of its ends and straight; it ends where a border turns or
    meets another. What is beyond the raster counts as label 0. None where
    there are more than `most`.
    """
    framed = np.pad(labels, 1)
    across = framed[:-1, 1:-1] != framed[1:, 1:-1]
    down = framed[1:-1, :-1] != framed[1:-1, 1:]
    beside, above = np.pad(across, ((0, 0), (1, 1))), np.pad(down, ((1, 1), (0, 0)))
    nodes = (beside[:, :-1] | beside[:, 1:]) & (above[:-1] | above[1:])
    if most is not None and np.count_nonzero(nodes) > most:
        return None  # a node ends two segments at least, and a segment ends at two nodes
    rows, lefts, rights = _runs(across, nodes, 1)
    cols, tops, bottoms = _runs(down, nodes, 0)
    if most is not None and len(rows) + len(cols) > most:
        return None
    level = np.stack([np.stack([lefts, rows], -1), np.stack([rights, rows], -1)], 1)
    upright = np.stack([np.stack([cols, tops], -1), np.stack([cols, bottoms], -1)], 1)
    return np.concatenate([level, upright]).astype(np.float64)


def _runs(
    edges: npt.NDArray[np.bool_], nodes: npt.NDArray[np.bool_], axis: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return (line, start, stop) of the runs of edges along an axis, cut at the nodes between them."""
    head, tail = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
    begins, ends = edges.copy(), edges.copy()
    begins[tail] &= ~edges[head] | nodes[head][tail]
    ends[head] &= ~edges[tail] | nodes[tail][head]
    lines, starts = _sorted(begins, axis)
    _, stops = _sorted(ends, axis)
    return lines, starts, stops + 1


def _sorted(marks: npt.NDArray[np.bool_], axis: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return (line, position) of what is marked, by line and position along the axis."""
    rows, cols = np.divmod(np.flatnonzero(marks), marks.shape[1])
    if axis == 1:
        return rows, cols
    order = np.lexsort((rows, cols))
    return cols[order], rows[order]


def faces(labels: Labels, borders: Points) -> tuple[Geometries, npt.NDArray[np.intp]]:
    """Return the areas that the `segments` of a raster enclose, and the label of each.

    An area is a polygon of pixels joined by their sides, with its holes; areas
    of label 0 are left out. Polygons meet in edges and corners and overlap nowhere.
    """
    lines: Any = shapely.linestrings(borders)
    found = shapely.get_parts(shapely.polygonize(lines))
    rings = shapely.get_exterior_ring(found)
    first = shapely.get_coordinates(shapely.get_point(rings, 0)).reshape(-1, 2)
    ahead = np.sign(shapely.get_coordinates(shapely.get_point(rings, 1)).reshape(-1, 2) - first)
    inwards = np.stack([-ahead[:, 1], ahead[:, 0]], -1) * np.where(shapely.is_ccw(rings), 1, -1)[:, None]
    pixels = np.floor(first + (ahead + inwards) / 2).astype(np.intp)
    held = labels[pixels[:, 1], pixels[:, 0]].astype(np.intp)
    return found[held > 0], held[held > 0]


def by_label(labels: Labels, borders: Points) -> dict[int, shapely.Geometry]:
    """Return the area of each label but 0, a valid polygon or multi-polygon."""
    found, held = faces(labels, borders)
    areas: dict[int, shapely.Geometry] = {}
    for label in np.unique(held).tolist():
        parts = found[held == label]
        areas[label] = parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
    return areas


def placed(area: shapely.Geometry, at: Callable[[Points], Points]) -> shapely.Geometry:
    """Return an area at other coordinates, shells counter-clockwise (RFC 7946, section 3.1.6)."""
    return shapely.orient_polygons(shapely.transform(area, at))


def coarsened(labels: Labels, factor: int) -> Labels:
    """Return the most frequent label of each square of `factor` px; shape (rows / factor, cols / factor).

    Of equally frequent ones the lowest that is not 0. A label that is nowhere
    most frequent is given the square where it has most pixels.
    """
    if factor == 1:
        return labels
    rows, cols = labels.shape[0] // factor, labels.shape[1] // factor
    out = np.zeros((rows, cols), dtype=np.uint8)
    most = np.zeros((rows, cols), dtype=np.int32)
    totals = np.bincount(labels.ravel(), minlength=1)
    best: dict[int, int] = {}
    for label in [*np.flatnonzero(totals[1:]) + 1, 0]:
        held = (labels == label).reshape(rows, factor, -1).sum(axis=1, dtype=np.uint16)
        counts = held.reshape(rows, cols, factor).sum(axis=2, dtype=np.int32)
        more = counts > most
        out[more], most[more] = label, counts[more]
        best[int(label)] = int(counts.argmax())
    for label in sorted(best, key=lambda one: -int(totals[one])):
        if label and not (out == label).any():
            out.flat[best[label]] = label
    return out

"""Vertical references: what heights are counted from, as it is declared in text and in CRSs.

What belongs here: CRSs as text and values, and which of them go together. Files
and sources stay outside, and the ways from one reference to another are in
`vertical_shift`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pyproj import CRS
from pyproj.crs import CompoundCRS
from pyproj.exceptions import CRSError

ELLIPSOIDAL = "EPSG:4979"
"""What heights are taken to be counted from where a geoid grid is given and nothing else."""
LON_LAT = "EPSG:4326"
"""What positions are on unless something else is said."""
UNUSABLE_IN_PATHS = frozenset(',"@')
"""What PROJ would take for the end of a grid's name, or for leave to do without the grid."""
_EXPECTED = (
    "a vertical CRS such as EPSG:5773, a 3-D geographic one such as EPSG:4979 "
    "or a compound one such as EPSG:4326+5773"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """What heights are counted from."""

    text: str
    """As it was given: a code, WKT, or whatever else PROJ takes."""
    name: str
    ellipsoidal: bool
    """Heights are above the ellipsoid, not above a geoid, a quasigeoid or the sea."""
    datum: str
    metres: float
    """Metres upward per unit; negative for depths."""
    unit: str
    base: str
    """The 2-D geographic CRS of its positions, as WKT."""
    crs: str
    """The whole, a 3-D or compound geographic CRS, as WKT."""


@lru_cache(maxsize=64)
def reference(text: str) -> Reference:
    """Return what a text says that heights are counted from. Raises ValueError with what was expected."""
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise ValueError(f"PROJ does not know it; expected {_EXPECTED}") from error
    crs = _unbound(crs)
    axes = crs.axis_info
    if crs.is_vertical and not crs.is_compound:
        horizontal, vertical = CRS.from_user_input(LON_LAT), crs
    elif crs.is_compound:
        horizontal, vertical = crs.sub_crs_list[0], crs.sub_crs_list[-1]
    elif len(axes) == 3 and (crs.is_geographic or crs.is_projected):
        whole = _geographic(crs).to_3d()
        horizontal, vertical = whole.to_2d(), whole
    else:
        raise ValueError(f"{crs.name} says nothing of heights; expected {_EXPECTED}")
    base = _geographic(horizontal).to_2d()
    ellipsoidal = not _unbound(vertical).is_vertical
    whole = vertical if ellipsoidal else CompoundCRS(f"{base.name} + {vertical.name}", [base, vertical])
    axis, datum = axes[-1], _unbound(vertical).datum
    return Reference(
        text=text,
        name=f"{whole.name} ellipsoidal height" if ellipsoidal else vertical.name,
        ellipsoidal=ellipsoidal,
        datum=vertical.name if datum is None else datum.name,
        metres=axis.unit_conversion_factor * (-1 if axis.direction == "down" else 1),
        unit=axis.unit_name,
        base=base.to_wkt(),
        crs=whole.to_wkt(),
    )


@lru_cache(maxsize=64)
def split(wkt: str) -> tuple[str, str]:
    """Return the horizontal part of a raster's CRS as WKT, and what it declares of heights.

    The latter is a 3-D or compound geographic CRS, a code where there is one
    and else WKT; it is empty for a CRS of two dimensions, which comes back as
    it is, like one that PROJ cannot place on the Earth.
    """
    try:
        crs = _unbound(CRS.from_wkt(wkt))
        if crs.is_compound:
            horizontal, vertical = crs.sub_crs_list[0], crs.sub_crs_list[-1]
            codes = [_code(_geographic(horizontal).to_2d()), _code(vertical)]
            if all(code.startswith("EPSG:") for code in codes):
                declared = f"{codes[0]}+{codes[1].removeprefix('EPSG:')}"
            else:
                declared = reference(wkt).crs
            return _plain(horizontal), reference(declared).text
        if len(crs.axis_info) == 3 and (crs.is_geographic or crs.is_projected):
            return _plain(crs.to_2d()), _code(_geographic(crs).to_3d())
    except (CRSError, ValueError):
        return wkt, ""
    return wkt, ""


def invalid(vertical_crs: str, target: str, geoid_grid: str, unit_factor: float) -> str | None:
    """Return what is wrong with the keys of a source about its heights, or None."""
    for key, text in (("vertical_crs", vertical_crs), ("target_vertical_crs", target)):
        try:
            if text:
                reference(text)
        except ValueError as error:
            return f"{key} = {text!r}: {error}"
    if vertical_crs and (wrong := wrong_unit(reference(vertical_crs), unit_factor)) is not None:
        return f"vertical_crs = {vertical_crs!r} {wrong}"
    if target and abs(reference(target).metres - 1) > 1e-9:
        return (
            f"target_vertical_crs = {target!r} counts in {reference(target).unit} or downwards, "
            "but tiles hold metres upwards: name a CRS of the same datum that does"
        )
    if not geoid_grid:
        return None
    if UNUSABLE_IN_PATHS & set(geoid_grid) or geoid_grid == "null":
        return f"geoid_grid = {geoid_grid!r}: expected one file, with no comma, quote or @ in its name"
    if vertical_crs and not reference(vertical_crs).ellipsoidal:
        return not_ellipsoidal(f"vertical_crs = {vertical_crs!r}", reference(vertical_crs))
    if target and reference(target).ellipsoidal:
        return (
            f"target_vertical_crs = {target!r} is ellipsoidal, but geoid_grid makes heights above its geoid: "
            "name the vertical CRS of that geoid, or leave one of the two out"
        )
    return None


def wrong_unit(declared: Reference, unit_factor: float) -> str | None:
    """Return what is wrong where a CRS counts in other units than metres upwards and no factor is set."""
    if unit_factor != 1 or abs(declared.metres - 1) < 1e-9:
        return None
    way = " downwards" if declared.metres < 0 else ""
    return (
        f"counts in {declared.unit}{way}: set unit_factor = {declared.metres:.15g}, "
        "or name the CRS of the same datum in metres if that is what the heights are"
    )


def not_ellipsoidal(what: str, declared: Reference) -> str:
    """Return why a geoid grid cannot be used with heights that are counted from a geoid already."""
    return (
        f"{what} ({declared.name}) is not ellipsoidal, but geoid_grid is for ellipsoidal heights: "
        f"say vertical_crs = {ELLIPSOIDAL!r} if they are, or give target_vertical_crs and no geoid_grid"
    )


def differing(datums: Iterable[str]) -> str | None:
    """Return a sentence where sources name different vertical datums, for heights that will be merged."""
    names = sorted({name for name in datums if name})
    if len(names) < 2:
        return None
    return (
        f"heights are counted from {', '.join(names)}: set target_vertical_crs in source.toml to convert them"
    )


def _geographic(crs: CRS) -> CRS:
    """Return the geographic CRS that a CRS is made on."""
    base = _unbound(crs).geodetic_crs
    if base is None or not base.is_geographic:
        raise ValueError(f"{crs.name} is not made on longitudes and latitudes; expected {_EXPECTED}")
    return base


def _plain(crs: CRS) -> str:
    """Return a CRS as the WKT of a file that has nothing but it: that of its code, if it has one."""
    code = crs.to_epsg(min_confidence=100)
    known = crs if code is None else CRS.from_epsg(code)
    try:
        return str((known if known.equals(crs) else crs).to_wkt("WKT1_GDAL"))
    except CRSError:
        return crs.to_wkt()


def _unbound(crs: CRS) -> CRS:
    """Return a CRS without the transformation that old WKT ties to it."""
    return crs.source_crs if crs.is_bound and crs.source_crs is not None else crs


def _code(crs: CRS) -> str:
    """Return the code of a CRS, or its WKT."""
    authority = crs.to_authority()
    return crs.to_wkt() if authority is None else ":".join(authority)

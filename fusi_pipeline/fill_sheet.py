"""The sheet that shows how a tile of a merge came about: a row for the merge, one for each input."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fusi_pipeline import lineage
from fusi_pipeline.inspect_fill import Contribution, Inspection
from fusi_pipeline.lineage import LegendEntry
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import TILE_SIZE_PX
from fusi_pipeline.tiles.hillshade import exaggeration_of, shade, span_of
from fusi_pipeline.tiles.resample import Heights

MOST_ROWS = 24
"""Inputs that are drawn; more are only listed."""
_GAP_PX = 16
_TITLE_PX = 34
_CAPTION_PX = 28
_TEXT_PX = 18
_ROW_PX = _TITLE_PX + TILE_SIZE_PX + _CAPTION_PX + _GAP_PX
_WIDTH_PX = 3 * TILE_SIZE_PX + 4 * _GAP_PX
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_MISSING = (228, 228, 228)
_UNUSED = 0.3
"""Strength of a source's colour where it has a height that is not used."""
_DIVERGING = np.array(
    [
        (-1.0, 33, 76, 150),
        (-0.5, 121, 166, 214),
        (0.0, 250, 250, 246),
        (0.5, 232, 142, 104),
        (1.0, 160, 30, 40),
    ]
)
"""Blue where the merge is lower, red where it is higher."""

Picture = npt.NDArray[np.uint8]


def sheet(inspection: Inspection) -> Image.Image:
    """Return the picture of an inspection: hillshade, validity and difference for each input with heights."""
    report = inspection.report
    shown = [
        (one, layer) for one, layer in zip(report.inputs, inspection.layers, strict=True) if layer is not None
    ]
    rest = [one.name for one in report.inputs if one.zoom is None] + [
        one.name for one, _ in shown[MOST_ROWS:]
    ]
    shown = shown[:MOST_ROWS]
    height = (1 + len(shown)) * _ROW_PX + _GAP_PX + (_TITLE_PX if rest else 0)
    drawn = _Sheet(height)
    pixel_m = _pixel_m(inspection)
    relief = exaggeration_of(inspection.heights, pixel_m)
    span = span_of(inspection.heights)
    reach_m = _reach_m(inspection)
    _draw_merged(drawn, inspection, shade(inspection.heights, pixel_m, relief, span), reach_m)
    for row, (one, layer) in enumerate(shown, 1):
        _draw_input(drawn, row, one, inspection, layer, shade(layer, pixel_m, relief, span), reach_m)
    if rest:
        drawn.text(0, height - _TITLE_PX, f"not drawn: {', '.join(rest)}", _FAINT)
    return drawn.image


def _pixel_m(inspection: Inspection) -> float:
    tile = inspection.tile
    box = grid.bounds(tile)
    return grid.resolution_m(tile.z) * math.cos(math.radians((box.south + box.north) / 2))


def _reach_m(inspection: Inspection) -> float:
    """Return the difference that has the strongest colour: 99 of 100 of all inputs' are smaller."""
    all_of_them = [
        np.abs(inspection.heights - layer)[~np.isnan(inspection.heights - layer)]
        for layer in inspection.layers
        if layer is not None
    ]
    found = np.concatenate([np.zeros(1, np.float32), *all_of_them])
    return max(float(np.percentile(found, 99)), 2 * inspection.report.vertical_step_m)


class _Sheet:
    """A white sheet of three columns."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (_WIDTH_PX, height), _PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(_TEXT_PX)

    def text(self, column: int, top: int, words: str, colour: tuple[int, int, int] = _INK) -> None:
        """Write one line, cut where the sheet ends."""
        words, left = _drawable(words), _GAP_PX + column * (TILE_SIZE_PX + _GAP_PX)
        room = _WIDTH_PX - _GAP_PX - left if column == 0 else TILE_SIZE_PX
        while words and self._draw.textlength(words, self._font) > room:
            words = words.removesuffix("...")[:-1] + "..." if len(words) > 4 else ""
        self._draw.text((left, top), words, fill=colour, font=self._font)

    def panel(self, column: int, row: int, picture: Picture, caption: str) -> None:
        """Draw a picture, (512, 512, 3 or 4), with a caption below it."""
        left, top = _GAP_PX + column * (TILE_SIZE_PX + _GAP_PX), self.top(row) + _TITLE_PX
        image = Image.fromarray(picture).convert("RGBA")
        self.image.paste(Image.new("RGB", image.size, _MISSING), (left, top))
        self.image.paste(image, (left, top), image)
        self._draw.rectangle((left - 1, top - 1, left + TILE_SIZE_PX, top + TILE_SIZE_PX), outline=_FAINT)
        self.text(column, top + TILE_SIZE_PX + 4, caption, _FAINT)

    def swatch(self, column: int, top: int, colour: str, words: str) -> None:
        """Draw a line of a legend."""
        left = _GAP_PX + column * (TILE_SIZE_PX + _GAP_PX)
        self._draw.rectangle(
            (left, top + 2, left + _TEXT_PX, top + _TEXT_PX + 2), fill=colour, outline=_FAINT
        )
        self._draw.text((left + 2 * _TEXT_PX, top), _drawable(words), fill=_INK, font=self._font)

    @staticmethod
    def top(row: int) -> int:
        """Return where a row begins."""
        return _GAP_PX + row * _ROW_PX


def _draw_merged(drawn: _Sheet, inspection: Inspection, relief: Picture, reach_m: float) -> None:
    report = inspection.report
    mode = f", mode {report.merge_mode}" if report.merge_mode else ""
    drawn.text(
        0, drawn.top(0), f"{report.merged.name}: tile {report.tile}{mode}, step {report.vertical_step_m:g} m"
    )
    drawn.panel(0, 0, relief, f"merged: {_range(report.minimum_m, report.maximum_m)}")
    entries = [LegendEntry(index=one.index, name=one.name, color=one.color) for one in report.inputs]
    pixels = lineage.encode(
        inspection.first, inspection.second, np.full(inspection.first.shape, 0.5, np.float32)
    )
    known = "lineage" if report.lineage is not None else "by comparing heights"
    missing = _share(report.pixels - report.valid_pixels, report.pixels)
    drawn.panel(
        1, 0, lineage.picture(pixels, entries), f"where heights are from ({known}); no data {missing}"
    )
    top = drawn.top(0) + _TITLE_PX
    room = (TILE_SIZE_PX - 5 * _CAPTION_PX) // _CAPTION_PX
    for number, one in enumerate(report.inputs[:room]):
        share = _share(one.winning_pixels, report.pixels)
        drawn.swatch(2, top + number * _CAPTION_PX, one.color, f"{one.name}: {share}")
    if len(report.inputs) > room:
        drawn.text(2, top + room * _CAPTION_PX, f"and {len(report.inputs) - room} more", _FAINT)
    _draw_scale(drawn, top + TILE_SIZE_PX - 3 * _CAPTION_PX, reach_m)
    if report.unexplained_pixels:
        share = _share(report.unexplained_pixels, report.pixels)
        drawn.text(2, top + TILE_SIZE_PX + 4, f"{share} not blended and of no input's height", _FAINT)


def _draw_scale(drawn: _Sheet, top: int, reach_m: float) -> None:
    """Draw the colours of differences, with their numbers."""
    left = _GAP_PX + 2 * (TILE_SIZE_PX + _GAP_PX)
    ramp = np.broadcast_to(
        np.linspace(-reach_m, reach_m, TILE_SIZE_PX, dtype=np.float32), (_CAPTION_PX, TILE_SIZE_PX)
    )
    drawn.text(2, top - _CAPTION_PX, "merged less input; beyond the ends: as the ends")
    drawn.image.paste(Image.fromarray(differences(ramp, reach_m)).convert("RGB"), (left, top))
    low, high = f"-{reach_m:.3g} m", f"+{reach_m:.3g} m"
    drawn.text(
        2, top + _CAPTION_PX + 4, f"{low}  (blue: merged is lower)   0   (red: higher)  {high}", _FAINT
    )


def _draw_input(
    drawn: _Sheet, row: int, one: Contribution, inspection: Inspection, layer: Heights, relief: Picture,
    reach_m: float,
) -> None:  # fmt: skip
    report = inspection.report
    own = "own tile" if one.zoom == inspection.tile.z else f"enlarged from zoom {one.zoom}"
    drawn.text(0, drawn.top(row), f"{row}. {one.name}: {own}")
    drawn.panel(0, row, relief, f"heights: {_range(one.minimum_m, one.maximum_m)}")
    valid, won = _share(one.valid_pixels, report.pixels), _share(one.winning_pixels, report.pixels)
    drawn.panel(1, row, validity(layer, inspection.first == one.index, one.color), _caption(valid, won))
    difference = one.difference
    told = "nothing to compare"
    if difference is not None:
        unequal = _share(difference.unequal_pixels, difference.common_pixels)
        told = f"unequal {unequal}, mean {difference.mean_m:+.3g} m, largest {difference.largest_m:+.4g} m"
    drawn.panel(2, row, differences(inspection.heights - layer, reach_m), told)


def _caption(valid: str, won: str) -> str:
    return f"full colour: used, {won}; pale: not used; valid {valid}"


def validity(layer: Heights, won: npt.NDArray[np.bool_], color: str) -> Picture:
    """Return where an input has heights, shape (rows, cols, 4): its colour, pale where they are not used."""
    full = np.frombuffer(bytes.fromhex(color.removeprefix("#")), dtype=np.uint8).astype(np.float32)
    pale = 255 + (full - 255) * _UNUSED
    picture = np.zeros((*layer.shape, 4), dtype=np.uint8)
    picture[..., :3] = np.rint(np.where(won[..., None], full, pale))
    picture[..., 3] = np.where(np.isnan(layer), 0, 255)
    return picture


def differences(difference_m: Heights, reach_m: float) -> Picture:
    """Return differences in colours from blue over white to red, shape (rows, cols, 4); alpha 0 where NaN."""
    known = ~np.isnan(difference_m)
    share = np.clip(np.where(known, difference_m, 0) / reach_m, -1, 1)
    picture = np.zeros((*difference_m.shape, 4), dtype=np.uint8)
    for band in range(3):
        picture[..., band] = np.rint(np.interp(share, _DIVERGING[:, 0], _DIVERGING[:, band + 1]))
    picture[..., 3] = np.where(known, 255, 0)
    return picture


def _drawable(words: str) -> str:
    """Return a text in letters that Pillow's own font has: without accents, `?` for what is left."""
    parts = unicodedata.normalize("NFKD", words.replace("–", "-").replace("—", "-"))
    kept = (letter for letter in parts if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() or letter == "©" else "?" for letter in kept)


def _range(minimum_m: float | None, maximum_m: float | None) -> str:
    return "none" if minimum_m is None or maximum_m is None else f"{minimum_m:.6g} to {maximum_m:.6g} m"


def _share(part: int, whole: int) -> str:
    """Return a share in percent that is 0 or 100 only where it is."""
    if not part:
        return "0 %"
    share = 100 * part / whole
    if share < 0.1:
        return "<0.1 %"
    return f"{min(share, 99.9):.1f} %" if part < whole else "100 %"

"""The samples of a run as one picture: memory, processor, disk, sizes, tiles and the estimate over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise

from PIL import Image, ImageDraw, ImageFont

from fusi_pipeline.console import duration, size
from fusi_pipeline.monitor import Sample
from fusi_pipeline.monitor_report import stage_of

_WIDTH, _PANEL, _GAP, _LEFT, _RIGHT, _TOP = 1400, 150, 44, 110, 40, 110
_PAPER, _INK, _FAINT, _GRID = "#ffffff", "#22262b", "#7a828c", "#e4e7eb"
_BANDS = ("#f3f6fa", "#fbf6ee", "#f1f8f1", "#f8f2f8", "#f2f8f8")
_COLORS = ("#2f6db5", "#d9822b", "#3a9d5d", "#b5484f")
_TICKS = 4
_MOST_STEPS = 12
_STEPS_S = (
    0.1,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)
_FILLED = 40
"""Opacity of what lies below the first line of a panel."""

Series = list[tuple[float, float | None]]
"""(seconds, value) of each sample."""


def picture(samples: Sequence[Sample], title: str) -> Image.Image:
    """Return a picture of samples: memory, processor, disk, sizes, tiles and the estimate over time."""
    panels = list(_panels(samples))
    height = _TOP + len(panels) * (_PANEL + _GAP) + 30
    drawn = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(drawn, "RGBA")
    at = _times(samples)
    span = max(at[-1], 1e-3)
    _heading(draw, samples, title, at[-1])
    bands = [(at[start], at[min(stop, len(at) - 1)], name) for start, stop, name in _bands(samples)]
    for number, (name, unit, lines) in enumerate(panels):
        box = (
            _LEFT,
            _TOP + number * (_PANEL + _GAP),
            _WIDTH - _RIGHT,
            _TOP + number * (_PANEL + _GAP) + _PANEL,
        )
        _backdrop(draw, box, bands, span, names=number == 0)
        top = _scale(draw, box, name, unit, lines)
        _legend(draw, box, [(label, series) for label, series in lines])
        for index, (_, series) in enumerate(lines):
            _line(draw, box, [(t / span, v) for t, v in series], top, index)
    _time_axis(draw, span, height)
    return drawn


def _times(samples: Sequence[Sample]) -> list[float]:
    """Return seconds since the first sample; gaps between runs are left out."""
    at = [0.0]
    for one, other in pairwise(samples):
        at.append(at[-1] + (max(other.elapsed_s - one.elapsed_s, 0.0) if one.pid == other.pid else 0.0))
    return at


def _panels(
    samples: Sequence[Sample],
) -> Iterator[tuple[str, Callable[[float], str], list[tuple[str, Series]]]]:
    """Yield (title, how a value is said, lines) of each panel that has anything to show."""
    at = _times(samples)

    def series(value: Callable[[Sample], float | None]) -> Series:
        return [(t, value(one)) for t, one in zip(at, samples, strict=True)]

    def rate(value: Callable[[Sample], float | None]) -> Series:
        rates: Series = [(at[0], None)]
        for (t, one), (u, other) in pairwise(zip(at, samples, strict=True)):
            before, after = value(one), value(other)
            known = before is not None and after is not None and u > t
            rates.append((u, max(after - before, 0.0) / (u - t) if known else None))  # type: ignore[operator]
        return rates

    mib = 2**20
    panels: list[tuple[str, Callable[[float], str], list[tuple[str, Series]]]] = [
        ("memory", size, [
            ("resident", series(lambda one: one.rss_mib * mib)),
            ("unshared (USS)", series(lambda one: None if one.uss_mib is None else one.uss_mib * mib)),
        ]),
        ("processor", lambda value: f"{value:.0f} %", [
            ("of one processor", series(lambda one: one.cpu_percent)),
        ]),
        ("disk", lambda value: f"{size(value)}/s", [
            ("written", rate(lambda one: one.written_bytes)),
            ("read", rate(lambda one: one.read_bytes)),
        ]),
        ("size", size, [
            ("output", series(lambda one: one.output_bytes)),
            ("SQLite's log", series(lambda one: one.wal_bytes)),
        ]),
        ("free", size, [
            ("memory of the machine", series(lambda one: one.available_mib * mib)),
            ("disk of the output", series(lambda one: one.output_free_mib * mib)),
        ]),
        ("tiles", lambda value: f"{value:.3g}/s", [("per second", series(lambda one: one.tiles_per_s))]),
        ("time left", duration, [
            ("estimate", series(lambda one: one.left_s)),
            ("as it turned out", [(t, at[-1] - t) for t in at]),
        ]),
    ]  # fmt: skip
    for name, unit, lines in panels:
        shown = [(label, line) for label, line in lines if any(value is not None for _, value in line)]
        if shown and (name != "time left" or len(shown) > 1):
            yield name, unit, shown


def _bands(samples: Sequence[Sample]) -> Iterator[tuple[int, int, str]]:
    """Yield (first sample, first sample behind, name) of each stage."""
    start = 0
    for name, part in groupby(samples, key=stage_of):
        stop = start + len(list(part))
        yield start, stop, name
        start = stop


Box = tuple[int, int, int, int]


def _heading(draw: ImageDraw.ImageDraw, samples: Sequence[Sample], title: str, seconds: float) -> None:
    rss = max(one.rss_mib for one in samples) * 2**20
    uss = max((one.uss_mib for one in samples if one.uss_mib is not None), default=None)
    parts = [f"{duration(seconds)}", f"{len(samples)} samples", f"peak resident {size(rss)}"]
    parts += [f"peak unshared {size(uss * 2**20)}"] if uss is not None else []
    draw.text((_LEFT, 20), title, _INK, _font(24))
    draw.text((_LEFT, 54), "   ".join(parts), _FAINT, _font(15))


def _backdrop(
    draw: ImageDraw.ImageDraw,
    box: Box,
    bands: Iterable[tuple[float, float, str]],
    span: float,
    *,
    names: bool,
) -> None:
    """Draw the stages as bands, and their names where they have room."""
    left, top, right, bottom = box
    colors: dict[str, str] = {}
    for start, stop, name in bands:
        color = colors.setdefault(name.split(" ")[0], _BANDS[len(colors) % len(_BANDS)])
        x = [left + round((right - left) * one / span) for one in (start, stop)]
        draw.rectangle((x[0], top, max(x[1], x[0] + 1), bottom), color)
        if names and _font(13).getlength(name) < x[1] - x[0] - 6:
            draw.text((x[0] + 3, top - 18), name, _FAINT, _font(13))


def _scale(
    draw: ImageDraw.ImageDraw, box: Box, name: str, unit: Callable[[float], str],
    lines: Sequence[tuple[str, Series]],
) -> float:  # fmt: skip
    """Draw the title and the values of a panel; return the value at its top."""
    left, top, right, bottom = box
    high = max((value for _, line in lines for _, value in line if value is not None), default=0.0)
    highest = _rounded_up(high)
    for tick in range(_TICKS + 1):
        y = bottom - round((bottom - top) * tick / _TICKS)
        draw.line((left, y, right, y), _GRID)
        text = unit(highest * tick / _TICKS) if tick else "0"
        draw.text((left - 8, y), text, _FAINT, _font(12), anchor="rm")
    draw.text((left - 8, top - 28), name, _INK, _font(14), anchor="rt")
    return highest


def _rounded_up(value: float) -> float:
    """Return a round number that is not below a value."""
    if value <= 0:
        return 1.0
    step = 10.0 ** len(str(int(value))) / 100 if value >= 1 else 0.01
    return next(step * one for one in (1, 2, 4, 5, 8, 10, 12, 16, 20, 24, 32, 40, 50, 60, 80, 100, 1000)
                if step * one >= value)  # fmt: skip


def _legend(draw: ImageDraw.ImageDraw, box: Box, lines: Sequence[tuple[str, Series]]) -> None:
    x = box[2]
    for index, (label, _) in reversed(list(enumerate(lines))):
        x -= round(_font(13).getlength(label))
        draw.text((x, box[3] + 5), label, _INK, _font(13))
        draw.line((x - 22, box[3] + 14, x - 6, box[3] + 14), _COLORS[index], 3)
        x -= 40


def _line(draw: ImageDraw.ImageDraw, box: Box, points: Series, highest: float, index: int) -> None:
    """Draw a line through the values that are known; the first of a panel is filled."""
    left, top, right, bottom = box
    for known, part in groupby(points, key=lambda point: point[1] is not None):
        if not known:
            continue
        xy = [
            (left + (right - left) * t, bottom - (bottom - top) * min((value or 0.0) / highest, 1.0))
            for t, value in part
        ]
        if len(xy) == 1:
            xy.append((xy[0][0] + 1, xy[0][1]))
        if index == 0:
            color = Image.new("RGB", (1, 1), _COLORS[0]).getpixel((0, 0))
            assert isinstance(color, tuple)
            draw.polygon([(xy[0][0], bottom), *xy, (xy[-1][0], bottom)], (*color, _FILLED))
        draw.line(xy, _COLORS[index], 2, joint="curve")


def _time_axis(draw: ImageDraw.ImageDraw, span: float, height: int) -> None:
    """Write the time at round steps."""
    step = next((one for one in _STEPS_S if span / one <= _MOST_STEPS), span / _MOST_STEPS)
    for tick in range(int(span / step) + 1):
        x = _LEFT + round((_WIDTH - _LEFT - _RIGHT) * tick * step / span)
        text = duration(tick * step) if tick else "0"
        draw.text((x, height - 22), text, _FAINT, _font(13), anchor="mt")


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)

"""Pictures that an encoder of lossless WebP may stumble over, drawn by chance from a generator.

Each maker takes a random generator and a shape, and returns uint8 pixels of
shape (rows, cols, 3) or (rows, cols, 4). `picture` draws a maker, a shape and
at times a change of the result; the same seed and number are the same picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles import terrarium

Pixels = npt.NDArray[np.uint8]
Random = np.random.Generator
LARGEST_SIDE = 1024
_BORDERS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513)
_PALETTES = (1, 2, 3, 4, 5, 15, 16, 17, 128, 255, 256, 257)


def noise(random: Random, rows: int, cols: int) -> Pixels:
    """Return noise whose channels have different ranges."""
    ranges = random.choice((1, 2, 3, 16, 256), 3)
    return _stacked([random.integers(0, most, (rows, cols)) for most in ranges])


def digits(random: Random, rows: int, cols: int) -> Pixels:
    """Return numbers on a lattice, as heights with a vertical step are."""
    step = 1 << int(random.integers(0, 13))
    walk = np.cumsum(random.integers(-3, 4, (rows, cols)), axis=int(random.integers(0, 2)))
    return _numbers(walk * step + int(random.integers(0, 1 << 24)))


def plane(random: Random, rows: int, cols: int) -> Pixels:
    """Return an inclined plane, at times with a fold."""
    row, col = np.indices((rows, cols))
    heights = random.normal(0, 300) * row + random.normal(0, 300) * col
    if random.random() < 0.4:
        heights = np.abs(heights - np.median(heights))
    return _numbers(np.rint(heights).astype(np.int64) + (1 << 23))


def few_symbols(random: Random, rows: int, cols: int) -> Pixels:
    """Return pixels of which each channel has one to three values."""
    values = random.integers(0, 256, (3, 3))
    used = random.integers(1, 4, 3)
    return _stacked([values[i][random.integers(0, used[i], (rows, cols))] for i in range(3)])


def equal_symbols(random: Random, rows: int, cols: int) -> Pixels:
    """Return 256 values of a channel, each equally often as far as the size allows."""
    values = np.resize(np.arange(256), rows * cols)
    if random.random() < 0.7:
        values = random.permutation(values)
    channels = np.zeros((rows, cols, 3), np.uint8)
    channels[..., int(random.integers(0, 3))] = values.reshape(rows, cols)
    return channels


def steep_counts(random: Random, rows: int, cols: int) -> Pixels:
    """Return values with counts as of Fibonacci or of powers, whose codes are as long as can be."""
    counts = [1, 1]
    ratio = float(random.choice((1.0, 1.618, 2.0, 1.3)))
    while sum(counts) < rows * cols and len(counts) < 256:
        counts.append(counts[-1] + counts[-2] if ratio == 1.0 else int(counts[-1] * ratio) + 1)
    values = np.repeat(np.arange(len(counts)), counts)[-rows * cols :]
    values = np.resize(random.permutation(values), (rows, cols))
    places = random.permutation(256)
    channels = np.zeros((rows, cols, 3), np.uint8)
    channels[..., int(random.integers(0, 3))] = places[values]
    if random.random() < 0.5:
        channels[..., int(random.integers(0, 3))] = np.resize(np.arange(int(random.integers(1, 256))), cols)
    if random.random() < 0.3:  # so that residuals, not pixels, have these counts
        channels = np.cumsum(channels, axis=1).astype(np.uint8)
    return channels


def runs(random: Random, rows: int, cols: int) -> Pixels:
    """Return runs of all lengths, also of whole blocks and of the longest copy, broken at chance places."""
    longest = int(random.choice((3, 13, 16, 64, 300, 4096, 5000, 70000)))
    lengths = random.integers(1, longest + 1, max(2, 3 * rows * cols // longest + 2))
    values = random.integers(0, 1 << 24, len(lengths))
    if random.random() < 0.5:
        values %= 1 << int(random.integers(1, 16))
    return _numbers(np.resize(np.repeat(values, lengths), (rows, cols)))


def borders(random: Random, rows: int, cols: int) -> Pixels:
    """Return one colour with others along the borders of blocks, where runs and blocks begin and end."""
    pixels = np.full((rows, cols), int(random.integers(0, 1 << 24)))
    side = int(random.choice((8, 16, 32, 64)))
    for _ in range(int(random.integers(1, 40))):
        row = int(random.integers(0, rows)) // side * side + int(random.integers(-1, 2))
        col = int(random.integers(0, cols)) // side * side + int(random.integers(-1, 2))
        height, width = random.choice((1, 2, side, 5 * side), 2)
        pixels[max(row, 0) : max(row, 0) + height, max(col, 0) : max(col, 0) + width] = int(
            random.integers(0, 1 << 24)
        )
    return _numbers(pixels)


def palette(random: Random, rows: int, cols: int) -> Pixels:
    """Return few colours, about as many as a palette holds, as noise, in patches or in stripes."""
    count = int(random.choice(_PALETTES))
    table = random.integers(0, 256, (count, 3)).astype(np.uint8)
    if random.random() < 0.5:
        table[:, 0] &= 7
    kind = int(random.integers(0, 3))
    if kind == 0:
        chosen = random.integers(0, count, (rows, cols))
    elif kind == 1:
        side = int(random.integers(2, 70))
        chosen = random.integers(0, count, (rows // side + 1, cols // side + 1))
        chosen = np.repeat(np.repeat(chosen, side, axis=0), side, axis=1)[:rows, :cols]
    else:
        chosen = np.indices((rows, cols)).sum(axis=0) // int(random.integers(1, 9)) % count
    pixels: Pixels = table[chosen]
    return pixels


def areas(random: Random, rows: int, cols: int) -> Pixels:
    """Return areas with winding edges, as tiles of lineage have, at times with a blended seam."""
    heights = surface(random, rows, cols, 2.3)
    count = int(random.integers(2, 7))
    red = np.digitize(heights, np.sort(random.random(count - 1))) + int(random.integers(0, 200))
    share = np.clip((heights - 0.5) * 12, 0, 1)
    blended = (share > 0) & (share < 1) & (random.random() < 0.5)
    return _stacked(
        [red, np.where(blended, 2, 0), np.where(blended, np.rint(share * 255).astype(np.int64), 0)]
    )


def terrain(random: Random, rows: int, cols: int) -> Pixels:
    """Return a fractal surface at the vertical step of a zoom, at times with sea, noise or holes."""
    heights = surface(random, rows, cols, float(random.uniform(1.5, 2.8)))
    heights = (heights * float(random.choice((3, 40, 900, 5000))) - float(random.uniform(0, 600))).astype(
        np.float32
    )
    kind = int(random.integers(0, 5))
    if kind == 1:
        heights = np.maximum(heights, 0)
    elif kind == 2:
        heights += random.normal(0, 0.05, heights.shape).astype(np.float32)
    elif kind == 3:
        heights += (np.indices((rows, cols)).sum(axis=0) % 2 * 200).astype(np.float32)
    elif kind == 4:
        heights[heights < np.median(heights)] = np.nan
    pixels = terrarium.encode(heights, int(random.integers(0, 22)))
    return np.zeros((rows, cols, 3), np.uint8) if pixels is None else pixels


def surface(random: Random, rows: int, cols: int, slope: float) -> npt.NDArray[np.float64]:
    """Return a fractal surface, heights in 0..1, shape (rows, cols)."""
    side = max(rows, cols, 2)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    whole = np.fft.irfft2(
        np.fft.rfft2(random.standard_normal((side, side))) * frequency**-slope, s=(side, side)
    )
    heights = whole[:rows, :cols]
    return (heights - heights.min()) / max(float(np.ptp(heights)), 1e-9)


MAKERS: tuple[Callable[[Random, int, int], Pixels], ...] = (
    noise, digits, plane, few_symbols, equal_symbols, steep_counts, runs, borders, palette, areas,
    terrain, terrain,
)  # fmt: skip


def picture(seed: int, number: int, real: list[Pixels] | None = None) -> tuple[str, Pixels]:
    """Return the name and the pixels of a picture; with `real` at times a changed part of one of those."""
    random = np.random.default_rng([seed, number])
    rows, cols = _side(random), _side(random)
    if real and random.random() < 0.25:
        name, pixels = "real", _part(random, real[int(random.integers(0, len(real)))], rows, cols)
    else:
        make = MAKERS[int(random.integers(0, len(MAKERS)))]
        name, pixels = make.__name__, make(random, rows, cols)
    kind = int(random.integers(0, 6))
    if kind == 1:
        name, pixels = f"{name}, spots", _spots(random, pixels)
    elif kind == 2:
        name, pixels = f"{name}, alpha", _with_alpha(random, pixels)
    elif kind == 3:
        name, pixels = f"{name}, pasted", _pasted(random, pixels)
    return name, np.ascontiguousarray(pixels)


def _side(random: Random) -> int:
    kind = random.random()
    if kind < 0.35:
        return int(random.choice(_BORDERS))
    if kind < 0.5:
        return int(random.integers(1, LARGEST_SIDE + 1))
    if kind < 0.53:
        return LARGEST_SIDE
    return int(np.exp(random.uniform(0, np.log(300))))


def _part(random: Random, pixels: Pixels, rows: int, cols: int) -> Pixels:
    """Return a part of a picture, as large as it is or smaller, turned by chance."""
    row = int(random.integers(0, max(1, pixels.shape[0] - rows)))
    col = int(random.integers(0, max(1, pixels.shape[1] - cols)))
    if random.random() < 0.3:
        row = col = 0
        rows, cols = pixels.shape[:2]
    part = pixels[row : row + rows, col : col + cols]
    return np.rot90(part, int(random.integers(0, 4)))


def _spots(random: Random, pixels: Pixels) -> Pixels:
    """Return a copy in which single channels of a few pixels are changed."""
    changed = pixels.copy().reshape(-1)
    places = random.integers(0, len(changed), int(random.integers(1, 2 + len(changed) // 50)))
    changed[places] = random.integers(0, 256, len(places))
    return changed.reshape(pixels.shape)


def _with_alpha(random: Random, pixels: Pixels) -> Pixels:
    """Return a picture with islands of alpha 0 over whatever colours, or with any alpha."""
    rows, cols = pixels.shape[:2]
    kind = int(random.integers(0, 4))
    if kind == 0:
        alpha = random.integers(0, 256, (rows, cols))
    elif kind == 1:
        alpha = np.full((rows, cols), int(random.choice((0, 1, 254, 255))))
    else:
        alpha = np.where(surface(random, rows, cols, 2.2) < random.random(), 0, 255)
    result = np.dstack([pixels[..., :3], alpha.astype(np.uint8)])
    if kind == 3:
        result[result[..., 3] == 0, :3] = (128, 0, 0)
    return result


def _pasted(random: Random, pixels: Pixels) -> Pixels:
    """Return a copy with a part of it moved elsewhere, or filled with one colour."""
    changed = pixels.copy()
    rows, cols = pixels.shape[:2]
    for _ in range(int(random.integers(1, 5))):
        height, width = int(random.integers(1, rows + 1)), int(random.integers(1, cols + 1))
        from_row, to_row = random.integers(0, rows - height + 1, 2)
        from_col, to_col = random.integers(0, cols - width + 1, 2)
        part = pixels[from_row : from_row + height, from_col : from_col + width]
        if random.random() < 0.3:
            part = part[:1, :1]
        changed[to_row : to_row + height, to_col : to_col + width] = part
    return changed


def _numbers(codes: npt.NDArray[np.int64]) -> Pixels:
    """Return 24-bit numbers as pixels."""
    return _stacked([codes >> 16, codes >> 8, codes])


def _stacked(channels: list[npt.NDArray[np.int64]]) -> Pixels:
    return np.stack([channel & 255 for channel in channels], axis=-1).astype(np.uint8)

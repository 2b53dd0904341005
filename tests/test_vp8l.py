"""The WebP encoder of terrain: what it writes is read back exactly, by several decoders, always alike."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import sync_playwright

from fusi_pipeline.tiles import (
    terrarium,
    vp8l,
    vp8l_alphabets,
    vp8l_backward_references,
    vp8l_meta_prefix,
    vp8l_predictor_choice,
    vp8l_prefix_codes,
    vp8l_workspace,
    webp,
)
from fusi_pipeline.tiles.image import ENCODERS, decode_webp, encode_webp, encoder_version, is_plain
from tests import fuzz_vp8l, hostile_pictures

Pixels = npt.NDArray[np.uint8]
EFFORTS = tuple(vp8l.EFFORTS)


def surface(side: int, seed: int, slope: float = 2.1) -> npt.NDArray[np.float32]:
    """Return a fractal surface of heights in 0..1."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    heights = np.fft.irfft2(np.fft.rfft2(noise) * frequency**-slope, s=(side, side))
    return ((heights - heights.min()) / np.ptp(heights)).astype(np.float32)


def terrain(z: int, side: int = 256, relief_m: float = 900, seed: int = 1) -> Pixels:
    pixels = terrarium.encode(surface(side, seed) * np.float32(relief_m), z)
    assert pixels is not None
    return pixels


def coast(z: int, *, missing: bool, side: int = 256) -> Pixels:
    """Return terrain of which a part is sea, or missing."""
    heights = surface(side, 5) * 800 - 400
    heights[heights < 0] = np.nan if missing else 0
    pixels = terrarium.encode(heights, z)
    assert pixels is not None
    return pixels


def by_pillow(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


DECODERS: tuple[Callable[[bytes], Pixels], ...] = (by_pillow, decode_webp, imagecodecs.webp_decode)


def alike(pixels: Pixels, decoded: Pixels) -> bool:
    """Tell whether a picture came back; one that is opaque everywhere may have lost its alpha."""
    if decoded.shape[2] < pixels.shape[2]:
        return bool((pixels[..., 3] == 255).all()) and np.array_equal(pixels[..., :3], decoded)
    return np.array_equal(pixels, decoded)


def assert_kept(pixels: Pixels) -> None:
    for effort in EFFORTS:
        data = vp8l.encode(pixels, effort)
        for decode in DECODERS:
            assert alike(pixels, decode(data))
        said = webp.facts(data)
        assert (said.chunks, said.width, said.height) == (("VP8L",), pixels.shape[1], pixels.shape[0])
        assert vp8l.encode(pixels, effort) == data


@pytest.mark.parametrize("z", range(6, 20))
def test_terrain_of_every_zoom(z: int) -> None:
    assert_kept(terrain(z))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("z", [9, 12, 15])
def test_coasts(z: int, missing: bool) -> None:
    assert_kept(coast(z, missing=missing))


@pytest.mark.parametrize("side", [1, 2, 15, 16, 17, 31, 255, 1024])
def test_sides_around_those_of_blocks(side: int) -> None:
    assert_kept(np.ascontiguousarray(terrain(12, max(side, 64))[:side, :side]))
    assert_kept(np.ascontiguousarray(terrain(12, max(side, 64))[:1, :side]))
    assert_kept(np.ascontiguousarray(terrain(12, max(side, 64))[:side, :1]))


@pytest.mark.parametrize("colors", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257])
@pytest.mark.parametrize("channels", [3, 4])
def test_palettes_of_every_width(colors: int, channels: int) -> None:
    random = np.random.default_rng(colors)
    table = random.integers(0, 256, (colors, channels)).astype(np.uint8)
    table[:, 0] &= 7
    assert_kept(table[random.integers(0, colors, (45, 51))])
    assert_kept(np.repeat(np.repeat(table[random.integers(0, colors, (9, 7))], 30, axis=0), 41, axis=1))


def test_a_constant_tile_is_tiny() -> None:
    for value in (0, 128, 255):
        pixels = np.full((512, 512, 3), value, np.uint8)
        assert_kept(pixels)
        assert len(vp8l.encode(pixels)) < 100


@st.composite
def pictures(draw: st.DrawFn) -> Pixels:
    """Draw pictures of any shape whose colours are many or few, alike, stepped or in runs."""
    rows, cols = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    channels = draw(st.sampled_from((3, 4)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    most = draw(st.sampled_from((1, 2, 3, 5, 40, 256)))
    pixels = random.integers(0, most, (rows, cols, channels))
    kind = draw(st.sampled_from(("plain", "walk", "runs", "stepped", "rare")))
    if kind == "walk":
        pixels = np.cumsum(pixels - most // 2, axis=draw(st.sampled_from((0, 1))))
    elif kind == "runs":
        pixels = np.repeat(pixels, draw(st.integers(2, 40)), axis=1)[:, :cols]
    elif kind == "stepped":
        pixels = pixels * draw(st.sampled_from((16, 64, 128)))
    elif kind == "rare":
        pixels = np.where(random.random((rows, cols, 1)) < 0.02, pixels, 7)
    pixels[..., 0] &= draw(st.sampled_from((0, 1, 255)))
    return np.ascontiguousarray(pixels.astype(np.uint8))


@settings(max_examples=150, deadline=None)
@given(pictures())
def test_any_picture_is_kept_or_refused(pixels: Pixels) -> None:
    try:
        data = vp8l.encode(pixels)
    except vp8l.Unsuitable:
        data = encode_webp(pixels)
    assert alike(pixels, decode_webp(data))


def codes_of(counts: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.int64], bytes]:
    """Return the lengths of the green code that is made of counts, and the bits that say so."""
    space = vp8l_workspace.Workspace()
    space["histogram"][:] = 0
    space["histogram"][: len(counts)] = counts
    writer = vp8l.Writer(space)
    vp8l._put_codes(writer, "histogram", 1, len(counts))
    return (space["table"][: len(counts)] >> 16).astype(np.int64), writer.written()


@st.composite
def histograms(draw: st.DrawFn) -> npt.NDArray[np.uint32]:
    size = draw(st.sampled_from((280, 281, 1304, 2328)))
    counts = np.zeros(size, np.uint32)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    used = draw(st.integers(1, size))
    places = random.choice(size, used, replace=False)
    kind = draw(st.sampled_from(("equal", "fibonacci", "powers", "steep")))
    if kind == "equal":
        counts[places] = draw(st.integers(1, 1000))
    elif kind == "fibonacci":
        row = [1, 1]
        while len(row) < 30:
            row.append(row[-1] + row[-2])
        counts[places] = np.resize(row, used)
    elif kind == "powers":
        counts[places] = 1 << (np.arange(used) % 20)
    else:
        counts[places] = np.maximum(1, random.random(used) ** 9 * 1e5)
    return counts


@settings(max_examples=100, deadline=None)
@given(histograms())
def test_codes_are_whole_within_the_limit_and_near_the_entropy(counts: npt.NDArray[np.uint32]) -> None:
    lengths, _ = codes_of(counts)
    used = counts > 0
    if used.sum() == 1:
        assert not lengths.any()  # a symbol that is alone takes no bits
        return
    assert ((lengths > 0) == used).all()
    assert lengths.max() <= vp8l_prefix_codes.LONGEST_CODE
    assert sum(1 << (15 - length) for length in lengths[used].tolist()) == 1 << 15
    shares = counts[used] / counts.sum()
    assert (shares * lengths[used]).sum() <= -(shares * np.log2(shares)).sum() + 1.01


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([1 << min(i, 27) for i in range(30)], id="longer than 15 without the limit"),
        pytest.param([5] * 256, id="256 equal"),
        pytest.param([0, 9], id="one"),
        pytest.param([1, 1], id="two"),
    ],
)
def test_a_picture_of_adversarial_counts(counts: list[int]) -> None:
    """Blues occur as often as said; beside them green changes, so that there is no palette."""
    most = max(counts)
    blues = np.repeat(np.arange(len(counts)), [-(-count * 4096 // most) if count else 0 for count in counts])
    pixels = np.zeros((len(blues), 1, 3), np.uint8)
    pixels[:, 0, 2] = np.random.default_rng(0).permutation(blues)
    pixels[:, 0, 1] = np.arange(len(blues)) % 251
    assert_kept(pixels[: 1 << 14])


@given(st.integers(1, 4096))
def test_prefixes_of_lengths_are_those_of_the_specification(value: int) -> None:
    symbol, extra = vp8l_backward_references.prefix.py_func(value)
    if symbol < 4:
        assert (symbol, extra) == (value - 1, 0)
        return
    first = (2 + (symbol & 1)) << extra
    assert extra == (symbol - 2) >> 1
    assert first < value <= first + (1 << extra)


def test_the_kernels_have_the_room_they_count_on() -> None:
    room = vp8l_workspace
    assert room.BUCKETS == 1 << vp8l_predictor_choice.TABLE_BITS
    assert room.LEAVES == vp8l_prefix_codes._LEAVES
    assert room.COSTS == vp8l_meta_prefix._COST_LEVELS
    assert 1 << vp8l._MOST_CACHE_BITS <= vp8l_alphabets.LARGEST_CACHE
    assert all(effort.groups < vp8l_alphabets.LANES for effort in vp8l.EFFORTS.values())


DIGESTS = {"default": "91de9569eb30c011", "fast": "95536d07314d8659"}


@pytest.mark.parametrize("effort", EFFORTS)
def test_bytes_are_the_same_on_every_machine(effort: str) -> None:
    """Another digest means other bytes: then `vp8l.VERSION` has to be raised, so that tiles are made anew."""
    steps = np.random.default_rng(11).integers(-3, 4, (200, 300))
    codes = (np.cumsum(np.cumsum(steps, axis=0), axis=1) * 64 + 32768 * 256).astype(np.int64)
    codes[:90, :80] = 32768 * 256
    pixels = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    island = np.zeros_like(pixels)
    island[60:90, 100:150] = pixels[60:90, 100:150]
    areas = np.zeros_like(pixels)
    areas[..., 0] = np.clip((codes >> 14) - 510, 0, 8)
    digest = hashlib.sha256()
    for one in (pixels, island, areas):
        digest.update(vp8l.encode(one, effort))
    assert digest.hexdigest()[:16] == DIGESTS[effort]


def test_threads_do_not_disturb_each_other() -> None:
    tiles = [terrain(z, seed=z) for z in range(8, 16)]
    alone = [vp8l.encode(tile) for tile in tiles]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(vp8l.encode, tiles * 4)) == alone * 4


def photograph() -> Pixels:
    channels = [surface(256, seed, 1.6) * 0.4 + surface(256, 9, 1.7) * 0.6 for seed in (1, 2, 3)]
    return (np.stack(channels, axis=-1) * 255).astype(np.uint8)


def test_what_is_no_terrain_is_left_to_libwebp() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    for pixels in (photograph(), noise):
        with pytest.raises(vp8l.Unsuitable):
            vp8l.encode(pixels)
        assert encode_webp(pixels, "fusi") == encode_webp(pixels, "libwebp")
    steep = terrain(12, relief_m=8800)
    assert encode_webp(steep, "fusi") != encode_webp(steep, "libwebp")


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 5, 2), (1, (1 << 14) + 1, 3)])
def test_shapes_that_the_format_cannot_hold(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no picture that a lossless WebP can hold"):
        vp8l.encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("missing", [False, True])
def test_files_are_no_larger_than_those_of_libwebp(missing: bool) -> None:
    tiles = [coast(13, missing=missing), terrain(10), terrain(13), terrain(15), terrain(17)]
    sizes = {name: sum(len(encode_webp(tile, name)) for tile in tiles) for name in ENCODERS}
    assert sizes["fusi"] <= 1.02 * sizes["libwebp"]
    assert sizes["fusi-fast"] <= 1.06 * sizes["libwebp"]


@pytest.mark.parametrize("colors", [2, 3, 5, 16])
def test_areas_with_sharp_edges_are_no_larger_than_those_of_libwebp(colors: int) -> None:
    """As lineage has them. Copies of the row above make the difference."""
    tile = np.zeros((512, 512, 3), np.uint8)
    tile[..., 0] = surface(512, 3, 2.3) * (colors - 0.001)
    assert_kept(tile)
    assert len(encode_webp(tile, "fusi")) <= 1.01 * len(encode_webp(tile, "libwebp"))


def test_an_island_in_an_empty_tile_is_no_larger_than_that_of_libwebp() -> None:
    sizes = dict.fromkeys(ENCODERS, 0)
    for z, side in ((4, 30), (7, 50), (9, 20), (12, 60)):
        tile = np.zeros((512, 512, 4), np.uint8)
        tile[..., 0] = 128
        tile[200 : 200 + side, 77 : 77 + side, :3] = terrain(z, side, seed=z)
        tile[200 : 200 + side, 77 : 77 + side, 3] = 255
        assert_kept(tile)
        for name in ENCODERS:
            sizes[name] += len(encode_webp(tile, name))
    assert sizes["fusi"] <= 1.02 * sizes["libwebp"]


@pytest.mark.parametrize("side", [24, 70, 160, 290])
@pytest.mark.parametrize("step_m", [0.25, 4.0])
def test_a_tile_filled_in_part_is_hardly_larger_than_that_of_libwebp(side: int, step_m: float) -> None:
    """Few pixels do not pay for codes of many symbols."""
    heights = np.full((512, 512), np.nan, np.float32)
    part = surface(side, 9, 2.4)
    heights[100 : 100 + side, 200 : 200 + side] = np.round(part * 900 / step_m) * step_m
    pixels = terrarium.encode(heights, 9)
    assert pixels is not None
    assert_kept(pixels)
    assert len(encode_webp(pixels, "fusi")) <= 1.05 * len(encode_webp(pixels, "libwebp"))


@pytest.mark.parametrize("width", [9, 14, 40])
def test_a_sliver_at_the_edge_of_a_tile_is_hardly_larger_than_that_of_libwebp(width: int) -> None:
    """What is missing beside it is copied row by row, although it is too short for a block of its own."""
    heights = np.full((512, 512), np.nan, np.float32)
    heights[:, :width] = np.round(surface(512, 4)[:, :width] * 900)
    pixels = terrarium.encode(heights, 9)
    assert pixels is not None
    assert_kept(pixels)
    assert len(encode_webp(pixels, "fusi")) <= 1.05 * len(encode_webp(pixels, "libwebp"))


@pytest.mark.parametrize("cache_bits", [0, 5, 10])
def test_the_size_is_known_before_the_residuals_are_written(cache_bits: int) -> None:
    """The choice of cache and groups rests on it."""
    pixels = np.random.default_rng(3).integers(0, 40, (90, 70, 3)).astype(np.uint8)
    space = vp8l._workspace
    vp8l.encode(pixels, any_picture=True)  # leaves its residuals, in which nothing is copied
    writer = vp8l.Writer(space)
    before = vp8l._put_groups(writer, 90, 70, cache_bits, 2, 1) + writer.bits()
    writer.rewind(np.zeros_like(writer.mark()))
    vp8l._put_residuals(writer, 90, 70, cache_bits, 2, 1)
    assert writer.bits() == before


@pytest.mark.parametrize("number", range(40))
def test_hostile_pictures(number: int) -> None:
    """The first of those that `python -m tests.fuzz_vp8l` draws for as long as one likes."""
    _, pixels = hostile_pictures.picture(1, number)
    assert list(fuzz_vp8l.faults(pixels)) == []


def test_a_fuzz_run_tells_a_mismatch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz_vp8l", "--seed", "5", "--case", "3"])
    assert fuzz_vp8l.main() == 0
    assert "no mismatch: seed 5" in capsys.readouterr().out
    monkeypatch.setattr(fuzz_vp8l, "same", lambda one, other: False)
    assert fuzz_vp8l.main() == 1
    assert "MISMATCH: --seed 5 --case 3: " in capsys.readouterr().out


def test_every_encoder_writes_the_same_pixels_and_its_own_key() -> None:
    tile = coast(12, missing=True)
    for name in ENCODERS:
        data = encode_webp(tile, name)
        assert is_plain(data)
        assert np.array_equal(decode_webp(data), tile)
    assert len({encoder_version(name) for name in ENCODERS}) == len(ENCODERS)
    assert encoder_version("libwebp") == ""


CHROMIUM = Path("/usr/bin/chromium")
IN_CHROMIUM = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const options = {premultiplyAlpha: "none", colorSpaceConversion: "none"};
  const picture = await createImageBitmap(new Blob([bytes], {type: "image/webp"}), options);
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const gl = canvas.getContext("webgl");
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const level = [gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0];
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, ...level);
  const pixels = new Uint8Array(4 * picture.width * picture.height);
  gl.readPixels(0, 0, picture.width, picture.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  return [picture.height, picture.width, Array.from(pixels)];
}"""
"""Decodes as MapLibre GL does: into a texture, with the colour under alpha 0 as it is."""


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed (the package chromium)")
def test_chromium_reads_every_pixel() -> None:
    palette = np.random.default_rng(0).integers(0, 3, (70, 90, 3)).astype(np.uint8)
    tiles = [terrain(11, 80), terrain(14, 80), coast(12, missing=True, side=80), palette]
    arguments = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        for tile in tiles:
            for effort in EFFORTS:
                data = base64.b64encode(vp8l.encode(tile, effort)).decode()
                rows, cols, values = page.evaluate(IN_CHROMIUM, data)
                decoded = np.array(values, np.uint8).reshape(rows, cols, 4)
                assert np.array_equal(decoded[..., : tile.shape[2]], tile)
        browser.close()

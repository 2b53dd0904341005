"""The embedded backend of the image server: laws of what it draws, and a layer drawn through the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_generation.camera import MercatorGrid
from layer_generation.endpoints.pixelart import PALETTES, palette_of, stylized
from layer_generation.image_api import wire
from layer_generation.image_api.artist import Artist, BackendConfig, Job
from layer_generation.image_api.artist_process import drawn
from layer_generation.image_api.backend import BackendFailed, Cancelled, Picture, Pixels, Stage
from layer_generation.image_api.pixelart_backend import PixelArtBackend
from layer_generation.image_api.wire import Frame
from layer_generation.pictures import decoded
from tests.image_service import PATH, ROUTE, noise, service
from tests.layers import told, write_map

SHOWN = {"prompt": "a coast", "negative_prompt": "", "width": 16, "height": 16, "steps": 2, "cfg_scale": 7.5,
         "sampler": "euler_a", "strength": 0.75, "seed": 3, "model": "actor"}  # fmt: skip
SIDES = st.integers(2, 20).map(lambda number: number * 8)


def picture(
    prompt: str = "winter", width: int = 64, height: int = 48, seed: int = 3, **facts: object
) -> Picture:
    known = {"negative_prompt": "", "steps": 5, "cfg_scale": 7.5, "sampler": "euler_a", "strength": 0.75}
    return Picture(prompt, width=width, height=height, seed=seed, model="pixelart", **{**known, **facts})  # type: ignore[arg-type]


class Reports:
    """What a backend said of its progress; it is told to stop after some of it."""

    def __init__(self, most: int = 10**6) -> None:
        self.said: list[tuple[Stage, int, int]] = []
        self._most = most

    def __call__(self, stage: Stage, done: int, total: int) -> None:
        if len(self.said) >= self._most:
            raise Cancelled
        self.said.append((stage, done, total))


def draw(asked: Picture) -> Pixels:
    return drawn(PixelArtBackend(), asked, Reports())


def test_a_process_that_died_unnoticed_costs_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed while idle, and the next picture comes before anyone could hear of that."""
    for name, value in PATH.items():
        monkeypatch.setenv(name, value)

    async def drawn_twice() -> None:
        artist = Artist(BackendConfig(factory="tests.image_artists:opened"))
        await artist.start()
        try:
            first = artist.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            assert await artist.draw(Job(facts=SHOWN), lambda *_: None, asyncio.Event())
            assert artist.pid != first
            dying = Job(facts={**SHOWN, "prompt": "dies"})
            with pytest.raises(BackendFailed, match="signal 9"):
                await artist.draw(dying, lambda *_: None, asyncio.Event())
        finally:
            await artist.close()

    asyncio.run(drawn_twice())


@settings(deadline=None, max_examples=30)
@given(SIDES, SIDES, st.integers(1, 30), st.integers(0, 2**32 - 1), st.text(min_size=1))
def test_a_picture_follows_from_prompt_and_seed(
    width: int, height: int, steps: int, seed: int, text: str
) -> None:
    one = draw(picture(text, width, height, seed, steps=steps))
    assert one.shape == (height, width, 3)
    assert (one == draw(picture(text, width, height, seed, steps=1))).all(), "steps change nothing"
    palette = np.array([list(bytes.fromhex(c)) for c in PALETTES[palette_of(text)].colors.split()], np.uint8)
    assert {tuple(c) for c in one.reshape(-1, 3).tolist()} <= {tuple(c) for c in palette.tolist()}


def test_another_seed_or_prompt_is_another_picture() -> None:
    first = draw(picture())
    assert (first != draw(picture(seed=4))).any()
    assert (first != draw(picture("winter harbour"))).any()


@settings(deadline=None, max_examples=30)
@given(SIDES, SIDES, st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_from_a_picture_it_draws_what_the_embedded_endpoint_draws(
    width: int, height: int, steps: int, seed: int, masked: bool
) -> None:
    image = noise(width, height, seed)
    mask = np.random.default_rng(seed).random((height, width)) < 0.4 if masked else None
    told = draw(picture("autumn", width, height, seed, steps=steps, image=image, mask=mask))
    assert (told == stylized(image, mask, PALETTES["autumn"], seed)).all()
    if mask is not None:
        assert (told[~mask] == image[~mask]).all()


def test_progress_goes_through_the_stages_and_stops_when_told() -> None:
    reports = Reports()
    drawn(PixelArtBackend(), picture(steps=7), reports)
    stages = [stage for stage, _, _ in reports.said]
    assert list(dict.fromkeys(stages)) == ["loading", "diffusion", "decoding"]
    steps = [done for stage, done, total in reports.said if stage == "diffusion"]
    assert steps == list(range(8))
    for most in range(len(reports.said)):
        with pytest.raises(Cancelled):
            drawn(PixelArtBackend(), picture(steps=7), Reports(most))


@given(st.dictionaries(st.text(), st.integers() | st.text()).filter(lambda f: "kind" not in f), st.binary())
def test_frames_come_back(facts: dict[str, int | str], data: bytes) -> None:
    encoded = Frame("x", facts, data).encoded()
    first, second = wire.lengths(encoded[:8])
    assert wire.decoded(encoded[8 : 8 + first], encoded[8 + first :]) == Frame("x", facts, data)
    assert len(encoded) == 8 + first + second


@given(st.binary(min_size=8, max_size=8), st.binary(max_size=40))
def test_what_is_no_frame_is_said_to_be_none(head: bytes, body: bytes) -> None:
    for read in (lambda: wire.lengths(head), lambda: wire.decoded(body, b"")):
        with suppress(wire.FrameInvalid):
            read()


# A layer through the server


def test_a_layer_is_drawn_through_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quadrants = [(x, y) for x in range(3) for y in range(3)]
    write_map(tmp_path / "map", MercatorGrid(zoom=12), quadrants)
    with service(factory="layer_generation.image_api.pixelart_backend:opened", queue_depth=4) as running:
        endpoint = {"name": "here", "url": running.url, "protocol": "fusi", "params": {"poll_s": 0.02}}
        (tmp_path / "endpoints.json").write_text(json.dumps([endpoint]))
        layer = tmp_path / "layer"
        made = told(
            capsys, "init", "--name", "snow", "--generation-dir", tmp_path / "map", "--output", layer,
            "--source-layer", "renders", "--model-endpoints", tmp_path / "endpoints.json",
            "--prompt", "winter", "--steps", 2, "--seed", 5,
        )  # fmt: skip
        assert made.code == 0, made.err
        done = told(capsys, "generate", "--layer-dir", layer, "--progress-interval", "1")
        assert done.code == 0, done.err
        generations = running.client.get(ROUTE).json()
    assert generations["total"] == 4, "one 2x2, two strips, a corner"
    assert {one["status"] for one in generations["data"]} == {"complete"}
    palette = {tuple(bytes.fromhex(color)) for color in PALETTES["winter"].colors.split()}
    for x, y in quadrants:
        pixels = decoded((layer / "generations" / f"{x}_{y}.png").read_bytes(), "quadrant")
        assert pixels.shape == (512, 512, 3)
        assert {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()} <= palette

"""Layers drawn over HTTP, whole: killed runners, hostile model servers, known pictures, Ctrl-C."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layer_generation import worker
from layer_generation.endpoints.base import EditRequest, EditResult, Stop
from layer_generation.endpoints.open import open_endpoint
from layer_generation.errors import EndpointInvalid, EndpointsExhausted, LayerConfigInvalid
from layer_generation.layer_config import EndpointConfig, layer_from, read_layer
from layer_generation.pictures import Pixels, decoded
from layer_generation.pool import Pool, PoolLimits
from layer_generation.progress import BlockRow, Progress
from layer_generation.worker import LayerRun, RunOptions, RunReport
from tests import image_server
from tests.image_server import Drawing, Fault, ImageServer, later, slow, status, wrong_size
from tests.layer_kills import (
    all_readable,
    command,
    disc,
    endpoint,
    killed_run,
    made_layer,
    made_map,
    outcome,
    plain,
    undisturbed,
)

SIX = [(x, y) for y in range(2) for x in range(3)]
"""A map of two blocks: a 2x2 and a strip."""
QUICK = PoolLimits(first_rest_s=0.02, longest_rest_s=0.05, give_up_s=0.3, quarantine_s=30)


@pytest.fixture(scope="module")
def two_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_map(tmp_path_factory.mktemp("six") / "map", SIX, plain)


@dataclass
class Ended:
    """How a run ended."""

    report: RunReport | None = None
    reason: str = ""
    """Why no server was left to go on with."""
    events: list[str] = field(default_factory=list)


def drawn(layer: Path, limits: PoolLimits = QUICK, options: RunOptions | None = None) -> Ended:
    """Draw a layer in this process, with the endpoints that it names."""
    config = read_layer(layer)
    pool = Pool([(open_endpoint(one, {}), one.concurrency) for one in config.model_endpoints], limits)
    work, end = LayerRun(layer, config, pool, options), Ended()
    with closing(pool):
        try:
            for _ in work.run(0.05):
                pass
            end.report = work.report(0.0)
        except EndpointsExhausted as error:
            end.reason = str(error)
    while not work.events.empty():
        end.events.append(work.events.get())
    return end


def blocks_of(layer: Path) -> list[BlockRow]:
    with Progress(layer) as progress:
        return list(progress.blocks())


def painting(layer: Path) -> dict[tuple[int, int], Pixels]:
    """Return the pictures of a layer by quadrant."""
    return {
        (int(x), int(y)): decoded(path.read_bytes(), path)
        for path in (layer / "generations").glob("*.png")
        for x, y in [path.stem.split("_")]
    }


def assert_painted(layer: Path, quadrants: Sequence[tuple[int, int]]) -> None:
    """Look that every pixel is the negative of the source."""
    found = painting(layer)
    assert sorted(found) == sorted(quadrants)
    for (x, y), picture in found.items():
        np.testing.assert_array_equal(picture, 255 - plain(x, y))


# Kills


@pytest.mark.parametrize("runners", [1, 2])
def test_kills_lose_no_picture_and_pay_for_none_twice(tmp_path: Path, runners: int) -> None:
    """More of it: `python -m tests.layer_kills --kills 30 --seed 7`."""
    luck = random.Random(5)
    with ImageServer() as server:
        quadrants = disc(2, 0.0, 1)
        place = made_map(tmp_path / "map", quadrants, plain)
        wanted = undisturbed(tmp_path / "calm", place, server)
        server.calls.clear()
        server.takes_s = lambda: luck.uniform(0.05, 0.3)
        layer = made_layer(tmp_path / "layer", place, [endpoint(server)])
        lives = killed_run(layer, server, 4 - runners, 3, runners=runners, most_s=0.4)
        found = outcome(layer, server, lives, wanted)
        assert found.faults() == []
        assert all_readable(layer)
        assert_painted(layer, quadrants)
        assert all(block.attempts == 1 for block in blocks_of(layer)), "a kill is no attempt"


def test_what_a_dead_process_held_is_taken_over_while_others_work(
    tmp_path: Path, two_blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_LOOK_S", 0.05)
    gone = subprocess.Popen(["sleep", "0"])
    with ImageServer() as server:
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        gone.wait()
        machine = worker.own_name().split(":")[0]
        with Progress(layer) as progress:
            block = progress.claim(f"{machine}:{gone.pid}:1:one:1", 3600)
            assert block is not None
            monkeypatch.setattr(LayerRun, "_prepare", lambda self: None)  # as if it died just after that
            end = drawn(layer)
            assert progress.counts()[1]["complete"] == 1
        assert end.report is not None
        assert end.report.whole
        assert len(server.calls) == 2


def test_a_kill_between_the_names_and_the_commit_pays_for_nothing_again(
    tmp_path: Path, two_blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Progress, block: int, by: str, *, publish: Callable[[], None], **_: str) -> bool:
        publish()
        raise SystemError("killed")

    with ImageServer() as server, ImageServer() as other:
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        with monkeypatch.context() as patched:
            patched.setattr(Progress, "finish", killed)
            with pytest.raises(SystemError):
                drawn(layer)
        assert len(painting(layer)) == 4
        both = [other.config("base64", name="two", context="frame"), server.config("base64", name="one")]
        made_config(layer, both)
        with Progress(layer) as progress:
            progress.reclaim(lambda _: True)
        other.always = status(500)
        end = drawn(layer)
        assert end.report is not None
        assert end.report.whole
        assert end.report.adopted == 1, "whoever takes the block next"
        assert len(server.calls) == 2
        assert_painted(layer, SIX)
        assert not list((layer / "generations").glob(".*"))


def made_config(layer: Path, endpoints: Sequence[EndpointConfig]) -> None:
    """Give a layer other endpoints."""
    path = layer / "layer_config.json"
    document = json.loads(path.read_text())
    document["model_endpoints"] = [
        {"name": one.name, "url": one.url, "protocol": one.protocol, "context": one.context,
         "params": dict(one.params), "timeout_s": one.timeout_s}
        for one in endpoints
    ]  # fmt: skip
    path.write_text(json.dumps(document))


def test_a_damaged_answer_of_an_earlier_run_is_asked_for_again(tmp_path: Path, two_blocks: Path) -> None:
    with ImageServer() as server:
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        folder = layer / "generations" / ".fusi-received"
        folder.mkdir()
        for number, data in enumerate((b"", b"PK\x03\x04 cut", b"no archive at all")):
            (folder / f"1-{number:032x}.answer").write_bytes(data)
        assert drawn(layer).report is not None
        assert len(server.calls) == 2
        assert_painted(layer, SIX)


# Hostile servers


def in_s(seconds: float) -> str:
    """Return a moment from now as an HTTP date."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@dataclass(frozen=True)
class Case:
    """A misbehaviour of every answer, and what comes of it when no other server is there."""

    fault: Fault
    said: str
    """What the reason, or the message of a failed block, holds."""
    refused: bool = False
    """Whether the picture is given up at once, not the server."""


BUSY = {"error": {"message": "slow down"}}
CASES: dict[str, Case] = {
    "500": Case(status(500, {"error": "out of memory"}), "HTTP 500: out of memory"),
    "hang": Case(image_server.HANG, "no picture within 0.3 s"),
    "dribble": Case(image_server.DRIBBLE, "no picture within 0.3 s"),
    "no image": Case(image_server.NOT_IMAGE, "does not decode"),
    "half an image": Case(image_server.HALF_IMAGE, "does not decode"),
    "bomb": Case(image_server.BOMB, "60000 x 60000 px"),
    "close": Case(image_server.CLOSE, "the connection broke"),
    "closed within the body": Case(image_server.TRUNCATED, "the connection broke"),
    "text": Case(image_server.TEXT_ONLY, "I cannot help with that picture"),
    "a loop of redirects": Case(image_server.LOOP, "redirects in circles"),
    "another shape": Case(wrong_size(1024, 512), "the answer is 1024 x 512 px", refused=True),
    "far too small": Case(wrong_size(8, 8), "the answer is 8 x 8 px", refused=True),
    "400": Case(status(400, {"error": {"message": "bad size"}}), "bad size", refused=True),
    "422": Case(status(422), "HTTP 422", refused=True),
    "401": Case(status(401), "the key is refused"),
    "403": Case(status(403), "access is refused"),
    "404": Case(status(404), "no such address or model"),
    "quota": Case(status(429, {"error": {"code": "insufficient_quota"}}), "the quota is used up"),
    "429 for a day": Case(status(429, BUSY, Retry_After="86400"), "slow down"),
    "429 until next year": Case(status(429, BUSY, Retry_After=in_s(3e7)), "slow down"),
    "429 until the year 9999": Case(
        status(429, BUSY, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), "slow down"
    ),
    "429 until last year": Case(status(429, BUSY, Retry_After=in_s(-3e7)), "slow down"),
    "503 for no time": Case(status(503, BUSY, Retry_After="0"), "slow down"),
}


@pytest.fixture
def servers() -> Iterator[tuple[ImageServer, ImageServer]]:
    with ImageServer() as bad, ImageServer() as good:
        yield bad, good


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_server_alone_ends_the_run_with_its_reason(
    tmp_path: Path, two_blocks: Path, servers: tuple[ImageServer, ImageServer], name: str
) -> None:
    case, (bad, _) = CASES[name], servers
    bad.always = case.fault
    config = bad.config("base64", name="bad", timeout_s=0.3 if "0.3 s" in case.said else 20.0)
    layer = made_layer(tmp_path / "layer", two_blocks, [config], max_attempts=2)
    end = drawn(layer)
    blocks = blocks_of(layer)
    told = " ".join([end.reason, *(block.error_message or "" for block in blocks)])
    assert f"bad: {case.said}" in told or case.said in told
    assert "\n" not in told
    assert Counter(block.status for block in blocks) in ({"pending": 2}, {"error": 1, "pending": 1})
    if case.refused:
        assert len(bad.calls) == 1, "what is refused is not asked for again"
    else:
        assert end.reason or "attempt 2 of 2" in told
        assert len(bad.calls) <= 12
    assert not any(path.is_file() for path in (layer / "generations").rglob("*"))


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("429 ", "422", "403"))])
def test_a_hostile_server_does_not_stop_the_others(
    tmp_path: Path, two_blocks: Path, servers: tuple[ImageServer, ImageServer], name: str
) -> None:
    case, (bad, good) = CASES[name], servers
    bad.always = case.fault
    config = bad.config("base64", name="bad", timeout_s=0.3 if "0.3 s" in case.said else 20.0)
    layer = made_layer(tmp_path / "layer", two_blocks, [config, good.config("base64", name="good")])
    end = drawn(layer)
    assert end.report is not None
    assert end.report.whole
    assert end.report.by_endpoint == {"good": 2}
    assert len(good.calls) == 2, "nothing is paid for twice"
    assert_painted(layer, SIX)


def as_png(pixels: Pixels, mode: str) -> bytes:
    """Return a picture in another mode of PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(255)
    else:
        image = image.convert(mode)
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "L", "I;16", "P", "LA", "1"])
def test_answers_of_every_kind_of_png_are_taken(tmp_path: Path, two_blocks: Path, mode: str) -> None:
    grey = np.dstack([np.add.outer(np.arange(1024), np.arange(1024)) // 9 % 256] * 3).astype(np.uint8)
    with ImageServer() as server:
        server.always = Fault("picture", body=as_png(grey, mode))
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        end = drawn(layer, options=RunOptions(max_items=1))
        assert end.report is not None
        assert end.report.completed == 1
        if mode != "1":
            found = painting(layer)[(0, 0)].astype(int)
            assert np.abs(found - grey[:512, :512]).max() <= (60 if mode == "P" else 0)


@pytest.mark.parametrize("fault", [slow(0.4), later(3)], ids=["slow", "redirects"])
def test_a_server_that_takes_its_time_is_waited_for(tmp_path: Path, two_blocks: Path, fault: Fault) -> None:
    with ImageServer() as server:
        server.always = fault
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        assert drawn(layer).report is not None
        assert len(server.calls) == 2
        assert_painted(layer, SIX)


def test_a_busy_server_is_asked_when_it_says_and_not_before(tmp_path: Path, two_blocks: Path) -> None:
    with ImageServer() as server:
        server.fail(status(429, BUSY, Retry_After="1"))
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        assert drawn(layer).report is not None
        first, second, _ = (call.arrived for call in server.calls)
        assert second - first >= 1.0
        assert [block.attempts for block in blocks_of(layer)] == [1, 1], "not an attempt of the picture"


@pytest.mark.parametrize("protocol", ["comfyui", "sdcpp", "fusi"])
def test_jobs_that_hang_at_every_place_end_and_are_paid_for_once(
    tmp_path: Path, two_blocks: Path, protocol: str
) -> None:
    """A submit is never answered, the next one breaks off; polls fail, are no JSON, know the job no more."""
    with ImageServer() as server:
        server.fail(image_server.HANG)
        server.fail(image_server.CLOSE)
        unknown = status(404) if protocol != "comfyui" else status(500)
        server.poll_faults.extend([status(500), unknown, status(200, b"<html>gateway</html>"), status(503)])
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config(protocol, name="one")])
        hung = threading.Thread(target=lambda: until(lambda: bool(server.calls)) and server.drop())
        hung.start()
        end = drawn(layer, PoolLimits(first_rest_s=0.02, longest_rest_s=0.05, give_up_s=30))
        hung.join()
        assert end.report is not None
        assert end.report.whole
        assert len(server.drawings) == 2, "one for each block"
        assert_painted(layer, SIX)


def test_a_mask_that_cannot_be_sent_is_refused_before_the_run() -> None:
    config = EndpointConfig(name="one", url="http://127.0.0.1:9", context="mask")
    with pytest.raises(EndpointInvalid, match="mask_field"):
        open_endpoint(config, {})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_attempts", "3", "a whole number from 1"),
        ("max_attempts", 0, "a whole number from 1"),
        ("max_drift", -1, "a number from 0"),
        ("match_colors", 1, "true or false"),
        ("seed", "x", "a whole number"),
        ("prompt", 7, "a text"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(key: str, value: object, expected: str) -> None:
    document = {"name": "one", "generation_dir": "../map", "generation_params": {key: value}}
    with pytest.raises(LayerConfigInvalid, match=f"generation_params: {key} = .*: expected {expected}"):
        layer_from(document, "layer_config.json")


# Pictures that are known

ODD = [*((x, y) for x in range(-3, 1) for y in range(-1, 3) if (x, y) != (-3, 2)), (1, 2), (2, 2), (2, 3)]
"""A map with a bitten corner and a tail."""


class Painter:
    """A model that knows the whole painting: what it answers is the window of it that it is shown."""

    size_multiple = 8

    def __init__(self, takes_mask: bool, answer: Callable[[Painter, EditRequest, Pixels], Pixels]) -> None:
        self.name = "one"
        self.takes_mask = takes_mask
        self.answer = answer
        self.luck = np.random.default_rng(3)
        self.requests: list[EditRequest] = []

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        self.requests.append(request)
        rows, cols = request.image.shape[:2]
        painted = truth(request.params["left_px"], request.params["top_px"], cols, rows)
        return EditResult(image=self.answer(self, request, painted))

    def probe(self) -> None:
        """Say that all is well."""

    def close(self) -> None:
        """Nothing to release."""


@cache
def world() -> Pixels:
    """Return the source of 8 x 8 quadrants from (-4, -3) on: waves, with a fine grain."""
    down, across = np.ogrid[0:4096, 0:4096]
    waves = (
        np.sin(down / 90 + across / 140),
        np.sin(across / 70) + 0 * down,
        np.cos(down / 110 - across / 60),
    )
    grain = (down * 7 + across * 13) % 5
    return np.stack([(128 + 80 * wave + grain).astype(np.uint8) for wave in waves], axis=-1)


def scene(left: int, top: int, cols: int, rows: int) -> Pixels:
    """Return a window of the source, by pixels of the map."""
    return world()[top + 1536 : top + 1536 + rows, left + 2048 : left + 2048 + cols]


def smooth(x: int, y: int) -> Pixels:
    """Return the source of a quadrant."""
    return scene(512 * x, 512 * y, 512, 512)


def truth(left: int, top: int, cols: int, rows: int) -> Pixels:
    """Return a window of what the painter paints."""
    return 255 - scene(left, top, cols, rows)


def noisy(painter: Painter, request: EditRequest, painted: Pixels) -> Pixels:
    """Answer with noise, as of JPEG, wherever the model was not asked to draw."""
    noise = painter.luck.integers(-9, 10, painted.shape)
    outside = np.ones(painted.shape[:2], dtype=bool)
    if request.mask is not None:
        outside = ~request.mask
    elif (red := (request.image == (255, 0, 0)).all(axis=-1)).any():
        down, across = np.nonzero(red)
        outside[down.min() : down.max() + 1, across.min() : across.max() + 1] = False
    else:
        outside[:] = False
    return np.where(outside[..., None], np.clip(painted + noise, 0, 255), painted).astype(np.uint8)


ANSWERS: dict[str, Callable[[Painter, EditRequest, Pixels], Pixels]] = {
    "as asked": lambda painter, request, painted: painted,
    "twice the size": lambda painter, request, painted: painted.repeat(2, axis=0).repeat(2, axis=1),
    "noise beside the block": noisy,
}


@pytest.fixture(scope="module")
def odd_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_map(tmp_path_factory.mktemp("odd") / "map", ODD, smooth)


def painted_layer(folder: Path, place: Path, painter: Painter, context: str, **params: object) -> Path:
    config = EndpointConfig(name="one", url="http://127.0.0.1:9", context=context, frame_px=3)
    layer = made_layer(folder, place, [config], **params)
    work = LayerRun(layer, read_layer(layer), Pool([(painter, 1)], QUICK))
    for _ in work.run(0.05):
        pass
    assert work.report(0.0).whole
    return layer


@pytest.mark.parametrize(("context", "answer"), [("none", "as asked"), *product(("mask", "frame"), ANSWERS)])
def test_every_pixel_of_a_known_painting(tmp_path: Path, odd_map: Path, context: str, answer: str) -> None:
    """No frame, no shift by one, no seam: every block type, at holes, corners and tails of the map."""
    painter = Painter(context == "mask", ANSWERS[answer])
    layer = painted_layer(tmp_path / "layer", odd_map, painter, context)
    assert {(block.width, block.height) for block in blocks_of(layer)} == {(2, 2), (1, 2), (2, 1), (1, 1)}
    found = painting(layer)
    assert sorted(found) == sorted(ODD)
    for (x, y), picture in found.items():
        np.testing.assert_array_equal(picture, truth(512 * x, 512 * y, 512, 512))


@pytest.mark.parametrize("colours", ["kept", "changed"])
def test_no_frame_is_left_of_a_model_that_draws_over_nothing(
    tmp_path: Path, odd_map: Path, colours: str
) -> None:
    """A model that leaves the frame, or changes its colour as it changes every other."""

    def answer(painter: Painter, request: EditRequest, painted: Pixels) -> Pixels:
        red = (request.image == (255, 0, 0)).all(axis=-1)
        frame = (255, 0, 0) if colours == "kept" else (0, 255, 255)
        return np.where(red[..., None], np.uint8(frame), painted)

    layer = painted_layer(tmp_path / "layer", odd_map, Painter(False, answer), "frame")
    for (x, y), picture in painting(layer).items():
        off = np.abs(picture.astype(int) - truth(512 * x, 512 * y, 512, 512))
        assert off.max() <= 12, "what is under the frame is like what is beside it"
        assert off[3:-3, 3:-3].max() == 0


def test_colours_are_matched_to_the_neighbours_over_the_whole_map(tmp_path: Path, odd_map: Path) -> None:
    def answer(painter: Painter, request: EditRequest, painted: Pixels) -> Pixels:
        if request.mask is None:
            return painted
        gain, offset = painter.luck.uniform(0.75, 0.95), painter.luck.uniform(5, 25)
        return np.rint(painted * gain + offset).astype(np.uint8)

    painter = Painter(True, answer)
    layer = painted_layer(tmp_path / "layer", odd_map, painter, "mask", match_colors=True)
    pairs = [(picture, truth(512 * x, 512 * y, 512, 512)) for (x, y), picture in painting(layer).items()]
    off = np.mean([np.abs(one.astype(int) - other).mean() for one, other in pairs])
    assert off < 1.5, "as they come the pictures are off by ten and more"


@pytest.mark.parametrize("allowed", [None, 8])
def test_drift_of_the_known_pixels_is_put_right_or_refused(
    tmp_path: Path, two_blocks: Path, allowed: int | None
) -> None:
    """A model that shifts what it was shown; of two attempts the second one is good."""
    with ImageServer() as server:
        masked: list[Drawing] = []

        def paint(drawing: Drawing) -> Pixels:
            good = image_server.negative(drawing)
            if drawing.mask is None:
                return good
            masked.append(drawing)
            drifted = (drawing.image.astype(int) + 60) % 256
            return np.where(drawing.mask[..., None], good, drifted if len(masked) == 1 else drawing.image)

        server.paint = lambda drawing: paint(drawing).astype(np.uint8)
        layer = made_layer(
            tmp_path / "layer", two_blocks, [server.config("base64", name="one")], max_drift=allowed
        )
        end = drawn(layer)
        assert end.report is not None
        assert end.report.whole
        assert len(server.calls) == (2 if allowed is None else 3)
        assert any("max_drift" in event for event in end.events) == (allowed is not None)
        assert_painted(layer, SIX)


# The command


def test_the_command_says_what_went_wrong_and_goes_on_when_it_is_mended(
    tmp_path: Path, two_blocks: Path
) -> None:
    with ImageServer() as server:
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config("base64", name="one")])
        server.always = status(401, {"error": {"message": "Incorrect API key"}})
        bad = subprocess.run(command(layer), capture_output=True, text=True, check=False)
        assert bad.returncode == 1
        assert "one: the key is refused (HTTP 401: Incorrect API key)" in bad.stderr
        assert "Traceback" not in bad.stderr
        server.always = None
        good = subprocess.run(command(layer, "--json"), capture_output=True, text=True, check=False)
        assert (good.returncode, json.loads(good.stdout)["completed"]) == (0, 2)
        assert_painted(layer, SIX)


@pytest.mark.parametrize(
    ("number", "times", "protocol"),
    [
        (signal.SIGINT, 1, "base64"),
        (signal.SIGINT, 2, "base64"),
        (signal.SIGINT, 2, "a1111"),
        (signal.SIGTERM, 1, "fusi"),
        (signal.SIGTERM, 2, "fusi"),
    ],
)
def test_a_stop_ends_the_command_and_the_server_is_told(
    tmp_path: Path, two_blocks: Path, number: signal.Signals, times: int, protocol: str
) -> None:
    with ImageServer(polls=10_000) as server:
        if times == 1:
            server.polls = 6
            server.takes_s = lambda: 0.6
        elif protocol != "fusi":
            server.takes_s = lambda: 20.0
        layer = made_layer(tmp_path / "layer", two_blocks, [server.config(protocol, name="one")])
        with subprocess.Popen(command(layer), stderr=subprocess.PIPE, text=True) as runner:
            assert until(lambda: bool(server.calls))
            runner.send_signal(number)
            if times == 2:
                time.sleep(0.4)
                runner.send_signal(number)
            _, said = runner.communicate(timeout=15)
        assert runner.returncode == 130, said
        assert "finishing what is under way" in said
        first, second = blocks_of(layer)
        assert (second.status, second.attempts) == ("pending", 0)
        if times == 1:
            assert (first.status, len(painting(layer))) == ("complete", 4)
            assert not server.cancelled
        else:
            assert (first.status, first.attempts) == ("pending", 0)
            assert len(server.cancelled) == (protocol != "base64")
        assert len(server.calls) == 1


def until(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until something is so; tell whether it came to that."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_a_server_that_reads_nothing_is_left_when_asked_to_stop(tmp_path: Path, two_blocks: Path) -> None:
    """It accepts the connection, and the picture does not get away."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = EndpointConfig(name="one", url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
        layer = made_layer(tmp_path / "layer", two_blocks, [config])
        found = read_layer(layer)
        pool = Pool([(open_endpoint(one, {}), 1) for one in found.model_endpoints], QUICK)
        work = LayerRun(layer, found, pool)
        threading.Timer(0.7, work.give_back).start()
        with closing(pool):
            for _ in work.run(0.05):
                pass
        assert work.report(0.0).interrupted
        assert all((block.status, block.attempts) == ("pending", 0) for block in blocks_of(layer))


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    assert not [one for one in threading.enumerate() if "_work" in one.name or "_renew" in one.name]

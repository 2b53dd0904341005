"""Ctrl-C and `just layer-materialize`: what is under way is finished, no more begun, nothing paid twice."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from fusi_pipeline.errors import Interrupted
from layer_generation.camera import MercatorGrid
from layer_generation.defs import drawing, headless, stopping
from layer_generation.defs.stopping import NEVER, Stop, interruptible
from layer_generation.endpoints.base import EditRequest, EditResult, EndpointCancelled
from layer_generation.endpoints.base import Stop as Abandon
from layer_generation.layer import init_layer
from layer_generation.layer_config import EndpointConfig
from layer_generation.progress import Progress
from layer_generation.settings import Places
from tests.image_server import ImageServer, slow
from tests.layers import write_map

SILENT = {"telemetry": {"enabled": False}}
SIDE = 5
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)
REPOSITORY = Path(__file__).parents[1]


class Model:
    """A model server in this process that calls back at each picture, and can be slow."""

    name = "one"
    takes_mask = True
    size_multiple = 8

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.begun = 0
        self.at_call: Callable[[int], None] = lambda number: None
        self.hangs = False

    def edit(self, request: EditRequest, stop: Abandon) -> EditResult:
        """Invert a picture."""
        assert request.seed is not None
        self.begun += 1
        self.at_call(self.begun)
        while self.hangs:
            if stop.wait(0.01):
                raise EndpointCancelled("given up")
        self.drawn.append(request.seed)
        where = np.ones(request.image.shape[:2], dtype=bool) if request.mask is None else request.mask
        return EditResult(image=np.where(where[..., None], 255 - request.image, request.image))

    def probe(self) -> None:
        """Say that all is well."""

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model server that the layer is drawn by."""
    one = Model()
    monkeypatch.setattr(drawing, "open_endpoint", lambda config, keys, folder: one)
    return one


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Places with a layer of 5 x 5 quadrants in four regions, of which nothing is drawn."""
    return layer_in(tmp_path)


def layer_in(folder: Path, *endpoints: EndpointConfig) -> Places:
    quadrants = [(96 + x, 96 + y) for y in range(SIDE) for x in range(SIDE)]
    write_map(folder / "map", MercatorGrid(zoom=8), quadrants)
    init_layer(
        folder / "layers" / "snow",
        name="Snow",
        generation_dir=folder / "map",
        source_layer="renders",
        endpoints=endpoints,
    )
    return Places(layers_dir=folder / "layers", output_dir=folder / "output", region_quadrants=3)


def interrupt() -> None:
    """Send this process what Ctrl-C sends."""
    os.kill(os.getpid(), signal.SIGINT)


def materialized(places: Places, say: Callable[[str], object], told: Callable[[str], object]) -> list[str]:
    """Materialize the layer as the command does; return what failed."""

    def work(stop: Stop) -> list[str]:
        with dg.DagsterInstance.ephemeral(settings=SILENT) as instance:
            return headless.materialize(instance, places, "snow", say, stop)

    return interruptible(work, told)


def by_status(places: Places) -> dict[str, int]:
    """Return the number of blocks by status."""
    found: dict[str, int] = {}
    with Progress(places.layers_dir / "snow") as progress:
        for block in progress.blocks():
            found[block.status] = found.get(block.status, 0) + 1
    return found


@pytest.mark.parametrize("call", [1, 6])
def test_what_is_under_way_is_finished_and_nothing_more_is_begun(
    places: Places, model: Model, call: int
) -> None:
    lines: list[str] = []
    told: list[str] = []
    asked_at: list[int] = []

    def ask(number: int) -> None:
        if number == call:
            interrupt()
            time.sleep(0.3)
            asked_at.append(len(lines))

    model.at_call = ask
    with pytest.raises(Interrupted):
        materialized(places, lines.append, told.append)
    assert told == [stopping._FINISHING]
    assert len(lines) - asked_at[0] == 1, "the region under way says what became of it, and no other begins"
    found = by_status(places)
    assert len(model.drawn) == model.begun == found["complete"], "each picture that was asked for is kept"
    assert call <= model.begun <= call + 1, "two may be under way at a time"
    assert set(found) <= {"complete", "pending"}
    model.at_call = lambda number: None
    assert not materialized(places, lines.append, told.append)
    assert len(model.drawn) == sum(found.values()), "no picture is paid for twice"


@pytest.mark.parametrize("line", [0, 2])
def test_between_two_regions_nothing_more_is_begun(places: Places, model: Model, line: int) -> None:
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        if len(lines) == line + 1:
            interrupt()
            time.sleep(0.3)

    with pytest.raises(Interrupted):
        materialized(places, say, str)
    assert len(lines) == line + 1
    assert "interrupted" not in lines[-1]
    assert by_status(places).get("complete", 0) == len(model.drawn)


def test_a_second_time_gives_back_what_is_under_way(places: Places, model: Model) -> None:
    def ask(_number: int) -> None:
        interrupt()
        time.sleep(0.2)
        interrupt()

    model.at_call, model.hangs = ask, True
    lines: list[str] = []
    before = threading.active_count()
    with pytest.raises(Interrupted):
        materialized(places, lines.append, str)
    assert "interrupted; what is finished is kept" in lines[-1]
    assert by_status(places) == {"pending": sum(by_status(places).values())}
    with Progress(places.layers_dir / "snow") as progress:
        assert {block.attempts for block in progress.blocks()} == {0}
    for timer in threading.enumerate():
        if isinstance(timer, threading.Timer):
            timer.cancel()
            timer.join()
    assert threading.active_count() == before


def test_signals_are_those_of_before_when_it_is_over() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert interruptible(lambda stop: stop.asked, str) is False
    with pytest.raises(KeyError):
        interruptible(lambda stop: {}["nothing"], str)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not NEVER.asked


def test_the_rest_before_another_try_ends_when_asked() -> None:
    def work(stop: Stop) -> bool:
        with stop.making():
            interrupt()
            return stop.wait(60)

    with pytest.raises(Interrupted):
        interruptible(work, str)


# The command


def started(places: Places, home: Path) -> subprocess.Popen[str]:
    """Start the command in a process of its own, on an instance of its own."""
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    given = {
        "DAGSTER_HOME": str(home),
        "FUSI_LAYERS_DIR": str(places.layers_dir),
        "FUSI_OUTPUT_DIR": str(places.output_dir),
        "FUSI_LAYER_REGION": str(places.region_quadrants),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "layer_generation.launch", "materialize"],
        env={**os.environ, **given},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so; fail where the process ends before."""
    deadline = time.monotonic() + 60
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"ended before: {process.communicate()}")
        time.sleep(0.01)


def takes_sigterm(process: subprocess.Popen[str]) -> bool:
    """Tell whether a process has a handler of its own for SIGTERM."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) & SIGTERM_BIT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_plan_it_ends_with_one_line(
    places: Places, tmp_path: Path, number: signal.Signals
) -> None:
    process = started(places, tmp_path / "home")
    wait_until(lambda: takes_sigterm(process), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", f"{stopping.INTERRUPTED}\n")


def test_the_command_finishes_what_a_slow_server_draws(tmp_path: Path) -> None:
    with ImageServer() as server:
        places = layer_in(tmp_path, server.config("base64", concurrency=2))
        server.always = slow(1.0)
        process = started(places, tmp_path / "home")
        wait_until(lambda: len(server.drawings) > 0 or len(server.seen) > 1, process)
        process.send_signal(signal.SIGTERM)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines() == [stopping._FINISHING, stopping.INTERRUPTED]
    found = by_status(places)
    assert found["complete"] == len(server.drawings) >= 1
    assert set(found) == {"complete", "pending"}

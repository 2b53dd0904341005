"""The image server as a process: how it begins and ends, what it leaves behind, and clients that are slow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import pytest

from fusi_pipeline.errors import AddressUnavailable, SettingInvalid
from layer_generation.image_api.artist import BackendConfig
from layer_generation.image_api.backend import BackendFailed
from layer_generation.image_api.body import Intake
from layer_generation.image_api.connection import Connection
from layer_generation.image_api.guard import Access
from layer_generation.image_api.registry import Drawing
from layer_generation.image_api.server import ServerConfig, serve
from layer_generation.image_api.studio import StudioConfig
from layer_generation.listening import listen, on_loopback, url_of
from layer_generation.settings import ImageResults, image_results_from
from tests.command import Fusi, fusi
from tests.image_service import PATH, ROUTE, SMALL, Service, service

__all__ = ["fusi"]

REPOSITORY = Path(__file__).parent.parent
_ACTORS = """
import sys
from layer_generation.commands import servers
servers._BACKENDS["pixelart"] = "tests.image_artists:opened"
from fusi_pipeline import console
console.main(servers.image_api)
"""


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run `fusi image-api` with a backend of the tests; yield the process and a client."""
    command = [sys.executable, "-c", _ACTORS, "--port", "auto", *options]
    running = subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, **PATH, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    line = running.stdout.readline()
    try:
        assert line, running.communicate()[1]
        with httpx.Client(base_url=line.split()[0], timeout=30, trust_env=False) as client:
            yield running, client
    finally:
        if running.poll() is None:
            running.kill()
        with contextlib.suppress(ValueError):
            running.communicate(timeout=30)


def begin(client: httpx.Client, **fields: Any) -> str:
    answer = client.post(ROUTE, json={"prompt": "slow", **SMALL, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def until(client: httpx.Client, name: str, *statuses: str) -> dict[str, Any]:
    for _ in range(2000):
        told: dict[str, Any] = client.get(f"{ROUTE}/{name}").json()
        if told.get("status") in statuses:
            return told
        time.sleep(0.01)
    raise AssertionError(told)


def artists_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


# How it ends


def test_told_to_end_it_finishes_what_it_draws_and_cancels_the_rest() -> None:
    with process("--queue-depth", "2") as (running, client):
        drawn, waiting = begin(client, steps=12), begin(client)
        until(client, drawn, "in_progress")
        artists = artists_of(running.pid)
        assert artists
        running.send_signal(signal.SIGTERM)
        assert until(client, waiting, "cancelled")
        assert client.get("/health").json()["status"] == "stopping"
        answer = client.post(ROUTE, json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SHUTTING_DOWN")
        assert until(client, drawn, "complete")["result"]["images"]
        _, err = running.communicate(timeout=30)
        assert running.returncode == 0
        events = [json.loads(line)["event"] for line in err.splitlines()]
        assert events[0] == "backend-started"
        assert events.index("stopping") < events.index("complete")
        assert "Traceback" not in err
        _, left = psutil.wait_procs(artists, timeout=10)
        assert not left


def test_beyond_its_grace_what_it_draws_is_cancelled() -> None:
    with process("--grace", "0.2") as (running, client):
        name = begin(client, steps=150)
        until(client, name, "in_progress")
        running.send_signal(signal.SIGINT)
        assert until(client, name, "cancelled")
        running.communicate(timeout=30)
        assert running.returncode == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with process("--grace", "3600") as (running, client):
        name = begin(client, prompt="hangs")
        until(client, name, "in_progress")
        artists = artists_of(running.pid)
        running.send_signal(signal.SIGTERM)
        while client.get("/health").json()["status"] != "stopping":
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
        assert running.returncode == 0
        assert not psutil.wait_procs(artists, timeout=10)[1]


@pytest.mark.parametrize("prompt", ["slow", "hangs"])
def test_killed_it_leaves_no_backend_behind(prompt: str) -> None:
    with process() as (running, client):
        name = begin(client, prompt=prompt, steps=150)
        until(client, name, "in_progress")
        artists = artists_of(running.pid)
        assert artists
        running.kill()
        assert not psutil.wait_procs(artists, timeout=10)[1]


def test_a_backend_that_is_killed_is_one_failed_generation() -> None:
    with process() as (running, client):
        name = begin(client, prompt="slow", steps=150)
        while until(client, name, "in_progress").get("progress", {}).get("stage") != "diffusion":
            time.sleep(0.01)
        (artist,) = artists_of(running.pid)
        artist.kill()
        assert until(client, name, "error")["error"]["code"] == "BACKEND_ERROR"
        assert until(client, begin(client), "complete")
        (artist,) = artists_of(running.pid)
        artist.kill()
        artist.wait(10)
        assert until(client, begin(client), "complete"), "one that died while it was idle is begun anew"


# How it begins


def test_a_backend_that_does_not_begin_is_one_line(tmp_path: Path) -> None:
    for factory, said in (("unopened", "the model is not there"), ("never", "did not start within 0.5 s")):
        backend = BackendConfig(
            factory=f"tests.image_artists:{factory}", start_s=0.5 if factory == "never" else 30
        )
        config = ServerConfig(studio=StudioConfig(backend=backend), access=Access())
        with mock.patch.dict(os.environ, PATH), pytest.raises(BackendFailed, match=said):
            serve(config, listen("127.0.0.1", 0), lambda _: None)


def test_a_backend_that_cannot_begin_again_says_no_path(tmp_path: Path) -> None:
    options = {"flag": str(tmp_path / "flag")}
    with service("tests.image_artists:once", options) as running:
        assert running.finished(prompt="dies")["status"] == "error"
        told = running.finished()
        assert told["error"] == {"message": "the backend could not be started again", "code": "BACKEND_ERROR"}


def test_what_a_backend_prints_goes_to_its_log_and_to_no_other_place(tmp_path: Path) -> None:
    log = tmp_path / "backend.log"
    with service(log=log) as running:
        told = running.finished(prompt="raises")
        assert running.finished()["status"] == "complete"
    assert "private" not in told["error"]["message"]
    text = log.read_text()
    assert "a private prompt" in text
    assert "printed by the backend" in text
    assert log.stat().st_mode & 0o077 == 0, "it is its owner's"


def test_beyond_loopback_a_token_is_wanted(fusi: Fusi, monkeypatch: pytest.MonkeyPatch) -> None:
    said = fusi("image-api", "--host", "0.0.0.0", "--port", "auto")
    assert said.code == 2
    assert "--token-env" in said.err
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    said = fusi("image-api", "--port", "auto", "--token-env", "NO_SUCH_TOKEN")
    assert said.code == 2
    assert "NO_SUCH_TOKEN" in said.err
    monkeypatch.setenv("SPACED", "two words")
    said = fusi("image-api", "--port", "auto", "--token-env", "SPACED")
    assert said.code == 2
    assert "two words" not in said.err


@pytest.mark.parametrize(
    "words",
    [("--port", "0"), ("--port", "65536"), ("--port", "x"), ("--queue-depth", "-1"), ("--cors-origin", "x"),
     ("--cors-origin", "https://a/b"), ("--backend", "none"), ("--model", "x"), ("--allow-download",),
     ("--backend", "diffusers"), ("--deadline", "0"), ("--grace", "-1")],
)  # fmt: skip
def test_options_that_cannot_be_used_end_it(fusi: Fusi, words: tuple[str, ...]) -> None:
    said = fusi("image-api", *words)
    assert said.code == 2
    assert words[0] in said.err


def test_a_port_that_is_taken_is_one_line(fusi: Fusi) -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        said = fusi("image-api", "--port", taken.getsockname()[1])
        assert said.code == 1
        assert "--port auto" in said.err
    with pytest.raises(AddressUnavailable):
        listen("no such host.invalid", 0)


def test_addresses_are_those_a_client_can_use() -> None:
    for host, shown, alone in (
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("::1", "[::1]", True),
    ):
        with contextlib.closing(listen(host, 0)) as listener:
            assert url_of(listener) == f"http://{shown}:{listener.getsockname()[1]}/"
            assert on_loopback(listener) == alone


@pytest.mark.parametrize("name", ["IMAGE_RESULT_TTL_MS", "IMAGE_CLEANUP_INTERVAL_MS"])
def test_times_of_the_environment_are_checked(name: str, fusi: Fusi, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_results_from({}) == ImageResults(ttl_ms=300_000, cleanup_ms=60_000)
    assert image_results_from({name: ""}) == ImageResults()
    found = image_results_from({name: " 250 "})
    assert 250 in (found.ttl_ms, found.cleanup_ms)
    for value in ("0", "-1", "1.5", "NaN", "soon", "1e3", "9" * 30, "٣"):
        with pytest.raises(SettingInvalid, match=name):
            image_results_from({name: value})
    monkeypatch.setenv(name, "NaN")
    said = fusi("image-api", "--port", "auto")
    assert (said.code, name in said.err) == (2, True)


# Slow clients


def slow(running: Service, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send pieces on a connection of one's own; return all that is answered until it is closed."""
    host, _, port = running.url.removeprefix("http://").rstrip("/").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(pause_s)
        answered = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answered += piece
        return answered


HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_connections_that_say_nothing_or_little_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_s", 0.2)
    with service() as running:
        assert slow(running) == b""
        assert (
            slow(running, *[b"GET / HT", b"TP/1.1\r\n", b"Host: l", b"ocal", b"host\r\nX: "], pause_s=0.08)
            == b""
        )
        drip = [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /hea"]
        assert slow(running, *drip, pause_s=0.05).count(b"200 OK") == 1
        assert running.finished()["status"] == "complete"


def test_many_slow_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_s", 5.0)
    with service() as running, contextlib.ExitStack() as stack:
        host, _, port = running.url.removeprefix("http://").rstrip("/").partition(":")
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nX-a: ")
        assert running.finished()["status"] == "complete"


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 5)
    with service() as running, contextlib.ExitStack() as stack:
        host, _, port = running.url.removeprefix("http://").rstrip("/").partition(":")
        for _ in range(5):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        answered = slow(running)
        assert b"503" in answered.partition(b"\r\n")[0]
        assert json.loads(answered.partition(b"\r\n\r\n")[2])["error"]["code"] == "SERVER_BUSY"


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    with service(intake=Intake(arrival_s=0.3)) as running:
        answered = slow(running, HEAD + b'Content-Length: 50\r\n\r\n{"prompt"', b': "', b"x", pause_s=0.2)
        assert b"408" in answered.partition(b"\r\n")[0]
        assert json.loads(answered.partition(b"\r\n\r\n")[2])["error"]["code"] == "REQUEST_TIMEOUT"
        assert running.finished()["status"] == "complete"


def test_what_is_no_http_has_the_shape_of_errors() -> None:
    with service() as running:
        for sent in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9000 + b"\r\n",
                     HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"):  # fmt: skip
            answered = slow(running, sent)
            assert b" 400 " in answered.partition(b"\r\n")[0]
            assert json.loads(answered.partition(b"\r\n\r\n")[2])["error"]["code"] == "INVALID_REQUEST"


def test_a_client_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stall_s", 0.3)
    with service() as running:
        name = str(running.finished()["id"])
        large = Drawing(base64="A" * (8 << 20), seed=0, width=16, height=16)
        running.studio.registry.found(name).drawings = (large,)
        host, _, port = running.url.removeprefix("http://").rstrip("/").partition(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            asked = f"GET {ROUTE}/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            connection.sendall(asked * 3)
            time.sleep(1.2)
            connection.settimeout(20)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(1 << 20):
                    received += len(piece)
            assert received < 8 << 20, "the rest of the answer was given up"
        assert running.client.get("/health").status_code == 200


def test_500_posts_at_once_are_all_answered() -> None:
    with service(queue_depth=3) as running:
        statuses: list[int] = []
        barrier = threading.Barrier(500)
        body = json.dumps({"prompt": "slow", "width": 16, "height": 16, "steps": 150}).encode()
        request = HEAD + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body

        def post() -> None:
            barrier.wait()
            statuses.append(int(slow(running, request).split(b" ", 2)[1]))

        threads = [threading.Thread(target=post) for _ in range(500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(statuses) == [201] * 4 + [503] * 496
        assert running.client.get(ROUTE).json()["total"] == 4

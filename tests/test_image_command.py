"""`fusi image`: the real server, the embedded stylizer, other protocols, and a server that lies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusi_pipeline import console
from layer_generation.commands.pictures import image
from layer_generation.image_api.guard import Access
from layer_generation.picture_making import CHUNK, output_paths
from tests.command import Answer
from tests.image_server import ImageServer
from tests.image_service import Service, noise, png, service

SMALL = ("--width", 16, "--height", 16, "--steps", 2)


@pytest.fixture
def fusi(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Return the command."""

    def run(*words: object) -> Answer:
        group = click.Group("fusi", commands={"image": image})
        given = group.make_context
        group.make_context = lambda name, args, **more: given(  # type: ignore[method-assign, misc]
            "fusi", ["image", *map(str, words)], **more
        )
        with pytest.raises(SystemExit) as end:
            console.main(group)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Answer(int(end.value.code or 0), out, err)

    return run


@pytest.fixture(scope="module")
def real() -> Iterator[Service]:
    with service(queue_depth=4) as one:
        yield one


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll soon; so do the commands, which have no option for it."""
    monkeypatch.setattr("layer_generation.endpoints.fusi.FIRST_POLL_S", 0.02)
    monkeypatch.setattr("layer_generation.endpoints.jobs._LONGEST_POLL_S", 0.05)


def facts_of(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        told: dict[str, Any] = json.loads(picture.info[CHUNK])
        return told


def pixels_of(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def saved(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def hole(rows: int, cols: int) -> np.ndarray[Any, Any]:
    mask = np.zeros((rows, cols), dtype=bool)
    mask[2:9, 4:13] = True
    return mask


# The real server


def test_a_picture_comes_with_how_it_was_made(
    real: Service, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "coast.png"
    words = ("a coast", "--server", real.url, "-o", out, *SMALL, "--seed", 7, "--negative", "fog", "--json")
    answer = fusi(*words)
    assert answer.code == 0, answer.err
    report = answer.json
    assert report["pictures"] == [
        {"path": str(out), "seed": 7, "width": 16, "height": 16, "bytes": out.stat().st_size}
    ]
    assert (pixels_of(out) == [7, 0, 2]).all(), "as the backend of the tests paints it"
    facts = facts_of(out)
    assert facts | {
        "prompt": "a coast", "negative_prompt": "fog", "seed": 7, "steps": 2, "width": 16, "height": 16,
    } == facts  # fmt: skip
    assert "draw 100/100 %" in answer.err
    assert list(out.parent.iterdir()) == [out]


def test_several_pictures_have_a_file_and_a_seed_each(
    real: Service, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = fusi("a", "--server", real.url, "-o", tmp_path / "x.png", *SMALL, "--count", 3, "--seed", 254)
    assert answer.code == 0, answer.err
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["x-1.png", "x-2.png", "x-3.png"]
    assert [facts_of(tmp_path / f"x-{number}.png")["seed"] for number in (1, 2, 3)] == [254, 255, 256]
    assert pixels_of(tmp_path / "x-3.png")[0, 0].tolist() == [0, 1, 2]


def test_without_a_seed_the_servers_is_told(
    real: Service, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    seeds = []
    for name in ("a.png", "b.png"):
        assert fusi("a", "--server", real.url, "-o", tmp_path / name, *SMALL).code == 0
        seeds.append(facts_of(tmp_path / name)["seed"])
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("server", ["real", "builtin"])
def test_what_the_mask_leaves_out_is_as_it_was(
    real: Service, fusi: Callable[..., Answer], tmp_path: Path, server: str
) -> None:
    start = noise(24, 16)
    mask = hole(16, 24)
    words = (
        "--image", saved(tmp_path / "in.png", start), "--mask", saved(tmp_path / "mask.png", mask),
        "--strength", 1, "--steps", 2, "-o", tmp_path / "out.png",
    )  # fmt: skip
    answer = fusi("snow", "--server", real.url if server == "real" else server, *words)
    assert answer.code == 0, answer.err
    drawn = pixels_of(tmp_path / "out.png")
    assert np.array_equal(drawn[~mask], start[~mask])
    assert not np.array_equal(drawn[mask], start[mask])


def test_a_token_is_sent(
    fusi: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame")
    with service(access=Access(loopback_only=True, token="sesame")) as one:
        words = ("a", "--server", one.url, "-o", tmp_path / "out.png", *SMALL)
        refused = fusi(*words)
        assert refused.code == 1
        assert "the key is refused" in refused.err
        assert fusi(*words, "--token-env", "MY_TOKEN").code == 0


def test_a_refusal_says_the_field(real: Service, fusi: Callable[..., Answer], tmp_path: Path) -> None:
    answer = fusi("a", "--server", real.url, "-o", tmp_path / "out.png", *SMALL, "--sampler", "none")
    assert answer.code == 1
    assert "sampler must be one of euler_a, euler" in answer.said[-1]
    assert not list(tmp_path.iterdir())


def test_a_busy_server_is_waited_for(fusi: Callable[..., Answer], tmp_path: Path) -> None:
    with service(options={"pace_s": 0.0}) as one:
        other = one.begin(prompt="slow coast", steps=20)
        words = ("a", "--server", one.url, "-o", tmp_path / "out.png", *SMALL, "--progress-interval", 0)
        answer = fusi(*words)
        assert answer.code == 0, answer.err
        assert "the server is busy" in answer.err
        assert one.poll(other)["status"] == "complete"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_on_the_server(
    fusi: Callable[..., Answer], tmp_path: Path, number: signal.Signals
) -> None:
    with service() as one:

        def interrupt() -> None:
            _until(lambda: one.client.get("/health").json()["busy"])
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt)
        thread.start()
        answer = fusi("slow a", "--server", one.url, "-o", tmp_path / "out.png", *SMALL[:4], "--steps", 150)
        thread.join()
        assert answer.code == 130, answer.err
        assert answer.said[-1] == "fusi: interrupted; what was asked of the server is cancelled"
        _until(lambda: not one.client.get("/health").json()["busy"])
        assert not list(tmp_path.iterdir())


def _until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("never")


# Others


def test_the_embedded_stylizer_needs_no_server(fusi: Callable[..., Answer], tmp_path: Path) -> None:
    words = ("winter", "--width", 48, "--height", 32, "--seed", 5)
    for name in ("a.png", "b.png"):
        assert fusi(*words, "-o", tmp_path / name).code == 0
    assert np.array_equal(pixels_of(tmp_path / "a.png"), pixels_of(tmp_path / "b.png"))
    assert facts_of(tmp_path / "a.png")["server"] == "builtin:pixelart"


def test_a_model_server_of_a_file_redraws(fusi: Callable[..., Answer], tmp_path: Path) -> None:
    start = noise(16, 24)
    with ImageServer() as one:
        for name in ("a1111", "fusi"):
            config = one.config(name)
            entry = {"name": name, "url": config.url, "protocol": name, "params": dict(config.params)}
            file = tmp_path / "endpoints.json"
            file.write_text(json.dumps([entry, {"name": "other", "url": "builtin:pixelart"}]))
            words = (
                "a",
                "--endpoint",
                name,
                "--endpoints",
                file,
                "-o",
                tmp_path / f"{name}.png",
                "--count",
                1,
            )
            answer = fusi(*words, "--image", saved(tmp_path / "in.png", start))
            assert answer.code == 0, answer.err
            assert np.array_equal(pixels_of(tmp_path / f"{name}.png"), 255 - start)
    assert fusi("a", "--endpoint", "a1111", "--endpoints", file, "-o", tmp_path / "c.png").code == 2
    answer = fusi("a", "--endpoint", "other", "--endpoints", file, "-o", tmp_path / "c.png", *SMALL)
    assert answer.code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", "-o", "out.jpg"), "ends in .png"),
        ((" ", "-o", "out.png"), "PROMPT is empty"),
        (("a", "-o", "out.png", "--server", "ftp://x"), "expected builtin or http"),
        (("a", "-o", "out.png", "--mask", "m.png"), "--mask needs a picture"),
        (("a", "-o", "out.png", "--strength", "0.5"), "--strength needs a picture"),
        (("a", "-o", "out.png", "--image", "none.png"), "none.png: No such file"),
        (("a", "-o", "out.png", "--endpoint", "x"), "name the file"),
        (("a", "-o", "out.png", "--sampler", "euler"), "mean nothing to builtin"),
        (("a", "-o", "out.png", "--server", "http://x", "--token-env", "NOT_SET_ANYWHERE"), "is not set"),
        (("a", "-o", "out.png", "--server", "http://x", "--endpoint", "y"), "exclude each other"),
    ],
)
def test_what_is_given_wrongly_is_told(
    fusi: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = fusi(*words)
    assert answer.code in (1, 2)
    assert said in answer.said[-1]
    assert not list(tmp_path.iterdir())


def test_pictures_that_do_not_fit_are_told(fusi: Callable[..., Answer], tmp_path: Path) -> None:
    start, mask = saved(tmp_path / "in.png", noise(16, 24)), saved(tmp_path / "mask.png", hole(16, 16))
    words = ("a", "-o", tmp_path / "out.png", "--image", start)
    assert "must be of one size" in fusi(*words, "--mask", mask).err
    assert "leave out --width" in fusi(*words, "--width", 32).err
    start.write_bytes(b"no picture")
    assert "does not decode" in fusi(*words).err


def test_the_file_of_another_is_left_alone(fusi: Callable[..., Answer], tmp_path: Path) -> None:
    out = saved(tmp_path / "out.png", noise(16, 16))
    before = out.read_bytes()
    words = ("a", "-o", out, *SMALL)
    assert fusi(*words).code == 2
    assert out.read_bytes() == before
    assert fusi(*words, "--overwrite").code == 0
    assert fusi(*words, "--seed", 3).code == 0, "one of this command is replaced"
    assert facts_of(out)["seed"] == 3


@given(st.integers(1, 5), st.sampled_from(["a.png", "b/c.PNG", "x.y.png"]))
def test_files_are_as_many_as_pictures(count: int, name: str) -> None:
    paths = output_paths(Path(name), count)
    assert len(set(paths)) == count
    assert all(path.suffix == Path(name).suffix and path.parent == Path(name).parent for path in paths)


# A server that lies


@dataclass
class Liar:
    """A server of the API that answers what it is told to."""

    accepts: tuple[int, Mapping[str, str], Any] = (201, {}, {"id": "gen_1", "status": "pending"})
    polls: list[tuple[int, Any]] = field(default_factory=list)
    """Statuses and documents, the last one again and again."""
    url: str = ""
    posts: int = 0
    asked: int = 0
    cancelled: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def liar() -> Iterator[Liar]:
    one = Liar()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            one.fields = json.loads(self.rfile.read(int(self.headers["content-length"])))
            one.posts += 1
            status, headers, body = one.accepts
            self._send(status, body, headers)

        def do_GET(self) -> None:
            one.asked += 1
            self._send(*one.polls[min(one.asked, len(one.polls)) - 1])

        def do_DELETE(self) -> None:
            one.cancelled += 1
            self._send(200, {"id": "gen_1", "status": "cancelled"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield one
    server.shutdown()
    server.server_close()
    thread.join()


def under_way(percentage: Any = 10, **more: Any) -> tuple[int, Any]:
    progress = {"currentStep": 1, "totalSteps": 2, "stage": "diffusion", "percentage": percentage, **more}
    return 200, {"id": "gen_1", "status": "in_progress", "progress": progress}


def complete(*images: Any) -> tuple[int, Any]:
    listed = [{"image": one, "seed": 4} if isinstance(one, str) else one for one in images]
    return 200, {"id": "gen_1", "status": "complete", "result": {"images": listed, "format": "png"}}


GOOD = complete(png(noise(16, 16)))


def test_progress_that_goes_back_is_shown_as_it_was(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    liar.polls = [
        *(under_way(value) for value in (50, 20, -3, 500, "x", None, True)),
        under_way(60, stage=7, currentImage=99, totalImages=-1), (200, {"status": "pending", "position": -4}),
        GOOD,
    ]  # fmt: skip
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL, "--progress-interval", 0)
    assert answer.code == 0, answer.err
    shown = [int(line.split()[1].partition("/")[0]) for line in answer.err.splitlines() if line[:4] == "draw"]
    assert shown == sorted(shown)
    assert shown.count(100) == 1
    assert liar.posts == 1


def test_a_picture_that_is_never_finished_is_given_up_and_cancelled(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    liar.polls = [under_way()]
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL, "--timeout", 0.4)
    assert answer.code == 1
    assert "no picture within 0.4 s" in answer.err
    assert (liar.posts, liar.cancelled) == (1, 1)


LIES: dict[str, tuple[tuple[int, Any], str]] = {
    "no picture": (complete(), "0 of 1 pictures"),
    "text": (complete("this is no base64!"), "no base64"),
    "no png": (complete("aGVsbG8gd29ybGQ="), "does not decode"),
    "null": (complete(None), "no picture where one should be"),
    "another size": (complete(png(noise(8, 8))), "8 x 8 px, not 16 x 16"),
    "no json": ((200, b"<html><title>Hello</title>"), "without a picture"),
    "no status": ((200, {"id": "gen_1"}), "without a status"),
    "a status nobody knows": ((200, {"status": "paused"}), "not known (paused)"),
    "cancelled by another": ((200, {"status": "cancelled"}), "was cancelled"),
    "an error of its own": (
        (200, {"status": "error", "error": {"message": "no memory", "code": "OUT_OF_MEMORY"}}),
        "OUT_OF_MEMORY: no memory",
    ),
    "an error that is a text": ((200, {"status": "error", "error": "broken"}), "broken"),
    "failing for ever": ((500, {"error": {"message": "oh", "code": "INTERNAL_ERROR"}}), "HTTP 500"),
    "a key refused": ((401, {"error": {"message": "no"}}), "the key is refused"),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_an_error_and_no_file(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path, lie: str
) -> None:
    told, said = LIES[lie]
    liar.polls = [under_way(), told]
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL)
    assert answer.code == 1
    assert said in answer.said[-1]
    assert len(answer.said) == 1
    assert liar.posts == 1, "never sent twice"
    assert not list(tmp_path.iterdir())


def test_an_id_that_is_gone_is_asked_for_once_more(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    lost = (404, {"error": {"message": "Generation not found", "code": "NOT_FOUND"}})
    liar.polls = [under_way(), lost]
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL)
    assert answer.code == 1
    assert "lost the job" in answer.err
    assert liar.posts == 2
    liar.polls, liar.asked, liar.posts = [lost, lost, GOOD], 0, 0
    assert fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL).code == 0
    assert liar.posts == 2


def test_an_answer_without_end_is_cut(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layer_generation.endpoints.exchange.MOST_BYTES", 1 << 20)
    liar.polls = [(200, b" " * (2 << 20))]
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL)
    assert answer.code == 1
    assert "answers with more than" in answer.err


@pytest.mark.parametrize(
    ("status", "headers", "code", "posts"),
    [(400, {}, 1, 1), (413, {}, 1, 1), (500, {}, 1, 1), (503, {"Retry-After": "0.2"}, 1, 3)],
)
def test_only_a_server_that_did_not_take_it_is_asked_again(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path, status: int, headers: dict[str, str],
    code: int, posts: int,
) -> None:  # fmt: skip
    liar.accepts = (status, headers, {"error": {"message": "no", "code": "X"}})
    words = ("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL, "--timeout", 0.55)
    answer = fusi(*words)
    assert answer.code == code
    assert f"HTTP {status}" in answer.said[-1]
    assert 2 <= liar.posts <= posts if posts > 1 else liar.posts == 1


def test_a_post_without_an_id_is_not_sent_again(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    liar.accepts = (201, {}, {"status": "pending"})
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL)
    assert "answers without the id of a job" in answer.err
    assert liar.posts == 1


@pytest.mark.parametrize("job", ["x" * 100_000, "a\n\x00b", "../x", "a?b", "..", "\ud800"])
def test_an_id_that_fits_no_address_is_told(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path, job: str
) -> None:
    liar.accepts = (201, {}, {"id": job, "status": "pending"})
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL)
    assert answer.code == 1
    assert "answers with a job's id" in answer.said[-1]
    assert len(answer.said[-1]) < 500
    assert (liar.posts, liar.asked) == (1, 0)


@pytest.mark.parametrize(
    "told", [LIES["no status"][0], LIES["no json"][0], LIES["failing for ever"][0], LIES["a key refused"][0],
             (404, {})]
)  # fmt: skip
def test_a_job_that_is_given_up_is_cancelled(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path, told: tuple[int, Any]
) -> None:
    liar.polls = [under_way(), told]
    assert fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL).code == 1
    assert liar.cancelled == liar.posts, "each job that was begun"


def test_a_server_that_asks_for_too_long_a_wait_is_quoted(
    liar: Liar, fusi: Callable[..., Answer], tmp_path: Path
) -> None:
    liar.accepts = (503, {"Retry-After": "99999"}, {"error": {"message": "no", "code": "X"}})
    answer = fusi("a", "--server", liar.url, "-o", tmp_path / "o.png", *SMALL, "--timeout", 1)
    assert answer.code == 1
    assert "asks to wait 99999 s" in answer.said[-1]
    assert liar.posts == 1


def test_a_server_that_is_killed_while_it_draws_may_have_lost_a_picture() -> None:
    import httpx

    from layer_generation.endpoints.base import EndpointUnreached
    from layer_generation.endpoints.fusi import Fusi
    from layer_generation.layer_config import EndpointConfig
    from layer_generation.picture_makers import ServerMaker, Wanted
    from layer_generation.picture_making import PictureFailed

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, json={"id": "x"})
        raise httpx.ConnectError("Connection refused", request=request)

    config = EndpointConfig(name="a", url="http://a.example/", protocol="fusi", params={"poll_s": 0.001})
    maker = ServerMaker(Fusi(config, transport=httpx.MockTransport(reply)), 9.0)
    with pytest.raises(EndpointUnreached, match="a picture was under way there and may be lost") as caught:
        maker.make(Wanted(prompt="a"), threading.Event(), lambda told: None)
    assert "lost; start a server with" in str(PictureFailed("a", caught.value))


@pytest.mark.parametrize("server", ["builtin", "http://127.0.0.1:9"])
@pytest.mark.parametrize("option", ["PROMPT", "--negative", "--sampler", "--model"])
def test_a_text_that_is_not_utf8_is_named(
    fusi: Callable[..., Answer], tmp_path: Path, server: str, option: str
) -> None:
    bad = os.fsdecode(b"caf\xe9")
    words = (bad,) if option == "PROMPT" else ("a", option, bad)
    answer = fusi(*words, "--server", server, "-o", tmp_path / "o.png", *SMALL)
    assert answer.code == 2
    assert answer.said == [f"fusi: {option} is not UTF-8 (character 4); write it in UTF-8"]
    assert not list(tmp_path.iterdir())


def test_without_a_server_an_interruption_promises_nothing(
    fusi: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("layer_generation.picture_makers.BuiltinMaker.make", interrupted)
    answer = fusi("a", "-o", tmp_path / "o.png", *SMALL)
    assert (answer.code, answer.said[-1]) == (130, "fusi: interrupted; no picture was written")


def test_no_server_says_how_to_start_one(fusi: Callable[..., Answer], tmp_path: Path) -> None:
    answer = fusi("a", "--server", "http://127.0.0.1:9", "-o", tmp_path / "o.png", *SMALL)
    assert answer.code == 1
    assert "fusi image-api" in answer.said[-1]


def test_what_is_not_asked_for_is_not_sent(liar: Liar, fusi: Callable[..., Answer], tmp_path: Path) -> None:
    liar.polls = [complete(png(noise(40, 24)))]
    assert fusi("a", "--server", liar.url, "-o", tmp_path / "o.png").code == 0
    assert liar.fields == {"prompt": "a"}


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["status", "progress", "percentage", "stage", "currentImage", "position", "error",
                             "result", "images", "image", "seed", "message", "code"]),
            inner | st.sampled_from(["in_progress", "complete", "error", "pending"]), max_size=4,
        )
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=3))
def test_any_document_is_a_state_or_a_typed_error(documents: list[Any]) -> None:
    import httpx

    from layer_generation.endpoints.base import EndpointError
    from layer_generation.endpoints.fusi import Fusi
    from layer_generation.layer_config import EndpointConfig
    from layer_generation.picture_makers import ServerMaker, Wanted

    left = iter(documents)

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, json={"id": "x"})
        return httpx.Response(200, content=json.dumps(next(left, documents[-1])))

    config = EndpointConfig(
        name="a", url="http://a.example/", protocol="fusi", timeout_s=0.03, params={"poll_s": 0.001}
    )
    maker = ServerMaker(Fusi(config, transport=httpx.MockTransport(reply)), 0.03)
    with pytest.raises(EndpointError):
        maker.make(Wanted(prompt="a"), threading.Event(), lambda told: None)

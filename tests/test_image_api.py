"""The image server over HTTP: every row of its contract."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from layer_generation.image_api.body import Intake
from layer_generation.image_api.guard import Access
from layer_generation.image_api.registry import Limits
from tests.image_service import ROUTE, SMALL, Service, noise, pixels_of, png, service


@pytest.fixture(scope="module")
def roomy() -> Iterator[Service]:
    """A server with a queue, for tests that do not fill it."""
    with service(queue_depth=1000) as running:
        yield running


@pytest.fixture(scope="module")
def lone() -> Iterator[Service]:
    """A server that takes one generation at a time."""
    with service() as running:
        yield running


def error_of(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Return the error of an answer, which has the one shape that errors have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert set(told) == {"error"}
    assert {"message", "code"} <= set(told["error"]) <= {"message", "code", "suggestion"}
    assert told["error"]["code"] == code
    assert told["error"]["message"]
    error: dict[str, Any] = told["error"]
    return error


# Begin, poll, result


def test_a_post_is_answered_at_once_with_id_status_and_time(lone: Service) -> None:
    before = time.time() * 1000
    answer = lone.post()
    told = answer.json()
    assert answer.status_code == 201
    assert set(told) == {"id", "status", "createdAt"}
    assert re.fullmatch(r"gen_[0-9a-f]{32}", told["id"])
    assert told["status"] == "pending"
    assert before - 1 <= told["createdAt"] <= time.time() * 1000 + 1
    assert answer.headers["location"] == f"{ROUTE}/{told['id']}"
    assert lone.until(told["id"])["createdAt"] == told["createdAt"]


def test_a_poll_goes_from_pending_over_progress_to_the_result(lone: Service) -> None:
    name = lone.begin(prompt="slow coast", steps=6, seed=258, width=24, height=16)
    seen = []
    while (told := lone.poll(name))["status"] not in ("complete", "error"):
        seen.append(told)
        time.sleep(0.01)
    assert {one["status"] for one in seen} <= {"pending", "in_progress"}
    under_way = [one["progress"] for one in seen if one["status"] == "in_progress" and "progress" in one]
    assert under_way
    for progress in under_way:
        assert set(progress) == {"currentStep", "totalSteps", "stage", "percentage"}
        assert progress["stage"] in ("loading", "diffusion", "decoding")
        assert 0 <= progress["percentage"] < 100
    assert [one["percentage"] for one in under_way] == sorted(one["percentage"] for one in under_way)
    assert set(told) == {"id", "status", "createdAt", "updatedAt", "result"}
    result = told["result"]
    assert result["format"] == "png"
    assert result["timeTaken"] >= 6 * 50
    (image,) = result["images"]
    assert (image["seed"], image["width"], image["height"]) == (258, 24, 16)
    assert pixels_of(image).shape == (16, 24, 3)
    assert (pixels_of(image) == [2, 1, 6]).all()


def test_a_failure_is_told_with_message_and_code(lone: Service) -> None:
    told = lone.finished(prompt="fails always")
    assert told["status"] == "error"
    assert set(told) == {"id", "status", "createdAt", "updatedAt", "error"}
    assert told["error"] == {"message": "no such colour", "code": "BACKEND_ERROR"}


@pytest.mark.parametrize(
    ("word", "code"),
    [("starves", "OUT_OF_MEMORY"), ("small", "BACKEND_ERROR"), ("raises", "BACKEND_ERROR"),
     ("exits", "BACKEND_ERROR"), ("dies", "BACKEND_ERROR")],
)  # fmt: skip
def test_whatever_a_backend_does_wrong_fails_one_generation(lone: Service, word: str, code: str) -> None:
    told = lone.finished(prompt=f"{word} of a private prompt")
    assert told["status"] == "error"
    assert told["error"]["code"] == code
    assert "private" not in told["error"]["message"]
    assert "/" not in told["error"]["message"]
    assert lone.finished()["status"] == "complete"


def test_what_a_backend_prints_is_no_answer(lone: Service) -> None:
    assert lone.finished(prompt="babbles")["status"] == "complete"


def test_an_unknown_id_is_not_found(lone: Service) -> None:
    for name in ("gen_" + "0" * 32, "x", "gen_%00", "..%2f"):
        error_of(lone.client.get(f"{ROUTE}/{name}"), 404, "NOT_FOUND")
        error_of(lone.cancel(name), 404, "NOT_FOUND")


# Busy


def test_of_two_requests_one_is_busy_until_the_other_has_ended(lone: Service) -> None:
    name = lone.begin(prompt="slow", steps=4)
    answer = lone.post()
    error = error_of(answer, 503, "SERVER_BUSY")
    assert error["suggestion"]
    assert int(answer.headers["retry-after"]) >= 1
    lone.until(name)
    assert lone.finished()["status"] == "complete"


def test_a_batch_is_busy_between_its_pictures_too(lone: Service) -> None:
    name = lone.begin(count=5, prompt="slow", steps=2)
    refused = 0
    while True:
        answer = lone.post()
        if lone.poll(name)["status"] not in ("pending", "in_progress"):
            break
        error_of(answer, 503, "SERVER_BUSY")
        refused += 1
    assert refused
    if answer.status_code == 201:
        lone.until(answer.json()["id"])


def posts(running: Service, count: int) -> list[int]:
    """Return the statuses of requests that are sent together."""
    barrier = threading.Barrier(count)

    def one(_: int) -> int:
        barrier.wait()
        return running.post(prompt="slow", steps=40).status_code

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(one, range(count)))


@pytest.mark.parametrize("depth", [0, 3])
def test_of_requests_that_come_together_one_and_the_depth_are_accepted(depth: int) -> None:
    with service(queue_depth=depth) as running:
        assert posts(running, 40) == [201] * (1 + depth) + [503] * (39 - depth)
        listed = running.client.get(ROUTE).json()
        assert listed["total"] == 1 + depth
        waiting = [one for one in listed["data"] if one["status"] == "pending"]
        assert sorted(one["position"] for one in waiting)[-depth:] == list(range(1, depth + 1))[-depth:]


def test_a_queue_is_served_in_order_and_says_the_place() -> None:
    with service(queue_depth=2) as running:
        first = running.post(prompt="slow", steps=10)
        running.until(first.json()["id"], "in_progress")
        second, third = running.post(), running.post()
        assert "position" not in first.json()
        assert (second.json()["position"], third.json()["position"]) == (1, 2)
        assert "queue" in error_of(running.post(), 503, "SERVER_BUSY")["message"]
        assert running.poll(third.json()["id"])["position"] == 2
        running.cancel(second.json()["id"])
        assert running.poll(third.json()["id"])["position"] == 1
        health = running.client.get("/health").json()
        assert (health["busy"], health["queued"], health["queueDepth"]) == (True, 1, 2)
        told = running.until(third.json()["id"])
        assert running.poll(first.json()["id"])["updatedAt"] <= told["updatedAt"]
        assert "position" not in told


# Batches and seeds


def test_a_batch_takes_seeds_one_after_another(roomy: Service) -> None:
    told = roomy.finished(count=3, seed=41)
    assert [one["seed"] for one in told["result"]["images"]] == [41, 42, 43]
    assert [int(pixels_of(one)[0, 0, 0]) for one in told["result"]["images"]] == [41, 42, 43]


def test_a_seed_of_0_is_a_seed_and_the_largest_wraps(roomy: Service) -> None:
    assert roomy.finished(seed=0)["result"]["images"][0]["seed"] == 0
    told = roomy.finished(seed=2**32 - 1, count=2)
    assert [one["seed"] for one in told["result"]["images"]] == [2**32 - 1, 0]


@pytest.mark.parametrize("fields", [{}, {"seed": -1}])
def test_without_a_seed_each_picture_has_a_fresh_one(roomy: Service, fields: dict[str, int]) -> None:
    told = [roomy.finished(count=3, **fields)["result"]["images"] for _ in range(2)]
    seeds = [one["seed"] for images in told for one in images]
    assert len(set(seeds)) == 6
    again = roomy.finished(seed=seeds[4])["result"]["images"][0]
    assert again["image"] == told[1][1]["image"]


def test_progress_of_a_batch_says_which_picture_and_never_falls(roomy: Service) -> None:
    name = roomy.begin(prompt="slow", count=3, steps=4)
    seen = []
    while (told := roomy.poll(name))["status"] != "complete":
        if "progress" in told:
            seen.append(told["progress"])
    assert all(one["totalImages"] == 3 for one in seen)
    assert [one["currentImage"] for one in seen] == sorted(one["currentImage"] for one in seen)
    assert {one["currentImage"] for one in seen} == {1, 2, 3}
    assert all(one["percentage"] < 100 for one in seen)
    assert [one["percentage"] for one in seen] == sorted(one["percentage"] for one in seen)
    for one in seen:
        assert (
            100 / 3 * (one["currentImage"] - 1) - 0.01 <= one["percentage"] <= 100 / 3 * one["currentImage"]
        )


def test_a_failure_in_a_batch_names_the_picture(roomy: Service) -> None:
    told = roomy.finished(prompt="odd", seed=2, count=3)
    assert told["error"]["message"] == "Generation failed on image 2 of 3: an odd seed"
    assert "result" not in told


def test_progress_that_lies_stays_within_bounds(roomy: Service) -> None:
    name = roomy.begin(prompt="boasts", steps=1)
    while (told := roomy.poll(name))["status"] != "complete":
        if "progress" in told:
            assert 0 <= told["progress"]["percentage"] < 100
            assert 0 <= told["progress"]["currentStep"] <= max(told["progress"]["totalSteps"], 0)


# Cancel


def test_cancelling_halts_and_is_idempotent(lone: Service) -> None:
    name = lone.begin(prompt="slow", steps=150, count=5)
    lone.until(name, "in_progress")
    pid = lone.studio._artist.pid
    for _ in range(2):
        answer = lone.cancel(name)
        assert answer.status_code == 200
        assert answer.json() == {"id": name, "status": "cancelled"}
    told = lone.poll(name)
    assert set(told) == {"id", "status", "createdAt", "updatedAt"}
    assert lone.finished()["status"] == "complete"
    assert lone.poll(name) == told
    assert lone.studio._artist.pid == pid, "a backend that stops in time is not begun anew"


@pytest.mark.parametrize("word", ["hangs", "deaf"])
def test_a_backend_that_does_not_stop_is_ended(lone: Service, word: str) -> None:
    name = lone.begin(prompt=word, steps=150)
    while lone.poll(name).get("progress", {}).get("percentage", 0) < 5:
        time.sleep(0.005)
    pid = lone.studio._artist.pid
    lone.cancel(name)
    assert lone.finished()["status"] == "complete"
    assert lone.studio._artist.pid != pid


@pytest.mark.parametrize("prompt", ["a coast", "fails"])
def test_what_has_ended_is_not_cancelled(lone: Service, prompt: str) -> None:
    told = lone.finished(prompt=prompt)
    error = error_of(lone.cancel(told["id"]), 409, "ALREADY_TERMINAL")
    assert "cannot be cancelled" in error["message"]
    assert lone.poll(told["id"]) == told


def test_what_waits_is_cancelled_and_never_drawn(roomy: Service) -> None:
    first = roomy.begin(prompt="slow", steps=10)
    second = roomy.begin()
    assert roomy.cancel(second).status_code == 200
    roomy.until(first)
    assert roomy.finished()["status"] == "complete"
    assert roomy.poll(second)["status"] == "cancelled"


# Deadline, hang, life time


def test_a_generation_that_takes_too_long_is_ended_and_the_next_one_is_drawn() -> None:
    with service(deadline_s=1) as running:
        told = running.finished(prompt="hangs")
        assert told["error"] == {"message": "No picture within 1 s", "code": "TIMEOUT_ERROR"}
        told = running.finished(prompt="stalls", count=3, seed=2)
        assert told["error"]["code"] == "TIMEOUT_ERROR"
        assert told["error"]["message"] == "Generation failed on image 2 of 3: No picture within 1 s"
        assert running.finished()["status"] == "complete"


def test_finished_generations_expire_and_their_bytes_go() -> None:
    limits = Limits(ttl_ms=150, queue_depth=50)
    with service(limits=limits, cleanup_ms=20) as running:
        slow = running.begin(prompt="slow", steps=12)
        names = [running.begin() for _ in range(10)]
        running.until(slow)
        assert running.until(names[-1])["status"] == "complete"
        while running.client.get(ROUTE).json()["total"]:
            time.sleep(0.01)
        error_of(running.client.get(f"{ROUTE}/{names[0]}"), 404, "NOT_FOUND")
        while len(running.studio.registry):
            time.sleep(0.01)
        assert running.studio.registry.stored_bytes == 0


def test_a_soak_holds_no_more_than_it_may() -> None:
    limits = Limits(ttl_ms=10_000, stored_bytes=40_000, queue_depth=50)
    with service(limits=limits, options={}) as running:
        held = []
        for number in range(12):
            names = [running.begin(width=64, height=64, seed=number * 40 + one, steps=1) for one in range(10)]
            running.until(names[-1])
            held.append(running.studio.registry.stored_bytes)
            assert held[-1] <= limits.stored_bytes
        assert len(running.studio.registry) < 120 or max(held) < limits.stored_bytes
        assert running.poll(names[-1])["status"] == "complete"


# Idempotency


def keyed(running: Service, key: str, **fields: Any) -> Any:
    return running.client.post(
        ROUTE, json={"prompt": "a coast", **SMALL, **fields}, headers={"Idempotency-Key": key}
    )


def test_a_key_has_its_first_answer_again_whatever_became_of_it(lone: Service) -> None:
    first = keyed(lone, "k1", prompt="slow", steps=5)
    again = keyed(lone, "k1", prompt="slow", steps=5)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    lone.until(first.json()["id"])
    reordered = lone.client.post(
        ROUTE,
        content=json.dumps({"steps": 5, "height": 16, "width": 16, "prompt": "slow"}, indent=3),
        headers={"Idempotency-Key": "k1"},
    )
    assert reordered.json() == first.json()
    error_of(keyed(lone, "k1", prompt="another"), 409, "IDEMPOTENCY_KEY_REUSED")
    assert lone.finished()["status"] == "complete"


def test_one_key_in_many_requests_at_once_is_one_generation() -> None:
    with service(queue_depth=50) as running, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: keyed(running, "same").json(), range(20)))
        assert len({one["id"] for one in answers}) == 1
        assert running.client.get(ROUTE).json()["total"] == 1


def test_a_key_that_was_refused_is_free_and_one_that_expired_too() -> None:
    with service(limits=Limits(ttl_ms=50), cleanup_ms=10) as running:
        running.begin(prompt="slow", steps=4)
        error_of(keyed(running, "k"), 503, "SERVER_BUSY")
        while (first := keyed(running, "k")).status_code == 503:
            time.sleep(0.02)
        assert first.status_code == 201
        time.sleep(0.3)
        assert keyed(running, "k", seed=4).status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "ä".encode().decode("latin-1"), "x" * 256])
def test_a_key_that_is_none_is_refused(lone: Service, key: str) -> None:
    answer = lone.client.post(
        ROUTE, json={"prompt": "x"}, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    assert "Idempotency-Key" in error_of(answer, 400, "INVALID_REQUEST")["message"]


# Pictures to start from


def test_known_pixels_stay_and_the_size_is_that_of_the_picture(roomy: Service) -> None:
    image = noise(40, 24)
    mask = np.zeros((24, 40), np.uint8)
    mask[8:, 16:] = 255
    told = roomy.client.post(
        ROUTE, json={"prompt": "x", "image": png(image), "mask": png(mask), "seed": 5, "steps": 3}
    ).json()
    drawn = pixels_of(roomy.until(told["id"])["result"]["images"][0])
    assert (drawn[mask == 0] == image[mask == 0]).all()
    assert (drawn[mask == 255] == [5, 0, 3]).all()


# Lists, models, health


def test_the_list_is_newest_first_and_limited(roomy: Service) -> None:
    names = [roomy.begin(seed=number) for number in range(4)]
    roomy.until(names[-1])
    told = roomy.client.get(ROUTE, params={"limit": 3}).json()
    assert [one["id"] for one in told["data"]] == names[:0:-1]
    assert told["total"] >= 4
    assert all("result" not in one and "prompt" not in one for one in told["data"])
    for limit in ("0", "101", "x", "1.5"):
        error = error_of(roomy.client.get(ROUTE, params={"limit": limit}), 400, "INVALID_REQUEST")
        assert "limit" in error["message"]


def test_models_say_what_a_request_may_name(roomy: Service) -> None:
    told = roomy.client.get("/v1/models").json()
    assert [one["id"] for one in told["data"]] == ["actor", "understudy"]
    assert [one["default"] for one in told["data"]] == [True, False]
    assert told["data"][0]["samplers"] == ["euler_a", "euler"]
    assert roomy.finished(model="understudy", sampler="euler")["status"] == "complete"
    assert "actor, understudy" in error_of(roomy.post(model="x"), 400, "INVALID_REQUEST")["message"]
    assert "euler_a" in error_of(roomy.post(sampler="heun"), 400, "INVALID_REQUEST")["message"]


def test_health_says_whether_it_is_busy(lone: Service) -> None:
    name = lone.begin(prompt="slow", steps=4)
    lone.until(name, "in_progress")
    assert lone.client.get("/health").json()["busy"] is True
    lone.until(name)
    assert lone.client.get("/health").json() == {
        "status": "ok", "busy": False, "queued": 0, "queueDepth": 0, "backend": "actor",
    }  # fmt: skip


def test_health_is_busy_until_what_was_cancelled_has_stopped() -> None:
    """The backend hears no wish to stop: its process is ended, a while after the cancellation."""
    with service(stop_s=2.0) as running:
        name = running.begin(prompt="hangs")
        running.until(name, "in_progress")
        assert running.cancel(name).status_code == 200
        assert running.client.get("/health").json()["busy"] is True
        while running.client.get("/health").json()["busy"]:
            time.sleep(0.01)
        assert running.finished()["status"] == "complete"


# Errors have one shape


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "NOT_FOUND"), ("GET", ROUTE + "/", 404, "NOT_FOUND"),
     ("GET", "/page/../app.py", 404, "NOT_FOUND"), ("GET", "/page/nothing.js", 404, "NOT_FOUND"),
     ("PUT", ROUTE, 405, "METHOD_NOT_ALLOWED"), ("OPTIONS", ROUTE, 405, "METHOD_NOT_ALLOWED"),
     ("POST", "/health", 405, "METHOD_NOT_ALLOWED")],
)  # fmt: skip
def test_every_refusal_has_the_shape_of_errors(
    lone: Service, method: str, path: str, status: int, code: str
) -> None:
    answer = lone.client.request(method, path)
    error_of(answer, status, code)
    if status == 405:
        assert answer.headers["allow"] == ("GET, POST" if path == ROUTE else "GET")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b'{"prompt": NaN}', b'{"prompt": "x", "seed": Infinity}',
     b'{"prompt": "x", "prompt": "y"}', b"\xff\xfe{}", b'{"a":' * 100_000, b'{"prompt": "x", "seed": 1e999}',
     b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", b'{"prompt": "\\ud800"}',
     b'\xef\xbb\xbf{"prompt": "x"}'],
)  # fmt: skip
def test_what_is_no_request_is_refused(lone: Service, body: bytes) -> None:
    answer = lone.client.post(ROUTE, content=body, headers={"Content-Type": "application/json"})
    error_of(answer, 400, "INVALID_REQUEST")


def test_other_kinds_of_bodies_are_refused(lone: Service) -> None:
    body = json.dumps({"prompt": "x"}).encode()
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data; boundary=x"},
                    {"Content-Encoding": "gzip"}):  # fmt: skip
        error_of(lone.client.post(ROUTE, content=body, headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")
    for kind in ("application/json; charset=utf-8", "application/vnd.x+json", None):
        answer = lone.client.post(
            ROUTE, content=b'{"prompt": 1}', headers={} if kind is None else {"Content-Type": kind}
        )
        assert "prompt" in error_of(answer, 400, "INVALID_REQUEST")["message"]


def test_a_failure_of_the_server_says_nothing_of_itself(
    lone: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("private")

    monkeypatch.setattr(lone.studio.registry, "newest", broken)
    with caplog.at_level(logging.CRITICAL, "uvicorn.error"):
        answer = lone.client.get(ROUTE)
    assert "private" not in error_of(answer, 500, "INTERNAL_ERROR")["message"]


# Sizes


def test_bodies_that_are_too_large_are_refused_counted_or_announced() -> None:
    intake = Intake(largest_bytes=1 << 20)
    with service(intake=intake) as running:
        body = b'{"prompt": "' + b"x" * (4 << 20) + b'"}'
        error_of(running.client.post(ROUTE, content=body), 413, "PAYLOAD_TOO_LARGE")
        sent = 0

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            for start in range(0, len(body), 1 << 16):
                sent += 1
                yield body[start : start + (1 << 16)]

        error_of(running.client.post(ROUTE, content=pieces()), 413, "PAYLOAD_TOO_LARGE")
        assert intake.held_bytes == 0
        assert running.finished()["status"] == "complete"


def test_bodies_together_are_bounded() -> None:
    intake = Intake(largest_bytes=1 << 20, together_bytes=1 << 16)
    with service(intake=intake) as running:
        answer = running.client.post(ROUTE, content=b'{"prompt": "' + b"x" * (1 << 19) + b'"}')
        error_of(answer, 503, "SERVER_BUSY")
        assert intake.held_bytes == 0


# Who may ask


def test_a_name_of_another_machine_is_refused(lone: Service) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8081", ""):
        error_of(lone.client.get("/health", headers={"Host": host}), 421, "MISDIRECTED_REQUEST")
    for host in ("localhost", "LOCALHOST:9", "127.8.8.8", "[::1]:5"):
        assert lone.client.get("/health", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_change_nothing(lone: Service) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        headers = {"Origin": origin}
        error_of(lone.client.post(ROUTE, json={"prompt": "x"}, headers=headers), 403, "FORBIDDEN")
        error_of(lone.client.delete(f"{ROUTE}/x", headers=headers), 403, "FORBIDDEN")
        answer = lone.client.get(ROUTE, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    own = {"Origin": lone.url.rstrip("/")}
    error_of(lone.client.post(ROUTE, json={}, headers=own), 400, "INVALID_REQUEST")


def test_a_page_that_is_allowed_may_ask_and_read() -> None:
    page = "https://app.example"
    with service(access=Access(origins=(page,))) as running:
        asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
        answer = running.client.options(ROUTE, headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == page
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "idempotency-key" in answer.headers["access-control-allow-headers"].lower()
        answer = running.client.post(ROUTE, json={"prompt": "x", **SMALL}, headers={"Origin": page})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, page)
        other = {**asked, "Origin": "https://evil.example"}
        answer = running.client.options(ROUTE, headers=other)
        error_of(answer, 405, "METHOD_NOT_ALLOWED")
        assert "access-control-allow-origin" not in answer.headers


def test_with_a_token_only_the_page_and_health_are_open() -> None:
    with service(access=Access(token="s3cret")) as running:
        assert running.finished()["status"] == "complete"
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"},
                        {"Authorization": "Basic s3cret"}, {"Authorization": "Bearer s3cret2"}):  # fmt: skip
            for path in (ROUTE, f"{ROUTE}/x", "/v1/models", "/openapi.json", "/nothing"):
                answer = running.client.get(path, headers=headers)
                error_of(answer, 401, "UNAUTHORIZED")
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/health", "/page/page.js"):
            assert running.client.get(path, headers={"Authorization": ""}).status_code == 200


# What is logged


def test_logs_are_facts_without_prompts_and_pictures(lone: Service, caplog: pytest.LogCaptureFixture) -> None:
    image = png(noise(16, 16))
    with caplog.at_level(logging.INFO, "layer_generation.image_api"):
        told = lone.client.post(
            ROUTE, json={"prompt": "fails a very private wish", "image": image, "negativePrompt": "no rain"}
        ).json()
        lone.until(told["id"])
    from layer_generation.image_api.journal import Lines

    lines = [json.loads(Lines().format(record)) for record in caplog.records]
    assert [line["event"] for line in lines] == ["accepted", "begun", "error"]
    assert all(line["id"] == told["id"] for line in lines)
    text = json.dumps(lines)
    assert not any(word in text for word in ("private", "wish", "rain", image[:20]))

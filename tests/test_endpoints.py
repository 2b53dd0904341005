"""Adapters of model servers, against a server in this process that speaks their protocols and misbehaves."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from layer_generation.endpoints import exchange, failures
from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointBusy,
    EndpointCancelled,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    EndpointUnavailable,
    EndpointUnreached,
)
from layer_generation.endpoints.open import ADAPTERS, open_endpoint
from layer_generation.endpoints.pixelart import PALETTES
from layer_generation.errors import EndpointInvalid
from layer_generation.layer_config import PROTOCOLS, EndpointConfig
from layer_generation.pool import PoolLimits
from layer_generation.settings import keys_from
from tests import image_server
from tests.image_server import (
    NODES,
    ROUTES,
    WORKFLOW,
    Fault,
    ImageServer,
    later,
    slow,
    status,
    unpacked,
    wrong_size,
)
from tests.test_docs import REFERENCE, first_cells, sections

JOBS = ("comfyui", "sdcpp", "fusi")
SPOKEN = sorted(ROUTES)
NEVER = threading.Event()


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as one:
        yield one


def asked(rows: int = 24, cols: int = 40, *, masked: bool = True, **fields: Any) -> EditRequest:
    """Return a request for a picture of noise, with a mask in its middle."""
    noise = np.random.default_rng(rows * 1000 + cols)
    mask = np.zeros((rows, cols), dtype=bool)
    mask[rows // 4 : rows // 2, cols // 3 :] = True
    image = noise.integers(0, 256, (rows, cols, 3), dtype=np.uint8)
    return EditRequest(image=image, mask=mask if masked else None, prompt="a map in snow", **fields)


def expected(request: EditRequest) -> np.ndarray[Any, Any]:
    """Return what the server paints for a request."""
    inverse = 255 - request.image
    return inverse if request.mask is None else np.where(request.mask[..., None], inverse, request.image)


def edited(
    config: EndpointConfig, request: EditRequest, environment: dict[str, str] | None = None
) -> EditResult:
    endpoint = open_endpoint(config, environment or {})
    try:
        return endpoint.edit(request, NEVER)
    finally:
        endpoint.close()


def failing(config: EndpointConfig, environment: dict[str, str] | None = None) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        edited(config, asked(), environment)
    return caught.value


# Every protocol draws


def test_every_protocol_has_an_adapter_and_a_route_of_the_test_server() -> None:
    assert set(PROTOCOLS) == {"builtin", *ADAPTERS} == {"builtin", *ROUTES}


@pytest.mark.parametrize("protocol", SPOKEN)
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "whole"])
def test_a_picture_is_drawn_where_the_mask_says(server: ImageServer, protocol: str, masked: bool) -> None:
    request = asked(masked=masked, seed=77, steps=9)
    answer = edited(server.config(protocol), request)
    assert np.array_equal(answer.image, expected(request))
    assert answer.seed in (77, None)
    (drawing,) = server.drawings
    assert np.array_equal(drawing.image, request.image), "lossless"
    assert drawing.prompt == "a map in snow"
    assert (drawing.mask is None) == (not masked)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(SPOKEN), st.booleans())
def test_pictures_of_any_size(server: ImageServer, rows: int, cols: int, protocol: str, masked: bool) -> None:
    request = asked(rows, cols, masked=masked)
    assert np.array_equal(edited(server.config(protocol), request).image, expected(request))


@pytest.mark.parametrize("protocol", SPOKEN)
def test_a_probe_of_a_server_that_works_passes(server: ImageServer, protocol: str) -> None:
    endpoint = open_endpoint(server.config(protocol), {})
    endpoint.probe()
    endpoint.close()
    assert not server.drawings, "a probe draws nothing"


@pytest.mark.parametrize("protocol", SPOKEN)
def test_connections_are_used_again(server: ImageServer, protocol: str) -> None:
    endpoint = open_endpoint(server.config(protocol), {})
    for _ in range(4):
        endpoint.edit(asked(), NEVER)
    endpoint.close()
    assert server.connections == 1


def test_threads_share_an_endpoint(server: ImageServer) -> None:
    endpoint = open_endpoint(server.config("fusi"), {})
    sizes = [(8 + n, 30 - n) for n in range(8)]
    answers: dict[tuple[int, int], EditResult] = {}
    threads = [
        threading.Thread(target=lambda size=size: answers.update({size: endpoint.edit(asked(*size), NEVER)}))
        for size in sizes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    endpoint.close()
    assert all(np.array_equal(answers[size].image, expected(asked(*size))) for size in sizes)


# What is sent

WISHES = {"steps": 9, "guidance": 3.5, "strength": 0.6, "seed": 77, "negative_prompt": "text"}


def sent(server: ImageServer, protocol: str, **config: Any) -> dict[str, Any]:
    """Return the fields of the request that begins a picture."""
    edited(server.config(protocol, **config), asked(**WISHES))
    return dict(next(one.fields for one in server.seen if one.fields and "/upload/" not in one.path))


def test_base64_sends_what_the_known_servers_take(server: ImageServer) -> None:
    fields = sent(server, "base64", params={"true_cfg_scale": 2.0})
    assert {name: fields[name] for name in fields if name not in ("image_b64", "mask_b64")} == {
        "prompt": "a map in snow", "negative_prompt": "text", "steps": 9, "guidance_scale": 3.5,
        "strength": 0.6, "seed": 77, "true_cfg_scale": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("protocol", ["base64", "multipart"])
def test_the_known_servers_get_no_mask_unless_its_field_is_named(server: ImageServer, protocol: str) -> None:
    config = server.config(protocol, params={"mask_field": ""})
    assert not open_endpoint(config, {}).takes_mask
    assert open_endpoint(server.config(protocol), {}).takes_mask
    request = asked()
    assert np.array_equal(edited(config, request).image, 255 - request.image)
    assert not any("mask" in name for name in server.seen[0].fields)


def test_multipart_sends_a_file_and_asks_for_a_picture(server: ImageServer) -> None:
    fields = sent(server, "multipart")
    assert fields["file.filename"] == "input.png"
    assert (fields["steps"], fields["guidance_scale"], fields["seed"]) == ("9", "3.5", "77")
    assert server.seen[0].headers["accept"] == "image/png"


def test_openai_sends_alpha_0_where_to_draw_and_no_unknown_field(server: ImageServer) -> None:
    fields = sent(server, "openai", model="gpt-image-1")
    assert unpacked(fields["mask"]).shape == (24, 40, 4)
    assert np.array_equal(unpacked(fields["mask"])[..., 3] == 0, asked().mask)
    assert {name for name in fields if "filename" not in name} == {
        "image",
        "mask",
        "prompt",
        "model",
        "n",
        "size",
    }
    assert (fields["size"], fields["n"], fields["model"]) == ("40x24", "1", "gpt-image-1")


def test_openai_names_further_fields_as_told(server: ImageServer) -> None:
    names = {"seed": "seed", "steps": "num_inference_steps", "guidance": "guidance_scale"}
    fields = sent(server, "openai", params={"fields": names, "size": "auto", "image_field": "image[]"})
    assert (fields["seed"], fields["num_inference_steps"], fields["guidance_scale"]) == ("77", "9", "3.5")
    assert fields["size"] == "auto"
    assert "image[]" in fields


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/images/edits"])
def test_openai_takes_any_form_of_address(server: ImageServer, path: str) -> None:
    edited(server.config("openai", url=server.url + path), asked())
    assert [one.path for one in server.seen] == ["/v1/images/edits"]


def test_openai_fetches_a_picture_that_is_an_address(server: ImageServer) -> None:
    request = asked()
    answer = edited(server.config("openai", params={"response_format": "url"}), request)
    assert np.array_equal(answer.image, expected(request))


def test_a1111_sends_a_white_mask_and_keeps_the_rest_in_place(server: ImageServer) -> None:
    fields = sent(server, "a1111", model="dream.safetensors", params={"override_settings": {"CLIP_skip": 2}})
    assert np.array_equal(unpacked(fields["mask"]) == 255, asked().mask)
    wanted = {
        "width": 40, "height": 24, "steps": 9, "cfg_scale": 3.5, "denoising_strength": 0.6, "seed": 77,
        "inpainting_fill": 1, "inpaint_full_res": False, "mask_blur": 0, "negative_prompt": "text",
        "override_settings": {"sd_model_checkpoint": "dream.safetensors", "CLIP_skip": 2},
    }  # fmt: skip
    assert {name: fields[name] for name in wanted} == wanted


def test_sdcpp_sends_native_fields(server: ImageServer) -> None:
    fields = sent(server, "sdcpp", params={"sample_params": {"scheduler": "karras"}, "reference": True})
    assert fields["sample_params"] == {"sample_steps": 9, "guidance": {"txt_cfg": 3.5}, "scheduler": "karras"}
    assert (fields["width"], fields["height"], fields["strength"], fields["seed"]) == (40, 24, 0.6, 77)
    assert fields["ref_images"] == [fields["init_image"]]
    assert np.array_equal(unpacked(fields["mask_image"]) == 255, asked().mask)
    assert "reference" not in fields


def test_fusi_sends_the_fields_of_its_own_api(server: ImageServer) -> None:
    fields = sent(server, "fusi")
    wanted = {"negativePrompt": "text", "width": 40, "height": 24, "steps": 9, "cfgScale": 3.5, "seed": 77}
    assert {name: fields[name] for name in wanted} == wanted
    assert np.array_equal(unpacked(fields["mask"]) == 255, asked().mask)


def test_comfyui_fills_the_inputs_that_are_named(server: ImageServer) -> None:
    (graph,) = [sent(server, "comfyui")["prompt"]]
    assert graph["6"]["inputs"]["text"] == "a map in snow"
    assert (graph["3"]["inputs"]["seed"], graph["3"]["inputs"]["steps"]) == (77, 9)
    assert graph["10"]["inputs"]["image"].startswith("renamed-"), "the name that the server gave"
    assert WORKFLOW["3"]["inputs"]["seed"] == 0, "the workflow stays as it was"


def test_comfyui_puts_the_mask_into_alpha_where_no_node_takes_it(server: ImageServer) -> None:
    nodes = {name: place for name, place in NODES.items() if name != "mask"}
    request = asked()
    answer = edited(server.config("comfyui", params={"nodes": nodes}), request)
    assert np.array_equal(answer.image, expected(request))


def test_comfyui_reads_the_workflow_from_a_file(server: ImageServer, tmp_path: Path) -> None:
    (tmp_path / "snow.json").write_text(json.dumps(WORKFLOW))
    config = server.config("comfyui", params={"workflow": "snow.json"})
    endpoint = open_endpoint(config, {}, folder=tmp_path)
    request = asked()
    assert np.array_equal(endpoint.edit(request, NEVER).image, expected(request))
    endpoint.close()


@pytest.mark.parametrize("protocol", SPOKEN)
def test_where_the_picture_lies_on_the_map_is_not_sent(server: ImageServer, protocol: str) -> None:
    edited(server.config(protocol), asked(params={"left_px": 512, "top_px": -512, "style": "ink"}))
    names = {name for one in server.seen for name in one.fields}
    assert not names & {"left_px", "top_px", "poll_s", "workflow", "nodes", "mask_field"}
    assert "style" in names


# What goes wrong

FAULTS: dict[str, tuple[Fault, type[EndpointError], str]] = {
    "500": (status(500, {"error": "out of memory"}), EndpointRetryable, r"HTTP 500: out of memory"),
    "502": (
        status(502, b"<html><title>Bad Gateway</title></html>"),
        EndpointRetryable,
        r"HTTP 502: Bad Gateway",
    ),
    "503": (
        status(503, {"error": {"message": "Server busy", "code": "SERVER_BUSY"}}),
        EndpointBusy,
        "Server busy",
    ),
    "429": (status(429, {"error": "job queue is full"}, Retry_After="7"), EndpointBusy, "job queue is full"),
    "quota": (
        status(429, {"error": {"message": "You exceeded it", "code": "insufficient_quota"}}),
        EndpointUnavailable,
        "quota is used up",
    ),
    "400": (
        status(400, {"error": {"message": "bad size"}}),
        EndpointPermanent,
        "refuses the request .*bad size",
    ),
    "401": (
        status(401, {"error": {"message": "Incorrect API key"}}),
        EndpointUnavailable,
        "the key is refused",
    ),
    "403": (status(403), EndpointUnavailable, "access is refused"),
    "404": (status(404, {"detail": "Sampler not found"}), EndpointUnavailable, "Sampler not found"),
    "413": (status(413), EndpointPermanent, "HTTP 413"),
    "422": (
        status(422, {"detail": [{"loc": ["body", "steps"], "msg": "field required"}]}),
        EndpointPermanent,
        "body.steps: field required",
    ),
    "close": (image_server.CLOSE, EndpointRetryable, "the connection broke"),
    "truncated": (image_server.TRUNCATED, EndpointRetryable, "the connection broke"),
    "text": (image_server.TEXT_ONLY, EndpointRetryable, "without a picture .*I cannot help"),
    "not an image": (image_server.NOT_IMAGE, EndpointRetryable, "does not decode"),
    "half an image": (image_server.HALF_IMAGE, EndpointRetryable, "does not decode"),
    "bomb": (image_server.BOMB, EndpointRetryable, "60000 x 60000 px"),
    "loop": (image_server.LOOP, EndpointRetryable, "redirects in circles"),
    "hang": (image_server.HANG, EndpointRetryable, "no picture within 0.25 s"),
    "dribble": (image_server.DRIBBLE, EndpointRetryable, "no picture within 0.25 s"),
    "dribbled headers": (image_server.DRIBBLE_HEADERS, EndpointRetryable, "no picture within 0.25 s"),
    "slow": (slow(30), EndpointRetryable, "no picture within 0.25 s"),
}


@pytest.mark.parametrize("protocol", SPOKEN)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_misbehaviour_is_its_error(server: ImageServer, protocol: str, fault: str) -> None:
    wrong, kind, message = FAULTS[fault]
    server.fail(wrong)
    error = failing(server.config(protocol, timeout_s=0.25 if "0.25" in message else 20.0))
    assert isinstance(error, kind), error
    assert re.search(message, str(error)), error
    assert error.quarantines == (kind is EndpointUnavailable)
    assert error.counts == (kind not in (EndpointUnavailable, EndpointBusy))
    assert "\n" not in str(error)
    assert "0x" not in str(error)


def test_a_picture_of_another_size_is_handed_on(server: ImageServer) -> None:
    server.fail(wrong_size(33, 17))
    assert edited(server.config("base64"), asked()).image.shape == (17, 33, 3)


def test_an_answer_without_end_is_cut(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MOST_BYTES", 2 << 20)
    server.fail(image_server.HUGE)
    assert "more than 2 MiB" in str(failing(server.config("base64")))


def test_a_server_that_is_not_there_is_busy() -> None:
    with ImageServer() as server:
        config = server.config("a1111")
    error = failing(config)
    assert isinstance(error, EndpointBusy)
    assert "cannot be reached" in str(error)


def test_stop_ends_a_request_under_way(server: ImageServer) -> None:
    """With a time out of an hour: if stop did not end the wait, this test would not end either."""
    endpoint = open_endpoint(server.config("base64", timeout_s=3600.0), {})
    stop = threading.Event()
    server.always = image_server.HANG
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(EndpointCancelled):
        endpoint.edit(asked(), stop)
    with pytest.raises(EndpointCancelled):
        endpoint.edit(asked(), stop)
    endpoint.close()


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1"])
def test_answers_of_other_modes_become_rgb(server: ImageServer, mode: str) -> None:
    from PIL import Image

    def paint(drawing: image_server.Drawing) -> Any:
        return np.asarray(Image.fromarray(drawing.image).convert(mode).convert("RGB"))

    server.paint = paint
    assert edited(server.config("base64"), asked()).image.shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), EndpointUnavailable),
        (httpx.ConnectError("[Errno -2] Name or service not known"), EndpointUnreached),
        (httpx.ConnectTimeout("timed out"), EndpointUnreached),
        (httpx.ReadError(""), EndpointRetryable),
        (httpx.DecodingError("bad gzip"), EndpointRetryable),
    ],
)
def test_errors_of_the_network(error: httpx.TransportError, kind: type[EndpointError]) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        raise error

    endpoint = open_endpoint(
        EndpointConfig(name="a", url="http://a.example/"), {}, transport=httpx.MockTransport(reply)
    )
    with pytest.raises(EndpointError) as caught:
        endpoint.edit(asked(), NEVER)
    assert type(caught.value) is kind


# Redirects and keys


def test_a_result_that_comes_by_redirects_is_followed(server: ImageServer) -> None:
    server.fail(later(5))
    request = asked()
    assert np.array_equal(edited(server.config("base64"), request).image, expected(request))
    assert [one.method for one in server.seen] == ["POST"] + ["GET"] * 5


def test_a_key_is_sent_to_the_server_and_to_no_other(server: ImageServer) -> None:
    with ImageServer() as other:
        server.fail(Fault("status", status=303, headers={"Location": other.url + "/later/x"}))
        other._redirects["x"] = (1, b"{}", "application/json")
        failing(server.config("base64", api_key_env="KEY"), {"KEY": "sesame-open"})
        assert server.seen[0].headers["authorization"] == "Bearer sesame-open"
        assert other.seen
        assert "authorization" not in other.seen[0].headers


def test_a_key_is_kept_over_a_redirect_on_the_same_server(server: ImageServer) -> None:
    server.key = "Bearer sesame-open"
    server.fail(later(2))
    edited(server.config("base64", api_key_env="KEY"), asked(), {"KEY": " sesame-open\n"})
    assert {one.headers["authorization"] for one in server.seen} == {"Bearer sesame-open"}


def test_user_and_password_are_sent_as_such(server: ImageServer) -> None:
    server.key = "Basic " + base64.b64encode(b"ann:sesame-open").decode()
    edited(server.config("a1111", api_key_env="KEY"), asked(), {"KEY": "ann:sesame-open"})


def test_a_wrong_key_is_no_secret_for_the_message(server: ImageServer) -> None:
    server.key = "Bearer right"
    error = failing(server.config("openai", api_key_env="KEY"), {"KEY": "wrong"})
    assert isinstance(error, EndpointUnavailable)


def test_a_server_that_repeats_the_key_does_not_get_it_into_the_message(server: ImageServer) -> None:
    server.fail(status(401, {"error": {"message": "key abcdefgh-1234 is unknown, Bearer abcdefgh-1234"}}))
    error = failing(server.config("base64", api_key_env="KEY"), {"KEY": "abcdefgh-1234"})
    assert "abcdefgh" not in str(error)
    assert "is unknown" in str(error)


@pytest.mark.parametrize(("code", "ends"), [(301, False), (302, False), (307, True), (308, True)])
def test_a_moved_server_is_followed_only_where_the_picture_may_be_sent_again(code: int, ends: bool) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/old":
            return httpx.Response(code, headers={"location": "/new"})
        assert request.method == "POST"
        return httpx.Response(500)

    config = EndpointConfig(name="a", url="http://a.example/old")
    endpoint = open_endpoint(config, {}, transport=httpx.MockTransport(reply))
    with pytest.raises(EndpointError, match="HTTP 500" if ends else "has moved to http://a.example/new"):
        endpoint.edit(asked(), NEVER)


# Jobs


@pytest.mark.parametrize("protocol", JOBS)
def test_a_lost_job_is_submitted_once_more(server: ImageServer, protocol: str) -> None:
    server.lose_jobs = 1
    request = asked()
    assert np.array_equal(edited(server.config(protocol), request).image, expected(request))
    assert len(server.drawings) == 2


@pytest.mark.parametrize("protocol", JOBS)
def test_jobs_that_are_lost_again_are_a_failure(server: ImageServer, protocol: str) -> None:
    server.lose_jobs = 5
    error = failing(server.config(protocol))
    assert isinstance(error, EndpointRetryable)
    assert "lost the job" in str(error)
    assert len(server.drawings) == 2


@pytest.mark.parametrize("protocol", JOBS)
def test_a_question_that_fails_is_asked_again_and_no_picture_is_paid_twice(
    server: ImageServer, protocol: str
) -> None:
    server.poll_faults.extend([status(500), image_server.CLOSE, status(503), status(429, retry_after="0")])
    request = asked()
    assert np.array_equal(edited(server.config(protocol), request).image, expected(request))
    assert len(server.drawings) == 1


@pytest.mark.parametrize("protocol", JOBS)
def test_a_job_that_cannot_be_asked_for_is_cancelled(server: ImageServer, protocol: str) -> None:
    server.polls = 100
    server.poll_faults.extend([status(500)] * 5)
    assert isinstance(failing(server.config(protocol)), EndpointRetryable)
    assert server.cancelled == ["job-1"] or protocol == "comfyui"
    assert len(server.cancelled) == 1


@pytest.mark.parametrize("protocol", JOBS)
@pytest.mark.parametrize("job", ["x" * 100_000, "a\nb", "a/b", "a#b", "\u00e9", "\ud800", ".."])
def test_an_id_that_fits_no_address_is_a_typed_error(protocol: str, job: str) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, content=json.dumps({"id": job, "prompt_id": job, "name": "a.png"}))

    params = {"workflow": WORKFLOW, "nodes": NODES} if protocol == "comfyui" else {}
    config = EndpointConfig(name="a", url="http://a.example/", protocol=protocol, params=params)
    endpoint = open_endpoint(config, {}, transport=httpx.MockTransport(reply))
    with pytest.raises(EndpointRetryable, match="answers with a job's id"):
        endpoint.edit(asked(4, 4), NEVER)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="/?#"), min_size=1))
def test_any_other_id_is_asked_for_as_it_is(job: str) -> None:
    assume(job not in (".", ".."))
    paths: list[bytes] = []

    def reply(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json={"id": job, "status": "cancelled"})

    config = EndpointConfig(name="a", url="http://a.example/", protocol="fusi", params={"poll_s": 0.0001})
    endpoint = open_endpoint(config, {}, transport=httpx.MockTransport(reply))
    with pytest.raises(EndpointError, match="was cancelled"):
        endpoint.edit(asked(4, 4), NEVER)
    assert unquote(paths[-1].decode().rpartition("/")[2]) == job


@pytest.mark.parametrize("address", ["http://a.example:port/", "x" * 100_000, "\ud800"])
def test_an_address_of_a_picture_that_is_none_is_a_typed_error(address: str) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=json.dumps({"data": [{"url": address}]}))

    config = EndpointConfig(name="a", url="http://a.example/", protocol="openai")
    endpoint = open_endpoint(config, {}, transport=httpx.MockTransport(reply))
    with pytest.raises(EndpointRetryable, match="address"):
        endpoint.edit(asked(4, 4), NEVER)


@pytest.mark.parametrize("protocol", JOBS)
def test_a_job_that_fails_says_why(server: ImageServer, protocol: str) -> None:
    server.end_jobs = "failed"
    error = failing(server.config(protocol))
    assert isinstance(error, EndpointRetryable)
    assert any(word in str(error) for word in ("out of memory", "sd exited with code 1"))
    assert not server.cancelled


@pytest.mark.parametrize("protocol", ["sdcpp", "fusi"])
def test_a_job_that_the_server_cancelled_may_be_tried_again(server: ImageServer, protocol: str) -> None:
    server.end_jobs = "cancelled"
    assert isinstance(failing(server.config(protocol)), EndpointRetryable)


@pytest.mark.parametrize("protocol", JOBS)
def test_a_job_that_takes_too_long_is_cancelled(server: ImageServer, protocol: str) -> None:
    server.polls = 10_000
    error = failing(server.config(protocol, timeout_s=0.3))
    assert "no picture within 0.3 s" in str(error)
    assert len(server.cancelled) == 1


@pytest.mark.parametrize("protocol", JOBS)
def test_stop_cancels_the_job(server: ImageServer, protocol: str) -> None:
    server.polls = 10_000
    endpoint = open_endpoint(server.config(protocol, timeout_s=3600.0), {})
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(EndpointCancelled):
        endpoint.edit(asked(), stop)
    endpoint.close()
    assert len(server.cancelled) == 1


@pytest.mark.parametrize("protocol", ["sdcpp", "fusi"])
def test_a_job_that_is_unknown_for_a_moment_is_not_lost(server: ImageServer, protocol: str) -> None:
    """States that go backwards: under way, unknown, under way, unknown again, done."""
    server.polls = 4
    server.poll_faults.extend([slow(0), status(404), slow(0), status(404)])
    request = asked()
    assert np.array_equal(edited(server.config(protocol), request).image, expected(request))
    assert len(server.drawings) == 1


@pytest.mark.parametrize("protocol", JOBS)
def test_a_stop_while_a_job_is_submitted_cancels_it(server: ImageServer, protocol: str) -> None:
    """The id comes after the wish to stop; without it nobody could tell the server."""
    server.polls = 10_000
    server.takes_s = lambda: 0.6
    endpoint = open_endpoint(server.config(protocol), {})
    stop = threading.Event()
    threading.Thread(target=lambda: (_until(lambda: bool(server.calls)), stop.set())).start()
    with pytest.raises(EndpointCancelled):
        endpoint.edit(asked(), stop)
    endpoint.close()
    assert len(server.cancelled) == 1


def _until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


@pytest.mark.parametrize("why", ["stop", "time"])
@pytest.mark.parametrize("draws", ["this", "another"])
def test_a1111_is_interrupted_where_it_draws_the_picture_that_is_left(
    server: ImageServer, why: str, draws: str
) -> None:
    server.takes_s = lambda: 30.0
    endpoint = open_endpoint(server.config("a1111", timeout_s=1.0 if why == "time" else 3600.0), {})
    stop = threading.Event()

    def left() -> None:
        _until(lambda: bool(server.calls))
        server.task = server.task if draws == "this" else "someone else's"
        if why == "stop":
            stop.set()

    threading.Thread(target=left).start()
    with pytest.raises(EndpointCancelled if why == "stop" else EndpointRetryable):
        endpoint.edit(asked(), stop)
    endpoint.close()
    assert len(server.cancelled) == (draws == "this")


@pytest.mark.parametrize(
    ("document", "kind", "said", "deletes"),
    [
        ({"status": "paused"}, EndpointRetryable, "not known (paused)", 1),
        ({"status": "cancelled"}, EndpointRetryable, "was cancelled", 0),
        (
            {"status": "error", "error": {"code": "SERVER_BUSY", "message": "one runs"}},
            EndpointBusy,
            "is busy",
            0,
        ),
        (
            {"status": "error", "error": {"code": "SHUTTING_DOWN", "message": "ends"}},
            EndpointBusy,
            "is busy",
            0,
        ),
        ({"status": "error", "error": {"code": "INVALID_REQUEST"}}, EndpointPermanent, "INVALID_REQUEST", 0),
        ({"status": "error", "error": {"code": "TIMEOUT_ERROR"}}, EndpointRetryable, "TIMEOUT_ERROR", 0),
    ],
)
def test_each_end_of_a_generation(
    document: dict[str, Any], kind: type[EndpointError], said: str, deletes: int
) -> None:
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return (
            httpx.Response(201, json={"id": "x"})
            if request.method == "POST"
            else httpx.Response(200, json=document)
        )

    config = EndpointConfig(name="a", url="http://a.example/", protocol="fusi", params={"poll_s": 0.001})
    endpoint = open_endpoint(config, {}, transport=httpx.MockTransport(reply))
    with pytest.raises(EndpointError, match=re.escape(said)) as caught:
        endpoint.edit(asked(4, 4), NEVER)
    assert type(caught.value) is kind
    assert (seen.count("POST"), seen.count("GET"), seen.count("DELETE")) == (1, 1, deletes)


# Answers of any kind

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "image_b64",
                    "data",
                    "b64_json",
                    "url",
                    "images",
                    "info",
                    "id",
                    "prompt_id",
                    "job",
                    "status",
                    "result",
                    "outputs",
                    "queue_running",
                    "queue_pending",
                    "name",
                    "subfolder",
                    "error",
                    "message",
                    "code",
                    "detail",
                    "node_errors",
                    "status_str",
                    "messages",
                    "9",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SPOKEN),
    st.lists(st.tuples(st.sampled_from([200, 200, 200, 404, 410, 500]), DOCUMENTS), min_size=1, max_size=4),
)
@example("base64", [(200, {"image_b64": "AAAA"})])
@example("fusi", [(201, {"id": "x"}), (200, {"status": "complete", "result": {"images": [None]}})])
@example("comfyui", [(200, {"prompt_id": "9"}), (200, {"9": {"status": 3, "outputs": {"9": 4}}})])
def test_any_json_is_a_typed_error(protocol: str, answers: list[tuple[int, object]]) -> None:
    """Whatever a server says, it is no traceback."""
    left = iter(answers)

    def reply(request: httpx.Request) -> httpx.Response:
        code, document = next(left, answers[-1])
        return httpx.Response(code, json=document)

    params = (
        {"poll_s": 0.001, "workflow": WORKFLOW, "nodes": NODES}
        if protocol == "comfyui"
        else {"poll_s": 0.001}
    )
    config = EndpointConfig(
        name="a", url="http://a.example/", protocol=protocol, timeout_s=0.03,
        params=params if protocol in JOBS else {},
    )  # fmt: skip
    endpoint = open_endpoint(config, {}, transport=httpx.MockTransport(reply))
    with pytest.raises(EndpointError):
        endpoint.edit(asked(4, 4), NEVER)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 100_000,
        b"\xff\xfe",
        b"null",
        b'{"image_b64": "data:image/png;base64,!!"}',
        b'{"image_b64": 3}',
    ],
)
def test_bodies_that_are_no_answer(body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    endpoint = open_endpoint(EndpointConfig(name="a", url="http://a.example/"), {}, transport=transport)
    with pytest.raises(EndpointRetryable):
        endpoint.edit(asked(), NEVER)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_data_url_is_a_picture_too(prefix: str) -> None:
    picture = base64.b64encode(image_server.png(asked().image)).decode()
    wrapped = "\n".join(picture[start : start + 76] for start in range(0, len(picture), 76)).rstrip("=")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"image_b64": prefix + wrapped}))
    endpoint = open_endpoint(EndpointConfig(name="a", url="http://a.example/"), {}, transport=transport)
    assert np.array_equal(endpoint.edit(asked(), NEVER).image, asked().image)


def test_an_empty_info_is_no_seed() -> None:
    picture = base64.b64encode(image_server.png(asked().image)).decode()
    answer = {"images": [picture], "parameters": {}, "info": ""}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    config = EndpointConfig(name="a", url="http://a.example/", protocol="a1111")
    assert open_endpoint(config, {}, transport=transport).edit(asked(), NEVER).seed is None


# Failures


@given(st.integers(0, 100_000))
def test_both_forms_of_retry_after_say_the_same(seconds: int) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert failures.retry_after_s({"retry-after": str(seconds)}, now) == seconds
    assert failures.retry_after_s({"retry-after": date}, now) == seconds
    assert failures.retry_after_s({"retry-after-ms": str(seconds * 1000), "retry-after": "1"}, now) == seconds


def test_a_date_that_is_over_is_no_wait() -> None:
    assert failures.retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


@given(st.text(max_size=30))
def test_any_retry_after_is_a_time_or_none(text: str) -> None:
    found = failures.retry_after_s({"retry-after": text, "retry-after-ms": text})
    assert found is None or 0 <= found < 1e12


@given(st.integers(300, 599), st.binary(max_size=400) | DOCUMENTS.map(lambda one: json.dumps(one).encode()))
def test_any_refusal_is_a_typed_error_of_one_line(code: int, body: bytes) -> None:
    error = failures.failure(code, {}, body)
    assert isinstance(error, EndpointError)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 400
    if code in (500, 502, 504, 408, 425):
        assert type(error) is EndpointRetryable
    if code in (429, 503):
        assert isinstance(error, EndpointBusy | EndpointUnavailable)


@given(st.binary(min_size=60, max_size=300), st.text("abcdefgh0123-", min_size=12, max_size=40))
def test_no_picture_and_no_key_gets_into_a_message(picture: bytes, key: str) -> None:
    encoded = base64.b64encode(picture).decode()
    text = f"cannot read data:image/png;base64,{encoded} with {key} and Authorization: Bearer {key[::-1]}"
    said = str(failures.failure(400, {}, json.dumps({"error": text}).encode(), (key,)))
    assert encoded[:64] not in said
    assert key not in said
    assert key[::-1] not in said
    assert "cannot read" in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "No", "code": "c"}}, "No [c]"),
        ({"error": "job queue is full"}, "job queue is full"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body", 1], "msg": "bad"}, {"msg": "worse"}]}, "body.1: bad; worse"),
        ({"error": "OutOfMemory", "detail": "", "errors": "CUDA"}, "OutOfMemory; CUDA"),
        ({"message": "gone"}, "gone"),
        ("plain text", "plain text"),
        ("<html><head><title>502 Bad Gateway</title></head><body>x</body></html>", "502 Bad Gateway"),
        ("<p>Some <b>bold</b> words</p><script>var x</script>", "Some bold words"),
        ("", ""),
    ],
)
def test_what_a_refusal_says(body: object, said: str) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert failures.message_of(raw) == said


# Opening

GRAPH = {"workflow": WORKFLOW, "nodes": NODES}
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown builtin": ({"url": "builtin:magic", "protocol": "builtin"}, "expected one of builtin:pixel"),
    "a builtin of another protocol": ({"url": "builtin:pixelart"}, "does not go with protocol 'base64'"),
    "no builtin": ({"protocol": "builtin"}, "does not go with protocol 'builtin'"),
    "an unknown protocol": ({"protocol": "smoke"}, "expected builtin or one of base64"),
    "a variable that is not set": ({"api_key_env": "NO_KEY"}, r"NO_KEY \(api_key_env\) is not set"),
    "a variable that is empty": ({"api_key_env": "EMPTY"}, r"EMPTY \(api_key_env\) is not set"),
    "a key with a line break": ({"api_key_env": "BROKEN"}, "BROKEN holds characters that no key has"),
    "a password in the address": ({"url": "http://ann:sesame@a.example"}, "url holds a key or a password"),
    "a key in the address": ({"url": "http://a.example/?key=sesame"}, "url holds a key"),
    "an address without a host": ({"url": "http://"}, "expected http"),
    "an address that is none": ({"url": "http://a.example:port/"}, "url http://a.example:port/"),
    "another type of option": (
        {"protocol": "fusi", "params": {"poll_s": "1"}},
        "poll_s = '1': expected a whole number or a number",
    ),
    "no workflow": ({"protocol": "comfyui"}, "workflow is missing"),
    "no such workflow": (
        {"protocol": "comfyui", "params": {"workflow": "none.json"}},
        "none.json: No such file",
    ),
    "no graph": ({"protocol": "comfyui", "params": {"workflow": {"nodes": []}}}, "no graph in API format"),
    "no picture": ({"protocol": "comfyui", "params": {"workflow": WORKFLOW}}, "nodes: image is missing"),
    "no such node": (
        {"protocol": "comfyui", "params": {**GRAPH, "nodes": {"image": ["99", "image"]}}},
        "expected .node, input. of the workflow",
    ),
    "no such input": (
        {"protocol": "comfyui", "params": {**GRAPH, "nodes": {"picture": ["10", "image"]}}},
        "expected output or one of",
    ),
    "no such output": (
        {"protocol": "comfyui", "params": {**GRAPH, "nodes": {**NODES, "output": "12"}}},
        "no such node",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_endpoint_that_cannot_be_opened_says_why(case: str) -> None:
    fields, message = INVALID[case]
    config = EndpointConfig(**{"name": "painter", "url": "http://a.example/", **fields})
    with pytest.raises(EndpointInvalid, match=message) as caught:
        open_endpoint(config, {"EMPTY": " ", "BROKEN": "a\nb"})
    assert str(caught.value).startswith("endpoint 'painter': ")
    assert "sesame" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_keys_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAINTER_KEY", "x")
    assert keys_from()["PAINTER_KEY"] == "x"
    assert dict(keys_from({"A": "b"})) == {"A": "b"}


def test_no_proxy_is_taken_from_the_environment(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    edited(server.config("base64"), asked())


def test_every_misbehaviour_of_the_server_is_tried() -> None:
    known = {one.kind for one, _, _ in FAULTS.values()} | {"size", "huge", "later"}
    made: list[Callable[..., Fault] | Fault] = [
        value for value in vars(image_server).values() if isinstance(value, Fault)
    ]
    assert {one.kind for one in made if isinstance(one, Fault)} <= known


# The reference


def test_the_keys_of_an_endpoint_are_documented() -> None:
    rows = first_cells(sections(REFERENCE)["model-endpoints"])
    keys = [one.name for one in fields(EndpointConfig)]
    options = {name for adapter in ADAPTERS.values() for name in adapter.options}
    told = [row for row in rows if row not in PROTOCOLS]
    assert told[: len(keys)] == keys
    assert set(told[len(keys) :]) == options | {"palette", "cell_px"}
    assert set(rows) - set(told) == set(PROTOCOLS)


def test_the_palettes_are_documented() -> None:
    assert all(f"`{name}`" in sections(REFERENCE)["model-endpoints"] for name in PALETTES)


def test_the_patience_of_the_pool_is_documented() -> None:
    told = " ".join(sections(REFERENCE)["when-a-model-server-fails"].split())
    limits = PoolLimits()
    assert limits.failures_to_open == 3
    assert "After three failures" in told
    assert f"1, 2, 4, ... {limits.longest_rest_s:g} s" in told
    assert f"after {limits.quarantine_s / 60:g} minutes" in told
    assert f"up to {limits.longest_retry_after_s / 60:g} minutes" in told
    assert f"failed for {limits.give_up_s:g} s" in told

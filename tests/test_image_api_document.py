"""The OpenAPI document and the server say the same: schemathesis asks, in all its phases and checks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layer_generation.image_api.guard import Access
from layer_generation.image_api.refusals import ALL
from layer_generation.image_api.registry import Limits
from tests.image_service import Service, png, service

PICTURE = png(np.full((512, 512, 3), 90, np.uint8))
HOOKS = f"""
import schemathesis
from hypothesis import strategies

PICTURE = {PICTURE!r}
schemathesis.openapi.format("png", strategies.just(PICTURE))

@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if isinstance(body, dict) and body.get("image") == PICTURE:
        for side in ("width", "height"):
            if isinstance(body.get(side), int | float) and 16 <= body[side] <= 2048 and body[side] % 8 == 0:
                body[side] = 512
"""
"""A picture is a format of our own, and of its own size: JSON Schema has no words for either."""
EXPECTED = "use_after_free"
"""DELETE cancels, and what was cancelled can be polled: the one thing that a check does not expect."""


@pytest.fixture(scope="module")
def roomy() -> Iterator[Service]:
    with service(limits=Limits(queue_depth=10_000, ttl_ms=3_600_000)) as running:
        yield running


def run(folder: Path, url: str, *options: str) -> None:
    (folder / "hooks.py").write_text(HOOKS)
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "run", f"{url}openapi.json", "--exclude-checks", EXPECTED,
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "12", "--checks", "all",
        "--seed", "7", "--continue-on-failure", "--generation-database", "none", "--no-color", *options,
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_schemathesis_finds_nothing(roomy: Service, tmp_path: Path) -> None:
    run(tmp_path, roomy.url)
    assert roomy.client.get("/health").json()["status"] == "ok"


def test_schemathesis_finds_nothing_where_a_token_is_wanted(tmp_path: Path) -> None:
    limits = Limits(queue_depth=10_000, ttl_ms=3_600_000)
    with service(limits=limits, access=Access(token="s3cret")) as running:
        run(
            tmp_path, running.url, "--header", "Authorization: Bearer s3cret", "--phases", "coverage",
            "--include-operation-id", "getGeneration", "--include-operation-id", "listModels",
        )  # fmt: skip


def test_the_document_names_what_this_backend_has(roomy: Service) -> None:
    told = roomy.client.get("/openapi.json").json()
    for name in ("TextToImage", "ImageToImage"):
        schema = told["components"]["schemas"][name]
        assert schema["properties"]["model"]["enum"] == ["actor", "understudy"]
        assert schema["properties"]["sampler"]["enum"] == ["euler_a", "euler"]
        assert schema["additionalProperties"] is False
        assert ("mask" in schema["properties"]) == ("image" in schema["required"])


def test_every_limit_is_in_the_document(roomy: Service) -> None:
    told = roomy.client.get("/openapi.json").json()
    for name, field in told["components"]["schemas"]["ImageToImage"]["properties"].items():
        limits = {"integer": {"minimum", "maximum"}, "number": {"minimum", "maximum"}, "string": set()}
        assert limits[field["type"]] <= set(field), name


def test_every_error_of_a_route_is_described(roomy: Service) -> None:
    told = roomy.client.get("/openapi.json").json()
    post = told["paths"]["/v1/images/generations"]["post"]["responses"]
    assert set(post) == {"201", "400", "403", "408", "409", "413", "415", "421", "500", "503"}
    assert "Retry-After" in post["503"]["headers"]
    described = {
        status for path in told["paths"].values() for one in path.values() for status in one["responses"]
    }
    assert {str(kind.status) for kind in ALL} - described == {"401", "405"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_every_reference_leads_somewhere(roomy: Service) -> None:
    told = roomy.client.get("/openapi.json").json()
    schemas = told["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(told)} <= set(schemas)
    assert "HTTPValidationError" not in schemas

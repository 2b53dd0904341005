"""`fusi layer init`, `extend`, `generate`, `status`: from a map to its last quadrant, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fusi_pipeline.errors import FusiError
from layer_generation import plan
from layer_generation.camera import MercatorGrid
from layer_generation.cli import layer
from layer_generation.errors import EndpointInvalid, LayerExists
from layer_generation.layer import extend_layer, init_layer, status_of
from layer_generation.layer_config import read_layer
from layer_generation.pictures import png
from layer_generation.progress import Progress
from layer_generation.quadrants import QuadrantStore
from tests.image_server import NODES, WORKFLOW
from tests.plan_checker import faults
from tests.test_layer_worker import source


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a map of six by five quadrants, one of them missing."""
    with QuadrantStore.create(tmp_path / "map", MercatorGrid(zoom=10)) as store:
        store.put(
            "render",
            [(x, y, png(source(x, y))) for x in range(-3, 3) for y in range(-2, 3) if (x, y) != (0, 0)],
        )
    return tmp_path


def fusi(*words: object) -> Result:
    return CliRunner().invoke(layer, [str(word) for word in words])


def made(place: Path, *words: object) -> Result:
    result = fusi(
        "init", "--name", "snow", "--generation-dir", place / "map", "--source-layer", "renders",
        "--output", place / "layers" / "snow", *words,
    )  # fmt: skip
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_layer_is_planned_drawn_and_reported(place: Path) -> None:
    assert "29" in made(place, "--prompt", "snow", "--seed", 3).output
    folder = place / "layers" / "snow"
    config = json.loads((folder / "layer_config.json").read_text())
    assert config["generation_params"] == {"prompt": "snow", "seed": 3}
    assert (folder / config["generation_dir"]).resolve() == place / "map"
    result = fusi("generate", "--layer-dir", folder, "--resume", "--max-concurrent", 2)
    assert result.exit_code == 0, result.output
    assert "complete (100%), 0 errors" in result.output
    status = json.loads(fusi("status", "--layer-dir", folder, "--json").output)
    assert (status["quadrants_complete"], status["complete"]) == (29, status["total"])
    assert len(list((folder / "generations").glob("*.png"))) == 29
    again = json.loads(fusi("generate", "--layer-dir", folder, "--json").stdout)
    assert (again["calls"], again["completed"], again["remaining"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "words",
    [("--bounds=-3,-2,-1,0",), ("--bounds", "-3,-2,-1,0"), ("--bounds", "-3", "-2", "-1", "0")],
)
def test_bounds_may_be_negative_in_every_way_of_writing(place: Path, words: tuple[str, ...]) -> None:
    report = json.loads(made(place, *words, "--json").output)
    assert (report["quadrants"], report["calls"]) == (9, 4)


def test_the_plan_in_the_database_is_a_sound_plan(place: Path) -> None:
    made(place)
    with Progress(place / "layers" / "snow") as progress:
        blocks, edges = list(progress.blocks()), progress.edges()
    with QuadrantStore(place / "map") as store:
        quadrants = store.coordinates("render")
    planned = plan.plan(quadrants)
    assert faults(planned, map(tuple, quadrants.tolist())) == []  # type: ignore[arg-type]
    for name in ("step", "wave", "x", "y", "width", "height", "extension"):
        assert [getattr(block, name) for block in blocks] == getattr(planned, name).tolist()
    assert sorted((edges - 1).tolist()) == sorted(planned.waits_for.tolist())


def test_blocks_with_less_context_say_why_and_when(place: Path) -> None:
    """In the database and in reports; a map that grows leaves the reason, which is that of the plan."""
    with QuadrantStore.create(place / "line", MercatorGrid(zoom=10)) as store:
        store.put("render", [(x, 0, png(source(x, 0))) for x in range(3)])
    folder = place / "layers" / "thin"
    words = ("--name", "thin", "--generation-dir", place / "line", "--source-layer", "renders")
    said = fusi("init", *words, "--output", folder).output
    assert "3 blocks have less context: the map had no 2x2" in said
    with QuadrantStore(place / "line") as store:
        store.put("render", [(x, 1, png(source(x, 1))) for x in range(3)])
    assert extend_layer(folder).irregular >= 3
    told = json.loads(fusi("status", "--layer-dir", folder, "--json").output)["irregular"]
    assert {(one["x"], one["y"], one["type"]) for one in told[:3]} == {(x, 0, "1x1") for x in range(3)}
    assert all("when planned" in one["reason"] for one in told)
    assert "less context: the map had no 2x2" in fusi("status", "--layer-dir", folder).output


def test_a_layer_that_is_there_is_not_touched(place: Path) -> None:
    made(place)
    folder = place / "layers" / "snow"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FusiError, match="extend"):
        made(place)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    made(place, "--force")
    assert (place / "layers" / "snow.backup-1" / "layer_config.json").exists()


def test_new_quadrants_are_added_and_finished_ones_stay(place: Path) -> None:
    folder = place / "layers" / "snow"
    init_layer(folder, name="snow", generation_dir=place / "map", source_layer="renders")
    assert fusi("generate", "--layer-dir", folder).exit_code == 0
    before = {path.name: path.read_bytes() for path in (folder / "generations").glob("*.png")}
    with QuadrantStore(place / "map") as store:
        store.put("render", [(x, y, png(source(x, y))) for x, y in [(0, 0), (3, 0), (3, 1), (4, 0), (4, 1)]])
    assert extend_layer(folder).added > 0
    assert extend_layer(folder).added == 0
    result = fusi("generate", "--layer-dir", folder, "--strict-steps")
    assert result.exit_code == 0, result.output
    assert status_of(folder).quadrants_complete == 34
    for name, data in before.items():
        assert (folder / "generations" / name).read_bytes() == data


def test_a_dry_run_calls_no_model_and_changes_nothing(place: Path) -> None:
    made(place)
    folder = place / "layers" / "snow"
    result = fusi("generate", "--layer-dir", folder, "--dry-run")
    assert "would call pixelart" in result.output
    assert status_of(folder).complete == 0


def test_part_of_the_blocks_may_be_drawn(place: Path) -> None:
    made(place)
    folder = place / "layers" / "snow"
    assert fusi("generate", "--layer-dir", folder, "--max-items", 2).exit_code == 0
    assert status_of(folder).complete == 2


def test_failures_are_no_success_even_where_only_a_part_was_asked_for(place: Path) -> None:
    made(place)
    folder = place / "layers" / "snow"
    with QuadrantStore(place / "map") as store:
        store.put("render", [(int(x), int(y), b"none") for x, y in store.coordinates("render")])
    assert fusi("generate", "--layer-dir", folder, "--max-items", 1).exit_code == 1


def test_a_dry_run_is_json_where_that_is_asked_for(place: Path) -> None:
    made(place)
    result = fusi("generate", "--layer-dir", place / "layers" / "snow", "--dry-run", "--json")
    assert json.loads(result.output)["would_call"][0]["protocol"] == "builtin"


def test_a_dry_run_says_what_the_run_would_be_refused_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is not set is a note when the layer is planned, and an error before anything is called."""
    monkeypatch.delenv("SNOW_KEY", raising=False)
    document = [
        {"name": "a", "url": "http://127.0.0.1:1", "api_key_env": "SNOW_KEY"},
        {"name": "b", "url": "builtin:pixelart"},
    ]
    (place / "endpoints.json").write_text(json.dumps(document))
    assert (
        "SNOW_KEY (api_key_env) is not set"
        in made(place, "--model-endpoints", place / "endpoints.json").stderr
    )
    folder = place / "layers" / "snow"
    for words in ((), ("--json",)):
        result = fusi("generate", "--layer-dir", folder, "--dry-run", *words)
        assert isinstance(result.exception, EndpointInvalid)
        assert "SNOW_KEY" in str(result.exception)
        assert result.exception.exit_code == 2
    troubles = [one["trouble"] for one in json.loads(result.stdout)["would_call"]]
    assert "SNOW_KEY" in troubles[0]
    assert troubles[1] is None
    monkeypatch.setenv("SNOW_KEY", "sesame")
    result = fusi("generate", "--layer-dir", folder, "--dry-run")
    assert result.exit_code == 0
    assert "would call a: http" in result.output


def test_a_run_that_is_refused_leaves_the_failures_as_they_are(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SNOW_KEY", raising=False)
    document = [{"name": "a", "url": "http://127.0.0.1:1", "api_key_env": "SNOW_KEY"}]
    (place / "endpoints.json").write_text(json.dumps(document))
    made(place, "--model-endpoints", place / "endpoints.json")
    folder = place / "layers" / "snow"
    with Progress(folder) as progress:
        block = progress.claim("somebody", 60.0)
        assert block is not None
        progress.fail(block.id, "somebody", "no such thing")
    result = fusi("generate", "--layer-dir", folder, "--retry-errors")
    assert isinstance(result.exception, EndpointInvalid)
    assert [one["message"] for one in status_of(folder).errors] == ["no such thing"]


def test_a_workflow_is_looked_for_beside_the_file_that_names_it(place: Path) -> None:
    """The layer then holds its path as seen from its own folder."""
    document = [
        {
            "name": "c",
            "url": "http://127.0.0.1:1",
            "protocol": "comfyui",
            "params": {"workflow": "graph.json", "nodes": NODES},
        }
    ]
    (place / "models").mkdir()
    (place / "models" / "endpoints.json").write_text(json.dumps(document))
    with pytest.raises(FusiError, match=r"models.graph\.json: No such file"):
        made(place, "--model-endpoints", place / "models" / "endpoints.json")
    assert not (place / "layers").exists()
    (place / "models" / "graph.json").write_text(json.dumps(WORKFLOW))
    assert made(place, "--model-endpoints", place / "models" / "endpoints.json").exit_code == 0
    (endpoint,) = read_layer(place / "layers" / "snow").model_endpoints
    assert endpoint.params["workflow"] == "../../models/graph.json"
    assert fusi("generate", "--layer-dir", place / "layers" / "snow", "--dry-run").exit_code == 0


def test_numbers_that_are_none_are_refused(place: Path) -> None:
    made(place)
    for words in (("--give-up", "nan"), ("--give-up", "inf"), ("--progress-interval", "nan")):
        result = fusi("generate", "--layer-dir", place / "layers" / "snow", *words)
        assert result.exit_code == 2, words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--source-layer", "generations"), "render"),
        (("--bounds", "100,100,110,110"), "they lie within"),
        (("--generation-dir", "nowhere"), "fusi layer map init"),
        (("--model-endpoints", "none.json"), "none.json"),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_left(
    place: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(FusiError, match=said):
        made(place, *words)
    assert not (place / "layers" / "snow").exists()
    assert not list((place / "layers").glob(".*")) if (place / "layers").exists() else True


def test_a_folder_of_something_else_is_left_alone(place: Path) -> None:
    folder = place / "layers" / "snow"
    folder.mkdir(parents=True)
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(FusiError, match="not empty"):
        made(place, "--force")
    assert (folder / "letter.txt").read_text() == "dear"


def test_failures_end_with_one_and_are_listed(place: Path) -> None:
    made(place)
    folder = place / "layers" / "snow"
    with QuadrantStore(place / "map") as store:
        store.put("render", [(-3, -2, None)])
    result = fusi("generate", "--layer-dir", folder)
    assert result.exit_code == 1
    assert "-3,-2" in result.output
    found = status_of(folder)
    assert len(found.errors) == 1
    with QuadrantStore(place / "map") as store:
        store.put("render", [(-3, -2, png(source(-3, -2)))])
    assert fusi("generate", "--layer-dir", folder).exit_code == 1
    assert fusi("generate", "--layer-dir", folder, "--retry-errors").exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_under_way(place: Path, number: signal.Signals) -> None:
    made(place)
    folder = place / "layers" / "snow"
    code = "from layer_generation.cli import layer; from fusi_pipeline import console; console.main(layer)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "generate", "--layer-dir", str(folder), "--progress-interval", "0.1"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((folder / "generations").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    found = status_of(folder)
    assert all(step["in_progress"] == 0 for step in found.steps.values())
    if process.returncode != 0:  # it may have been done already
        assert process.returncode == 130
        assert "finishing what is under way" in said
        assert found.complete < found.total
    assert fusi("generate", "--layer-dir", folder).exit_code == 0


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "lists no endpoint"),
        ([{"name": "a", "url": "http://me:secret@127.0.0.1:1"}], "holds a key or a password"),
        ([{"name": "a", "url": "builtin:oil"}], "expected one of builtin:"),
        ([{"name": "a", "url": "http://127.0.0.1:1", "protocol": "comfyui"}], "workflow is missing"),
        ([{"name": "a", "url": "http://127.0.0.1:1", "context": "mask"}], "mask_field"),
        ([{"name": "a", "url": "builtin:pixelart", "params": {"palette": "mud"}}], "palette"),
    ],
)
def test_endpoints_that_cannot_be_are_refused_before_a_layer_is_made(
    place: Path, document: object, complaint: str
) -> None:
    (place / "endpoints.json").write_text(json.dumps(document))
    with pytest.raises(FusiError, match=complaint):
        made(place, "--model-endpoints", place / "endpoints.json")
    assert not (place / "layers").exists()


@pytest.mark.parametrize("name", ["", "  ", "two\nlines"])
def test_a_name_is_a_text_of_one_line(place: Path, name: str) -> None:
    with pytest.raises(FusiError, match="one line"):
        init_layer(place / "layers" / "snow", name=name, generation_dir=place / "map")


def test_of_two_that_make_a_layer_at_once_one_is_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the folder free at first, and taken when it is done."""
    made(place, "--seed", "1")
    folder = place / "layers" / "snow"
    before = sorted(path.name for path in folder.parent.iterdir())
    monkeypatch.setattr("layer_generation.layer._is_layer", lambda _: False)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(LayerExists):
        init_layer(folder, name="late", generation_dir=place / "map", source_layer="renders")
    assert sorted(path.name for path in folder.parent.iterdir()) == before
    assert read_layer(folder).generation_params["seed"] == 1


def test_layers_that_are_put_aside_twice_are_all_kept(place: Path) -> None:
    for number in range(3):
        made(place, "--force", "--seed", str(number))
    seeds = {path.name: read_layer(path).generation_params["seed"] for path in (place / "layers").iterdir()}
    assert seeds == {"snow.backup-1": 0, "snow.backup-2": 1, "snow": 2}


def test_what_lies_on_a_medium_that_cannot_be_written_to_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(place)
    monkeypatch.setattr("os.access", lambda *_: False)
    folder = place / "layers" / "snow"
    assert status_of(folder).quadrants == 29
    with pytest.raises(FusiError, match="cannot be written"), Progress(folder) as progress:
        progress.claim("worker", 10)
    with QuadrantStore(place / "map") as store:
        assert len(store.coordinates("render")) == 29


def test_a_map_of_a_newer_fusi_is_refused(place: Path) -> None:
    with closing(sqlite3.connect(place / "map" / "quadrants.db")) as connection, connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('fusi-quadrants', 'of_2030', '')"
        )
    with pytest.raises(FusiError, match=r"newer fusi \(of_2030\)"):
        made(place)

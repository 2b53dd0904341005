"""The diffusers backend: laws of its parts, and real pipelines with random weights on the processor.

Those that draw need torch, which is large: `just test-diffusion` runs them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from layer_generation.commands.pictures import image as image_command
from layer_generation.image_api import diffusers_backend, diffusion_model
from layer_generation.image_api.backend import SAMPLERS as NAMES
from layer_generation.image_api.backend import BackendFailed, Cancelled, Picture, Stage
from layer_generation.image_api.diffusers_backend import (
    DiffusersBackend,
    at_least_one_step,
    opened,
    whole_cells,
)
from layer_generation.image_api.diffusion_memory import RESERVE_BYTES, Placement, placement
from layer_generation.image_api.diffusion_model import (
    EXTRA,
    FLOW_SAMPLERS,
    SAMPLERS,
    DiffusionMissing,
    ModelUnusable,
    found_model,
)
from tests.diffusion import tiny_model
from tests.image_service import Service, pixels_of, png, service

pytestmark = pytest.mark.filterwarnings("ignore:::(?!fusi|layer)")  # those of torch and what is built on it

Said = list[tuple[Stage, int, int]]
SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model."""
    _needs_torch()
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def backend(folder: Path) -> DiffusersBackend:
    return DiffusersBackend(str(folder))


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the packages of the extra seem to be there; nothing of them is imported."""
    monkeypatch.setattr(diffusion_model, "find_spec", lambda name: name)


def _needs_torch() -> None:
    if find_spec("torch") is None:
        pytest.skip("torch is not installed; `just test-diffusion` runs the tests that draw")


def asked(**fields: Any) -> Picture:
    known: dict[str, Any] = {
        "prompt": "a harbour in snow", "negative_prompt": "", "width": SIZE, "height": SIZE, "steps": 3,
        "cfg_scale": 7.5, "seed": 1, "sampler": "euler_a", "strength": 0.75, "model": "tiny",
    }  # fmt: skip
    return Picture(**{**known, **fields})


def noise(rows: int = SIZE, cols: int = SIZE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(rows * cols).integers(0, 256, (rows, cols, 3), dtype=np.uint8)


def hole(rows: int = SIZE, cols: int = SIZE) -> np.ndarray[Any, Any]:
    """Return a mask whose edges lie within the cells of the model."""
    mask = np.zeros((rows, cols), dtype=bool)
    mask[3:30, 10:43] = True
    return mask


def silent(*_: object) -> None:
    """Hear nothing."""


# Without torch


def index_of(folder: Path, **fields: object) -> Path:
    folder.mkdir(parents=True)
    document = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        **fields,
    }
    (folder / "model_index.json").write_text(json.dumps(document))
    return folder


def test_the_samplers_are_names_of_the_protocol() -> None:
    assert set(SAMPLERS) | set(FLOW_SAMPLERS) <= set(NAMES)
    assert next(iter(SAMPLERS)) == "euler_a", "the default of the protocol"


@pytest.mark.usefixtures("extra")
def test_a_folder_is_a_model_by_its_name_and_never_its_path(tmp_path: Path) -> None:
    model = found_model(str(index_of(tmp_path / "inner" / "snow-model")))
    assert model.name == "snow-model"
    assert tuple(model.samplers) == tuple(SAMPLERS)


@pytest.mark.usefixtures("extra")
def test_a_model_of_flow_has_the_samplers_that_suit_it(tmp_path: Path) -> None:
    folder = index_of(
        tmp_path / "flow",
        _class_name="StableDiffusion3Pipeline",
        scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"],
    )
    assert tuple(found_model(str(folder)).samplers) == ("euler",)


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("folder", None, "holds no model_index.json"),
        ("folder", "{", "cannot be read"),
        ("folder", "[]", "names no pipeline"),
        ("folder", '{"_class_name": ["own", "Own"]}', "names no pipeline"),
        ("model.safetensors", None, "is a file; convert it"),
        ("a/b/c", None, "there is no such folder"),
        ("", None, "name the folder"),
    ],
)
def test_what_is_no_model_is_told_before_anything_is_loaded(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    place = tmp_path / name if name else Path()
    if name == "folder":
        place.mkdir()
        if content is not None:
            (place / "model_index.json").write_text(content)
    elif name == "model.safetensors":
        place.touch()
    with pytest.raises(ModelUnusable, match=said) as caught:
        found_model(str(place) if name else "")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("extra")
def test_code_that_comes_with_a_model_is_refused(tmp_path: Path) -> None:
    folder = index_of(tmp_path / "own", unet=["my_unet", "MyUnet"])
    (folder / "unet").mkdir()
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelUnusable, match="its unet brings code of its own"):
        found_model(str(folder))


def test_where_the_extra_is_not_installed_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diffusion_model, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(DiffusionMissing, match=r'needs torch.*pip install "fusi\[diffusion\]"') as caught:
        found_model(str(tmp_path))
    assert caught.value.exit_code == 1
    with pytest.raises(BackendFailed, match="needs torch"):
        opened({"model": str(tmp_path)})


def test_the_extra_is_what_pyproject_says() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("diffusion = "))
    assert all(f'"{name}>=' in line for name in EXTRA)


@given(st.floats(0, 1), st.integers(1, 150))
def test_some_step_is_always_done_and_never_more_than_asked(strength: float, steps: int) -> None:
    used = at_least_one_step(strength, steps)
    assert 1 <= int(steps * used) <= max(1, int(steps * strength))
    assert 0 < used <= 1


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 8, 16]), st.randoms())
def test_a_mask_grows_to_the_cells_it_touches_and_no_further(
    rows: int, cols: int, scale: int, random: Any
) -> None:
    mask = np.zeros((rows * scale, cols * scale), dtype=bool)
    for _ in range(random.randint(0, 3)):
        mask[random.randrange(rows * scale), random.randrange(cols * scale)] = True
    grown = whole_cells(mask, scale)
    assert (grown >= mask).all()
    for row in range(rows):
        for col in range(cols):
            cell = np.s_[row * scale : (row + 1) * scale, col * scale : (col + 1) * scale]
            assert grown[cell].all() == grown[cell].any() == mask[cell].any()


@given(
    st.sampled_from(["cuda", "mps", "cpu"]),
    st.dictionaries(st.text(max_size=3), st.integers(0, 1 << 36), max_size=5),
    st.integers(0, 1 << 37),
)
def test_a_model_is_placed_where_it_fits(device: str, weights: dict[str, int], free: int) -> None:
    found = placement(device, weights, free)
    on_device = {"none": sum(weights.values()), "model": max(weights.values(), default=0), "sequential": 0}
    if device == "cuda" and found.offload != "sequential":
        assert on_device[found.offload] + RESERVE_BYTES <= free
    if device != "cuda":
        assert found.offload == "none"
    assert found.sliced or found.offload == "none"
    more = placement(device, weights, 2 * free + 4 * RESERVE_BYTES)
    order = ("none", "model", "sequential")
    assert order.index(more.offload) <= order.index(found.offload)
    assert placement(device, weights, 1 << 50) == Placement("none", False)


# Drawn


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["text", "image", "mask"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_sampler_draws_every_kind_of_picture(
    backend: DiffusersBackend, sampler: str, kind: str, steps: int
) -> None:
    image = None if kind == "text" else noise()
    mask = hole() if kind == "mask" else None
    picture = asked(sampler=sampler, steps=steps, image=image, mask=mask)
    said: Said = []
    drawn = backend.draw(picture, lambda *what: said.append(what))
    assert drawn.shape == (SIZE, SIZE, 3)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 5, "something is on it"
    _progress_is_sound(said, max(1, int(0.75 * steps)) if image is not None else steps)
    if image is not None and mask is not None:
        assert np.array_equal(drawn[~mask], image[~mask]), "what is known is as it was"
        assert (drawn[mask] != image[mask]).any(axis=-1).mean() > 0.9, "to the last pixel of the mask"


def _progress_is_sound(said: Said, steps: int) -> None:
    stages = [stage for stage, _, _ in said if stage != "loading"]
    assert stages == ["diffusion"] * (len(stages) - 2) + ["decoding"] * 2
    counts = [(done, total) for stage, done, total in said if stage == "diffusion"]
    assert all(total == steps for _, total in counts)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    assert counts[-1] == (steps, steps)
    assert len(counts) >= steps
    assert sum(done == total for done, total in counts) == 1


@pytest.mark.parametrize("fields", [{}, {"image": noise()}, {"image": noise(), "mask": hole()}])
def test_the_same_seed_is_the_same_bytes_also_in_another_process_of_the_model(
    folder: Path, backend: DiffusersBackend, fields: dict[str, Any]
) -> None:
    first = backend.draw(asked(**fields), silent)
    backend.draw(asked(seed=2, sampler="heun", cfg_scale=1.0), silent)
    assert np.array_equal(backend.draw(asked(**fields), silent), first)
    assert np.array_equal(DiffusersBackend(str(folder)).draw(asked(**fields), silent), first)
    assert not np.array_equal(backend.draw(asked(seed=2, **fields), silent), first)


@pytest.mark.parametrize("fields", [{"prompt": "b"}, {"negative_prompt": "c"}, {"cfg_scale": 2.0}])
def test_what_is_asked_for_counts(backend: DiffusersBackend, fields: dict[str, Any]) -> None:
    plain = backend.draw(asked(prompt="a"), silent)
    assert not np.array_equal(backend.draw(asked(**{"prompt": "a", **fields}), silent), plain)


def test_less_strength_leaves_more_of_the_picture(backend: DiffusersBackend) -> None:
    flat = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
    little = backend.draw(asked(image=flat, strength=0.0, steps=20), silent)
    again = backend.draw(asked(image=flat, strength=0.0, steps=20, seed=9), silent)
    much = backend.draw(asked(image=flat, strength=1.0, steps=20), silent)
    other = backend.draw(asked(image=flat, strength=1.0, steps=20, seed=9), silent)
    assert _far(little, again) < _far(much, other)


def _far(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize(("width", "height"), [(16, 24), (72, 40), (200, 16)])
@pytest.mark.parametrize("kind", ["text", "image", "mask"])
def test_sizes_that_no_model_has_are_drawn_too(
    backend: DiffusersBackend, width: int, height: int, kind: str
) -> None:
    image = None if kind == "text" else noise(height, width)
    mask = hole(height, width) if kind == "mask" else None
    drawn = backend.draw(asked(width=width, height=height, image=image, mask=mask, steps=1), silent)
    assert drawn.shape == (height, width, 3)
    if image is not None and mask is not None:
        assert np.array_equal(drawn[~mask], image[~mask])


def test_nothing_to_draw_is_the_picture_as_it_was(backend: DiffusersBackend) -> None:
    image = noise()
    empty = np.zeros((SIZE, SIZE), dtype=bool)
    assert np.array_equal(backend.draw(asked(image=image, mask=empty), silent), image)


@pytest.mark.parametrize("after", [("diffusion", 1), ("diffusion", 2), ("decoding", 0)])
@pytest.mark.parametrize("fields", [{}, {"image": noise(), "mask": hole(), "strength": 1.0}])
def test_a_picture_ends_between_steps_and_the_next_one_is_drawn_as_ever(
    backend: DiffusersBackend, after: tuple[str, int], fields: dict[str, Any]
) -> None:
    before = backend.draw(asked(**fields), silent)
    said: Said = []

    def stop(*what: Any) -> None:
        said.append(what)
        if what[:2] == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        backend.draw(asked(**fields), stop)
    assert said[-1][:2] == after
    assert np.array_equal(backend.draw(asked(**fields), silent), before)


def test_the_weights_are_in_memory_once(backend: DiffusersBackend) -> None:
    backend.draw(asked(), silent)
    backend.draw(asked(image=noise()), silent)
    backend.draw(asked(image=noise(), mask=hole()), silent)
    assert backend._studio is not None
    pipelines = backend._studio._pipelines
    assert set(pipelines) == {"text", "image", "mask"}
    for part in ("unet", "vae", "text_encoder"):
        assert len({id(getattr(one, part)) for one in pipelines.values()}) == 1


def test_a_model_that_only_inpaints_draws_everything_by_that(tmp_path: Path) -> None:
    _needs_torch()
    backend = DiffusersBackend(str(tiny_model(tmp_path / "inpaints", inpaints=True)))
    image, mask = noise(), hole()
    text = backend.draw(asked(), silent)
    whole = backend.draw(asked(image=image), silent)
    part = backend.draw(asked(image=image, mask=mask), silent)
    assert text.std() > 5
    assert not np.array_equal(text, whole)
    assert np.array_equal(part[~mask], image[~mask])
    assert not np.array_equal(part[mask], image[mask])


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_parts_that_wait_for_their_turn_draw_the_same(
    folder: Path, backend: DiffusersBackend, monkeypatch: pytest.MonkeyPatch, offload: Any
) -> None:
    """The hooks are those of a graphics card; here all of it is the processor's memory."""
    import accelerate
    import torch

    def to_processor(model: Any, _: Any, **options: Any) -> Any:
        return cpu_offload(model, torch.device("cpu"), **options)  # which is not the `cpu:0` it is told

    cpu_offload = accelerate.cpu_offload
    monkeypatch.setattr(accelerate, "cpu_offload", to_processor)
    monkeypatch.setattr(diffusers_backend, "placement", lambda *_: Placement(offload, False))
    other = DiffusersBackend(str(folder))
    for fields in ({}, {"image": noise()}, {"image": noise(), "mask": hole()}, {}):
        expected = backend.draw(asked(**fields), silent)
        assert np.array_equal(other.draw(asked(**fields), silent), expected)


def test_slices_draw_nearly_the_same(
    folder: Path, backend: DiffusersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusers_backend, "placement", lambda *_: Placement("none", True))
    sliced = DiffusersBackend(str(folder)).draw(asked(), silent)
    assert _far(sliced, backend.draw(asked(), silent)) < 1


# Failures


def failing(backend: DiffusersBackend, picture: Picture | None = None) -> BackendFailed:
    with pytest.raises(BackendFailed) as caught:
        backend.draw(picture or asked(prompt="a secret harbour"), silent)
    assert "secret" not in str(caught.value)
    assert "/" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("broken", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("how", [shutil.rmtree, lambda part: _cut(part)], ids=["gone", "cut"])
def test_a_model_that_is_not_whole_does_not_load(
    folder: Path, tmp_path: Path, broken: str, how: Callable[[Path], None]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    how(copy / broken)
    backend = DiffusersBackend(str(copy))
    assert "does not load" in str(failing(backend))
    shutil.rmtree(copy)
    shutil.copytree(folder, copy)
    backend.draw(asked(), silent)


def _cut(part: Path) -> None:
    (weights,) = part.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])


def test_weights_that_can_run_code_are_not_read(folder: Path, tmp_path: Path) -> None:
    _needs_torch()
    import torch

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (weights,) = (copy / "unet").glob("*.safetensors")
    weights.unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    assert "safetensors" in str(failing(DiffusersBackend(str(copy))))


def test_out_of_memory_is_told_with_the_remedy(
    folder: Path, backend: DiffusersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory: secret harbour in /models")

    backend.draw(asked(), silent)
    assert backend._studio is not None
    monkeypatch.setattr(type(backend._studio._base.unet), "forward", full)
    error = failing(backend)
    assert error.code == "OUT_OF_MEMORY"
    assert "smaller picture" in str(error)
    monkeypatch.undo()
    backend.draw(asked(), silent)


def test_whatever_a_pipeline_does_wrong_is_one_line(
    backend: DiffusersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret harbour in /models")

    backend.draw(asked(), silent)
    assert backend._studio is not None
    monkeypatch.setattr(type(backend._studio._base.unet), "forward", wrong)
    error = failing(backend)
    assert error.code == "BACKEND_ERROR"
    assert "RuntimeError" in str(error)


def test_numbers_that_are_none_are_no_black_picture(
    backend: DiffusersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    backend.draw(asked(), silent)
    assert backend._studio is not None
    decode = type(backend._studio._base.vae).decode

    def overflow(self: Any, *arguments: Any, **options: Any) -> Any:
        return (decode(self, *arguments, **options)[0] * torch.nan,)

    monkeypatch.setattr(type(backend._studio._base.vae), "decode", overflow)
    assert "no numbers" in str(failing(backend))


def test_a_picture_that_the_safety_checker_refuses_is_a_failure(
    backend: DiffusersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    def checked(self: Any, image: Any, *_: Any) -> Any:
        return image * 0, [True]

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "run_safety_checker", checked)
    assert "safety checker" in str(failing(backend))


def test_the_variant_is_half_where_the_device_is_or_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    half = tmp_path / "unet" / "model.fp16.safetensors"
    whole = tmp_path / "unet" / "model.safetensors"
    assert diffusers_backend._variant(tmp_path, half=True) is None
    half.touch()
    assert diffusers_backend._variant(tmp_path, half=False) == "fp16"
    whole.touch()
    assert diffusers_backend._variant(tmp_path, half=False) is None
    assert diffusers_backend._variant(tmp_path, half=True) == "fp16"


# Through the server, in a process of its own


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Service]:
    factory = "layer_generation.image_api.diffusers_backend:opened"
    with service(factory, {"model": str(folder)}, deadline_s=600) as one:
        name = one.begin(width=SIZE, height=SIZE)
        while one.poll(name)["status"] in ("pending", "in_progress"):  # as long as torch takes to load
            time.sleep(0.1)
        assert one.poll(name)["status"] == "complete"
        yield one


def test_the_server_says_what_the_model_has(server: Service) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert (model["id"], tuple(model["samplers"])) == ("tiny", tuple(SAMPLERS))
    assert server.post(sampler="er_sde").status_code == 400, "refused before it is accepted"


def test_a_batch_is_the_pictures_of_its_seeds(server: Service, backend: DiffusersBackend) -> None:
    fields = {"width": SIZE, "height": SIZE, "steps": 3, "cfgScale": 7.5, "prompt": "a harbour in snow"}
    images = server.finished(**fields, seed=1, count=2)["result"]["images"]
    for number, one in enumerate(images):
        assert one["seed"] == 1 + number
        assert np.array_equal(pixels_of(one), backend.draw(asked(seed=1 + number), silent))


def test_inpainting_leaves_what_is_known(server: Service) -> None:
    image, mask = noise(), hole()
    white = np.where(mask, np.uint8(255), np.uint8(0))
    told = server.finished(width=SIZE, height=SIZE, image=png(image), mask=png(white), seed=2)
    drawn = pixels_of(told["result"]["images"][0])
    assert np.array_equal(drawn[~mask], image[~mask])
    assert not np.array_equal(drawn[mask], image[mask])


def test_progress_rises_and_a_cancelled_picture_ends_between_steps(server: Service) -> None:
    server.finished()
    name = server.begin(width=SIZE, height=SIZE, steps=150)
    steps: list[int] = []
    while len(set(steps)) < 3:
        told = server.poll(name)
        assert told["status"] in ("pending", "in_progress")
        if told.get("progress", {}).get("stage") == "diffusion":
            steps.append(told["progress"]["currentStep"])
    pid = server.studio._artist.pid
    assert server.cancel(name).json()["status"] == "cancelled"
    assert server.finished()["status"] == "complete"
    assert server.studio._artist.pid == pid, "its process was not ended for that; the model stays loaded"
    assert steps == sorted(steps)
    assert steps[-1] < 150


def test_a_shell_makes_pictures_with_it(server: Service, tmp_path: Path) -> None:
    words = ("a harbour", "--server", server.url, "--width", "64", "--height", "64", "--steps", "2")
    for name in ("one.png", "two.png"):
        image_command.main([*words, "--seed", "7", "-o", str(tmp_path / name)], standalone_mode=False)
    one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "two.png"))
    assert np.array_equal(one, two)

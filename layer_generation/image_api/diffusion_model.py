"""Which diffusion model a person named: a folder or an id, what it is, which samplers go with it.

Nothing here imports torch, so that a wrong name is told before a minute is spent on loading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fusi_pipeline.errors import FusiError, UsageError

EXTRA = ("torch", "diffusers", "transformers", "accelerate")
"""Packages of the extra `diffusion`."""
INDEX = "model_index.json"
"""What makes a folder one of diffusers."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler of the protocol as diffusers has it."""

    scheduler: str
    """Class of diffusers."""
    options: tuple[tuple[str, Any], ...] = ()
    """What its configuration says besides the model's own."""


SAMPLERS: Mapping[str, Sampler] = {
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler"),
    "dpm2": Sampler("KDPM2DiscreteScheduler"),
    "dpm++2s_a": Sampler(
        "DPMSolverSinglestepScheduler", (("solver_order", 2), ("algorithm_type", "sde-dpmsolver++"))
    ),
    "dpm++2m": Sampler(
        "DPMSolverMultistepScheduler", (("solver_order", 2), ("algorithm_type", "dpmsolver++"))
    ),
    "lcm": Sampler("LCMScheduler"),
}
"""Of models that predict noise. `dpm++2mv2`, `er_sde` and the `cfg_pp` ones are not in diffusers."""
FLOW_SAMPLERS: Mapping[str, Sampler] = {"euler": Sampler("FlowMatchEulerDiscreteScheduler")}
"""Of models that predict a flow."""


class DiffusionMissing(FusiError):
    """The packages that draw with diffusion models are not installed."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(
            f"--backend diffusers needs {', '.join(missing)}, not installed here; "
            'run `pip install "fusi[diffusion]"`, or draw with --backend pixelart'
        )


class ModelUnusable(UsageError):
    """What is named as a diffusion model is none that can be used."""

    def __init__(self, stated: str, reason: str) -> None:
        super().__init__(f"--model {stated}: {reason}")


@dataclass(frozen=True, slots=True)
class DiffusionModel:
    """A model that is there, or that may be downloaded."""

    name: str
    """What requests call it: the folder's name or the id, never a path."""
    place: str
    """What diffusers loads: a folder or an id."""
    pipeline: str
    """Class of the pipeline that it was made for."""
    samplers: Mapping[str, Sampler]
    may_download: bool = False


def found_model(stated: str, *, may_download: bool = False) -> DiffusionModel:
    """Return the model of a folder or an id; nothing but its index is read.

    An id stands for what was downloaded before, or, where that is allowed, for
    what will be. Raises DiffusionMissing and ModelUnusable.
    """
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise DiffusionMissing(missing)
    if not stated:
        raise ModelUnusable("", "name the folder of a diffusers model, or a model id such as owner/name")
    folder = Path(stated).expanduser()
    if folder.is_dir():
        index = folder / INDEX
        if not index.is_file():
            raise ModelUnusable(
                stated, f"the folder holds no {INDEX}; name a folder as diffusers' save_pretrained writes it"
            )
        return _indexed(stated, index, folder.resolve().name, str(folder.resolve()))
    if folder.exists():
        raise ModelUnusable(
            stated, "is a file; convert it into a folder with diffusers' from_single_file and save_pretrained"
        )
    if not _ID.fullmatch(stated):
        raise ModelUnusable(stated, "there is no such folder, and it is no model id such as owner/name")
    index = _of_hub(stated, may_download)
    return _indexed(stated, index, stated, stated, may_download)


def _of_hub(stated: str, may_download: bool) -> Path:
    """Return the index of a model id, from the cache or, where allowed, from the model hub."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(stated, INDEX, local_files_only=not may_download))
    except (OSError, ValueError, RuntimeError) as error:  # the hub's errors are of these
        if not may_download:
            raise ModelUnusable(
                stated,
                "there is no such folder, and no model of that id was downloaded before; "
                "download it with --allow-download",
            ) from error
        raise ModelUnusable(stated, f"cannot be downloaded ({type(error).__name__})") from error


def _indexed(stated: str, path: Path, name: str, place: str, may_download: bool = False) -> DiffusionModel:
    """Return the model that an index describes. Raises ModelUnusable."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(stated, f"{INDEX} cannot be read ({type(error).__name__})") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ModelUnusable(stated, f"{INDEX} names no pipeline of diffusers (_class_name)")
    for part, source in index.items():
        if isinstance(source, list) and source and (path.parent / part / f"{source[0]}.py").is_file():
            raise ModelUnusable(stated, f"its {part} brings code of its own, which is not run")
    scheduler = index.get("scheduler")
    flow = isinstance(scheduler, list) and "FlowMatch" in str(scheduler[-1])
    samplers = FLOW_SAMPLERS if flow else SAMPLERS
    return DiffusionModel(name, place, index["_class_name"], samplers, may_download)

"""`--backend diffusers`: text to image, image to image and in-painting with diffusion models.

The only module that imports torch and diffusers, and only when it is to draw: the
server's own process never does. One model is in memory, once: the pipelines of the
three tasks share its parts.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from layer_generation.image_api.backend import BackendFailed, Cancelled, Mask, Picture, Pixels, Report
from layer_generation.image_api.diffusion_memory import Placement, placement
from layer_generation.image_api.diffusion_model import (
    DiffusionMissing,
    DiffusionModel,
    ModelUnusable,
    found_model,
)

Task = Literal["text", "image", "mask"]
_CLASSES: Mapping[Task, str] = {
    "text": "AutoPipelineForText2Image",
    "image": "AutoPipelineForImage2Image",
    "mask": "AutoPipelineForInpainting",
}
_NAMES: Mapping[Task, str] = {"text": "text to image", "image": "image to image", "mask": "in-painting"}
_SMALLEST_PX = 64
"""Side of the smallest picture that a model draws; a smaller one is cut out of it."""
_GREY = 127
"""What a model that only in-paints is shown where there is no picture."""
_LCM_STEPS = 50
"""Steps that an LCM was distilled from, unless more are asked for."""
_WRONG = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError)
"""What diffusers raises where a model is not as it expects; it has no errors of its own."""


class DiffusersBackend:
    """A diffusion model of a folder or an id. The weights are read with the first picture."""

    name = "diffusers"

    def __init__(self, model: str, *, may_download: bool = False) -> None:
        """Look for the model, without loading it. Raises DiffusionMissing and ModelUnusable."""
        self._model = found_model(model, may_download=may_download)
        self._studio: _Studio | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The one model, by its name."""
        return (self._model.name,)

    @property
    def samplers(self) -> tuple[str, ...]:
        """The samplers that suit the model."""
        return tuple(self._model.samplers)

    def draw(self, picture: Picture, report: Report) -> Pixels:
        """Return the picture, shape (height, width, 3); what the mask leaves out is as it was.

        The noise comes from a generator on the processor, so that the same picture
        of the same seed is the same bytes on the same machine. Raises BackendFailed
        and what `report` raises.
        """
        if picture.image is not None and picture.mask is not None and not picture.mask.any():
            return picture.image.copy()
        if self._studio is None:
            report("loading", 0, 1)
            self._studio = _Studio(self._model)
            report("loading", 1, 1)
        return self._studio.drawn(picture, report)


def opened(options: Mapping[str, object]) -> DiffusersBackend:
    """Return the backend of the options `model` and `may_download`. Raises BackendFailed."""
    try:
        return DiffusersBackend(
            str(options.get("model") or ""), may_download=options.get("may_download") is True
        )
    except (DiffusionMissing, ModelUnusable) as error:
        raise BackendFailed(str(error)) from error


class _Studio:
    """A model in memory."""

    def __init__(self, model: DiffusionModel) -> None:
        """Read the weights. Raises BackendFailed."""
        import torch

        self._model = model
        self._device, self._dtype = _device_of(torch, "FlowMatch" in _schedulers(model))
        with _failures(self._device, "while its weights were read"):
            self._base = _loaded(model, self._dtype)
            self._schedule = dict(self._base.scheduler.config)
            weights = _weights(self._base)
            self.placement = placement(self._device, weights, _free_bytes(torch, self._device))
            if self.placement.offload == "none":
                self._base.to(self._device)
        self._pipelines: dict[Task, Any] = {}
        self._active: Any = None

    def drawn(self, picture: Picture, report: Report) -> Pixels:
        """Return a picture. Raises BackendFailed, and what `report` raises."""
        image, mask = picture.image, picture.mask
        task: Task = "text" if image is None else "image" if mask is None else "mask"
        size_px = f"{picture.width} x {picture.height} px"
        with _failures(self._device, f"with a picture of {size_px}"):
            pipeline = self._pipeline("mask" if self._only_inpaints else task)
            try:
                arguments = self._arguments(pipeline, picture, report)
                answer = pipeline(**arguments)
            finally:
                pipeline.maybe_free_model_hooks()
        if any(getattr(answer, "nsfw_content_detected", None) or ()):
            raise BackendFailed(
                "the model's safety checker refused the picture; ask with another seed or another prompt"
            )
        pixels = _pixels(answer.images[0])[: picture.height, : picture.width]
        report("decoding", 1, 1)
        if image is None or mask is None:
            return np.ascontiguousarray(pixels)
        return np.where(mask[..., None], pixels, image)

    @property
    def _only_inpaints(self) -> bool:
        """Whether the model takes a mask and the masked picture beside the noise, and nothing without."""
        unet = getattr(self._base, "unet", None)
        vae = getattr(self._base, "vae", None)
        if unet is None or vae is None:
            return False
        return bool(unet.config.in_channels == 2 * vae.config.latent_channels + 1)

    def _pipeline(self, task: Task) -> Any:
        """Return the pipeline of a task, made of the parts of the model. Raises BackendFailed."""
        import diffusers

        pipeline = self._pipelines.get(task)
        if pipeline is None:
            try:
                pipeline = getattr(diffusers, _CLASSES[task]).from_pipe(self._base)
            except ValueError as error:  # how diffusers says that it has none for the model's kind
                raise BackendFailed(f"the model cannot do {_NAMES[task]}") from error
            pipeline.set_progress_bar_config(disable=True)
            _save_memory(pipeline, self.placement)
            self._pipelines[task] = pipeline
        if self.placement.offload != "none" and pipeline is not self._active:
            if self._active is not None:
                self._active.remove_all_hooks()
            _offload(pipeline, self.placement, self._device)
        self._active = pipeline
        return pipeline

    def _arguments(self, pipeline: Any, picture: Picture, report: Report) -> dict[str, Any]:
        """Return what a pipeline is called with. Raises BackendFailed where it cannot do what is asked."""
        import torch

        known = inspect.signature(pipeline.__call__).parameters
        pipeline.scheduler = self._scheduler(picture)
        scale = _scale_of(pipeline)
        width, height = (_rounded_up(side, scale) for side in (picture.width, picture.height))
        arguments: dict[str, Any] = {
            "prompt": picture.prompt,
            "width": width,
            "height": height,
            "num_inference_steps": picture.steps,
            "guidance_scale": picture.cfg_scale,
            "generator": torch.Generator("cpu").manual_seed(picture.seed),
            "callback_on_step_end": _listener(report, pipeline),
            "output_type": "np",
        }
        if picture.negative_prompt:
            if "negative_prompt" not in known:
                raise BackendFailed("the model takes no negative prompt")
            arguments["negative_prompt"] = picture.negative_prompt
        arguments |= self._template(picture, width, height, scale)
        return {name: value for name, value in arguments.items() if name in known}

    def _template(self, picture: Picture, width: int, height: int, scale: int) -> dict[str, Any]:
        """Return what a pipeline starts from: picture, mask and strength."""
        if picture.image is None:
            if not self._only_inpaints:
                return {}
            grey = np.full((height, width, 3), _GREY, dtype=np.uint8)
            return _masked(grey, np.ones((height, width), dtype=bool), 1.0)
        beyond = ((0, height - picture.height), (0, width - picture.width))
        image = np.pad(picture.image, (*beyond, (0, 0)), mode="edge")
        strength = at_least_one_step(picture.strength, picture.steps)
        if picture.mask is not None:
            return _masked(image, whole_cells(np.pad(picture.mask, beyond, mode="edge"), scale), strength)
        if self._only_inpaints:
            return _masked(image, np.ones(image.shape[:2], dtype=bool), strength)
        return {"image": Image.fromarray(image), "strength": strength}

    def _scheduler(self, picture: Picture) -> Any:
        """Return the sampler asked for, with what the model's own configuration says of its noise."""
        import diffusers

        sampler = self._model.samplers[picture.sampler]
        options = dict(sampler.options)
        if sampler.scheduler == "LCMScheduler":
            options["original_inference_steps"] = max(_LCM_STEPS, picture.steps)
        return getattr(diffusers, sampler.scheduler).from_config(self._schedule, **options)


def at_least_one_step(strength: float, steps: int) -> float:
    """Return a strength by which at least one of the steps is done; pipelines refuse to do none."""
    return strength if int(steps * strength) >= 1 else min(1.0, 1.001 / steps)


def whole_cells(mask: Mask, scale: int) -> Mask:
    """Return a mask grown to cells of `scale` pixels, of which a model draws all or nothing.

    Without this a pixel counts only where it is the one that its cell is sampled at.
    """
    rows, cols = mask.shape
    cells = mask.reshape(rows // scale, scale, cols // scale, scale).any(axis=(1, 3))
    return cells.repeat(scale, axis=0).repeat(scale, axis=1)


def _masked(image: Pixels, mask: Mask, strength: float) -> dict[str, Any]:
    white = np.where(mask, np.uint8(255), np.uint8(0))
    return {"image": Image.fromarray(image), "mask_image": Image.fromarray(white), "strength": strength}


def _rounded_up(side_px: int, scale: int) -> int:
    return max(-(-side_px // scale), -(-_SMALLEST_PX // scale)) * scale


def _listener(report: Report, pipeline: Any) -> Callable[..., dict[str, Any]]:
    """Return what a pipeline calls after each evaluation of its model, of which some samplers need two."""

    def listen(_: Any, index: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        order = getattr(pipeline.scheduler, "order", 1)
        evaluations = pipeline.num_timesteps
        total = math.ceil(evaluations / order)
        last = index + 1 >= evaluations
        report("diffusion", total if last else (index + 1) // order, total)
        if last:
            report("decoding", 0, 1)
        return tensors

    return listen


def _pixels(picture: npt.NDArray[np.float32]) -> Pixels:
    """Return a picture of 0..1 as RGB, shape (rows, cols, 3). Raises BackendFailed."""
    if not np.isfinite(picture).all():
        raise BackendFailed(
            "the model answered with values that are no numbers, as some do in half precision; "
            "draw on a device of full precision, or use a model made for half"
        )
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _loaded(model: DiffusionModel, dtype: Any) -> Any:
    """Return the pipeline of a model. Raises BackendFailed."""
    import diffusers
    import transformers
    from safetensors import SafetensorError

    diffusers.utils.logging.set_verbosity_error()  # its warnings quote prompts
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    place = model.place
    try:
        if not Path(place).is_dir():
            place = diffusers.DiffusionPipeline.download(
                place, use_safetensors=True, local_files_only=not model.may_download
            )
        if variant := _variant(Path(place), half=dtype.itemsize == 2):
            options["variant"] = variant
        return diffusers.DiffusionPipeline.from_pretrained(place, local_files_only=True, **options)
    except (SafetensorError, OSError, *_WRONG) as error:
        raise BackendFailed(
            f"the model {model.name} does not load ({type(error).__name__}); it has to be whole, with its "
            "weights as safetensors, since other formats can run code"
        ) from error


def _variant(folder: Path, *, half: bool) -> str | None:
    """Return the variant of the weights to read: `fp16` where they are half, or there are no others."""
    files = [path.name for path in folder.glob("*/*.safetensors")]
    halves = [name for name in files if ".fp16." in name]
    return "fp16" if halves and (half or len(halves) == len(files)) else None


def _schedulers(model: DiffusionModel) -> str:
    return " ".join(sampler.scheduler for sampler in model.samplers.values())


def _device_of(torch: Any, flow: bool) -> tuple[str, Any]:
    """Return the device to draw on and the precision that suits it."""
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if flow and torch.cuda.is_bf16_supported() else torch.float16
    if torch.backends.mps.is_available():
        return "mps", torch.bfloat16 if flow else torch.float16
    return "cpu", torch.float32


def _free_bytes(torch: Any, device: str) -> int:
    """Return the memory that is free on a device, weights that are there already not counted."""
    import psutil

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def _weights(pipeline: Any) -> dict[str, int]:
    """Return the bytes of each part's weights."""
    parts = {name: part for name, part in pipeline.components.items() if hasattr(part, "parameters")}
    return {
        name: sum(one.numel() * one.element_size() for one in part.parameters())
        for name, part in parts.items()
    }


def _scale_of(pipeline: Any) -> int:
    """Return how many pixels of a picture one cell of the model's own picture stands for."""
    processor = getattr(pipeline, "image_processor", None)
    return int(processor.config.vae_scale_factor) if processor is not None else 8


def _save_memory(pipeline: Any, how: Placement) -> None:
    if how.sliced:
        pipeline.enable_attention_slicing()
        decoder = getattr(pipeline, "vae", None)
        if decoder is not None and hasattr(decoder, "enable_tiling"):
            decoder.enable_tiling()


def _offload(pipeline: Any, how: Placement, device: str) -> None:
    """Let the parts of a pipeline wait in the processor's memory until they are needed."""
    if how.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


@contextmanager
def _failures(device: str, when: str) -> Iterator[None]:
    """Turn what torch and diffusers raise into BackendFailed; their messages, which quote, are left out."""
    import torch

    try:
        yield
    except (Cancelled, BackendFailed):
        raise
    except (torch.cuda.OutOfMemoryError, MemoryError):
        _free(torch, device)
        raise BackendFailed(
            f"the memory of the device ({device}) does not suffice {when}; "
            "ask for a smaller picture, end what else uses it, or use a smaller model",
            "OUT_OF_MEMORY",
        ) from None
    except _WRONG as error:
        _free(torch, device)
        raise BackendFailed(f"diffusers failed {when} ({type(error).__name__})") from error


def _free(torch: Any, device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()

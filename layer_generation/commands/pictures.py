"""Single pictures from the shell: image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np

from fusi_pipeline.errors import Interrupted, UsageError
from layer_generation import settings
from layer_generation.commands import parameters
from layer_generation.console import print_facts, print_json, run
from layer_generation.endpoints.base import Mask, Pixels
from layer_generation.layer_config import EndpointConfig
from layer_generation.picture_makers import SEEDS, BuiltinMaker, EditMaker, Maker, ServerMaker, Wanted

BUILTIN = "builtin"


@click.command()
@click.argument("prompt")
@click.option(
    "-o", "--output", type=parameters.PATH, required=True, help="PNG file; of several OUT-1.png ..."
)
@click.option(
    "--server",
    default=BUILTIN,
    show_default=True,
    metavar="URL",
    help="An image server (fusi image-api), or the embedded stylizer.",
)
@click.option("--token-env", metavar="NAME", default="", help="Variable that holds the server's token.")
@click.option(
    "--endpoint", default="", metavar="NAME", help="In place of --server: a model server of a file."
)
@click.option("--endpoints", type=parameters.PATH, help="That file: endpoints.json or layer_config.json.")
@click.option("--negative", default="", help="What not to draw.")
@click.option("--width", type=click.IntRange(16, 8192), help="Pixels (the image's, else the server's).")
@click.option("--height", type=click.IntRange(16, 8192), help="Pixels (the image's, else the server's).")
@click.option("--steps", type=click.IntRange(1, 1000), help="Steps of diffusion (the server's).")
@click.option(
    "--cfg-scale", type=parameters.FiniteRange(0, 100), help="How closely to follow it (the server's)."
)
@click.option("--seed", type=click.IntRange(0, SEEDS - 1), help="Of the first; then seed + 1, ... (fresh).")
@click.option("--sampler", help="How to sample (the server's).")
@click.option("--model", help="Which of the server's models (its first).")
@click.option("--count", type=click.IntRange(1, 5), default=1, show_default=True, help="How many pictures.")
@click.option("--image", "image_path", type=parameters.PATH, help="Picture to start from.")
@click.option("--mask", "mask_path", type=parameters.PATH, help="White where to draw; of the image's size.")
@click.option(
    "--strength", type=parameters.FiniteRange(0, 1), help="How far to get from the image (the server's)."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=parameters.FiniteRange(0.1, 86_400),
    default=900.0,
    show_default=True,
    help="Seconds for a server to answer in.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no picture of this command.")
@parameters.progress
@parameters.as_json
def image(
    prompt: str, output: Path, server: str, token_env: str, endpoint: str, endpoints: Path | None,
    negative: str, width: int | None, height: int | None, steps: int | None, cfg_scale: float | None,
    seed: int | None, sampler: str | None, model: str | None, count: int, image_path: Path | None,
    mask_path: Path | None, strength: float | None, timeout_s: float, overwrite: bool, interval_s: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Make a picture of PROMPT, or several; Ctrl-C cancels it on the server, too."""
    from layer_generation.picture_making import make_pictures

    _check_texts({
        "PROMPT": prompt, "--negative": negative, "--sampler": sampler, "--model": model,
        "--server": server, "--endpoint": endpoint,
    })  # fmt: skip
    start, mask = _pictures(image_path, mask_path, strength, (width, height))
    wanted = Wanted(
        prompt=prompt, negative_prompt=negative, width=width, height=height, steps=steps,
        cfg_scale=cfg_scale, seed=seed, sampler=sampler, model=model, count=count, image=start, mask=mask,
        strength=strength,
    )  # fmt: skip
    if not prompt.strip():
        raise UsageError("PROMPT is empty; say what to draw")
    maker = _maker(server, token_env, endpoint, endpoints, timeout_s)
    try:
        report = run(make_pictures(maker, wanted, output, overwrite=overwrite), interval_s)
    except Interrupted:
        asked = not isinstance(maker, BuiltinMaker)
        raise Interrupted(
            "what was asked of the server is cancelled" if asked else "no picture was written"
        ) from None
    finally:
        maker.close()
    if as_json:
        print_json(report)
        return
    for one in report.pictures:
        print_facts([("picture", one.path), ("size", f"{one.width} x {one.height} px"), ("seed", one.seed)])


def _check_texts(given: Mapping[str, str | None]) -> None:
    """Raise UsageError for a text with bytes that are no UTF-8, which a shell hands on as surrogates."""
    for name, text in given.items():
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{name} is not UTF-8 (character {error.start + 1}); write it in UTF-8"
            ) from error


def _pictures(
    image_path: Path | None,
    mask_path: Path | None,
    strength: float | None,
    size: tuple[int | None, int | None],
) -> tuple[Pixels | None, Mask | None]:
    """Return the picture to start from and where to draw. Raises UsageError and ImageInvalid."""
    if image_path is None:
        for option, value in (("--mask", mask_path), ("--strength", strength)):
            if value is not None:
                raise UsageError(f"{option} needs a picture to start from; name it with --image")
        return None, None
    start = _read(image_path)
    rows, cols = start.shape[:2]
    if any(stated not in (None, true) for stated, true in zip(size, (cols, rows), strict=True)):
        raise UsageError(f"{image_path}: is {cols} x {rows} px; leave out --width and --height, or resize it")
    if mask_path is None:
        return start, None
    mask = _read(mask_path)
    if mask.shape != start.shape:
        raise UsageError(
            f"{mask_path}: is {mask.shape[1]} x {mask.shape[0]} px, and the image {cols} x {rows}; "
            "they must be of one size"
        )
    return start, mask.astype(np.uint16).sum(axis=2) >= 3 * 128


def _read(path: Path) -> Pixels:
    from layer_generation.pictures import decoded

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; name a picture that can be read") from error
    return decoded(data, path)


def _maker(server: str, token_env: str, endpoint: str, endpoints: Path | None, timeout_s: float) -> Maker:
    """Return who makes the picture. Raises UsageError, LayerConfigInvalid and EndpointInvalid."""
    from layer_generation.endpoints.fusi import Fusi
    from layer_generation.endpoints.open import open_endpoint

    if endpoint or endpoints is not None:
        if server != BUILTIN or token_env:
            raise UsageError("--endpoint and --server exclude each other; leave one out")
        config = _configured(endpoint, endpoints)
    elif server in (BUILTIN, "builtin:pixelart"):
        return BuiltinMaker()
    else:
        if not server.startswith(("http://", "https://")):
            raise UsageError(f"--server {server}: expected {BUILTIN} or http(s)://host[:port]")
        config = EndpointConfig(
            name=server.rstrip("/"), url=server, protocol="fusi", api_key_env=token_env, timeout_s=timeout_s
        )
    if config.protocol == "builtin":
        return BuiltinMaker()
    folder = None if endpoints is None else endpoints.parent
    opened = open_endpoint(config, settings.keys_from(), folder=folder)
    return ServerMaker(opened, config.timeout_s) if isinstance(opened, Fusi) else EditMaker(opened)


def _configured(name: str, path: Path | None) -> EndpointConfig:
    """Return an endpoint of a file by its name; the only one needs none."""
    from layer_generation.layer_config import read_endpoints

    if path is None:
        raise UsageError(f"--endpoint {name}: name the file that holds it with --endpoints")
    found = read_endpoints(path)
    named = [one for one in found if name in ("", one.name)]
    if len(named) != 1:
        known = ", ".join(one.name for one in found) or "none"
        raise UsageError(f"{path}: --endpoint {name or 'NAME'}: it holds {known}; name one of them")
    return named[0]

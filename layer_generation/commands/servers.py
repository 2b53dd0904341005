"""A server of pictures for other programs: image-api."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from fusi_pipeline.errors import UsageError
from layer_generation import settings
from layer_generation.commands import parameters

_BACKENDS = {
    "pixelart": "layer_generation.image_api.pixelart_backend:opened",
    "diffusers": "layer_generation.image_api.diffusers_backend:opened",
}


class Port(click.ParamType[int]):
    """A TCP port, or `auto` for a free one, which is 0."""

    name = "PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the port, or fail with what is expected."""
        text = str(value)
        if text == "auto":
            return 0
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
            self.fail(f"{text!r}: expected a port of 1..65535 or auto", param, ctx)
        return int(text)


class Origin(click.ParamType[str]):
    """The origin of pages, scheme://host[:port] as browsers send it, or `*` for any."""

    name = "ORIGIN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the origin in lower case, or fail with what is expected."""
        text = str(value).lower()
        parts = urlsplit(text)
        try:
            is_origin = bool(parts.hostname) and text == f"{parts.scheme}://{parts.netloc}"
            is_origin = is_origin and "@" not in text and (parts.port is None or parts.port > 0)
        except ValueError:
            is_origin = False
        if text != "*" and not (is_origin and parts.scheme in ("http", "https")):
            self.fail(f"{str(value)!r}: expected * or an origin such as https://example.org", param, ctx)
        return text


@click.command("image-api")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; one that other machines reach needs --token-env.",
)
@click.option("--port", type=Port(), default="8081", show_default=True, help="Port, or auto for a free one.")
@click.option(
    "--backend",
    type=click.Choice(list(_BACKENDS)),
    default="pixelart",
    show_default=True,
    help="What draws: the embedded stylizer, or a diffusion model (extra `diffusion`).",
)
@click.option("--model", default="", help="Of diffusers: the folder of a model, or its id.")
@click.option("--allow-download", is_flag=True, help="Of diffusers: fetch a model that is not here yet.")
@click.option(
    "--queue-depth",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Generations that may wait behind the one that is drawn.",
)
@click.option("--token-env", metavar="NAME", default="", help="Variable that holds the token of clients.")
@click.option(
    "--cors-origin",
    "origins",
    type=Origin(),
    multiple=True,
    help="Pages that may ask from a browser; * for all.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=parameters.FiniteRange(min=0.1, max=86_400),
    default=600.0,
    show_default=True,
    help="Seconds for a generation; a backend that takes longer is begun anew.",
)
@click.option(
    "--grace",
    "grace_s",
    type=parameters.FiniteRange(min=0, max=86_400),
    default=30.0,
    show_default=True,
    help="Seconds for what is drawn when the server is told to end.",
)
@click.option(
    "--results-mib",
    type=click.IntRange(128, 1 << 20),
    default=512,
    show_default=True,
    help="Memory for results; beyond it the oldest go first.",
)
@click.option(
    "--backend-log",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File for what the backend prints, perhaps prompts too; nowhere by default.",
)
def image_api(
    host: str, port: int, backend: str, model: str, allow_download: bool, queue_depth: int, token_env: str,
    origins: tuple[str, ...], deadline_s: float, grace_s: float, results_mib: int, backend_log: Path | None,
) -> None:  # fmt: skip
    """Serve an image model: POST /v1/images/generations begins a picture, GET of its id polls."""
    from layer_generation.image_api import journal, server
    from layer_generation.image_api.artist import BackendConfig
    from layer_generation.image_api.guard import Access
    from layer_generation.image_api.registry import Limits
    from layer_generation.image_api.studio import Studio, StudioConfig
    from layer_generation.listening import listen, on_loopback, url_of

    options = _backend_options(backend, model, allow_download)
    results, token = settings.image_results_from(), _token(token_env)
    listener = listen(host, port)
    alone, url = on_loopback(listener), url_of(listener)
    if not alone and not token:
        listener.close()
        raise TokenMissing(host)
    studio = StudioConfig(
        backend=BackendConfig(factory=_BACKENDS[backend], options=options, log=backend_log),
        limits=Limits(ttl_ms=results.ttl_ms, stored_bytes=results_mib << 20, queue_depth=queue_depth),
        cleanup_ms=results.cleanup_ms,
        deadline_s=deadline_s,
    )
    access = Access(loopback_only=alone, token=token, origins=origins)

    def started(studio: Studio) -> None:
        click.echo(f"{url} draws with {', '.join(studio.has.models)}; Ctrl-C ends it")

    with journal.written_to(sys.stderr):
        server.serve(server.ServerConfig(studio=studio, access=access, grace_s=grace_s), listener, started)


class TokenMissing(UsageError):
    """A server that other machines reach has no token."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"--host {host}: other machines reach it; put a token into an environment variable "
            "and name that with --token-env"
        )


class TokenInvalid(UsageError):
    """The variable that should hold the token does not."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"--token-env {name}: {reason}")


def _token(name: str) -> str:
    """Return the token that a variable holds. Raises TokenInvalid."""
    if not name:
        return ""
    token = settings.keys_from().get(name, "").strip()
    if not token:
        raise TokenInvalid(name, "the environment variable is not set; put the token into it")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise TokenInvalid(name, "the token holds characters that no header can; use letters and digits")
    return token


def _backend_options(backend: str, model: str, allow_download: bool) -> dict[str, object]:
    """Return the options of a backend, as its process is told them."""
    if backend == "diffusers":
        if not model:
            raise click.UsageError("--backend diffusers: --model is missing; name the folder of a model")
        from layer_generation.image_api.diffusion_model import found_model

        found_model(model, may_download=allow_download)
        return {"model": model, "may_download": allow_download}
    for option, is_given in (("--model", bool(model)), ("--allow-download", allow_download)):
        if is_given:
            raise click.UsageError(f"{option} is for --backend diffusers")
    return {}

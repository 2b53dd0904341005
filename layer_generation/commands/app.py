"""The generation app: app, and app enqueue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusi_pipeline.errors import UsageError
from layer_generation import settings
from layer_generation.commands import parameters
from layer_generation.commands.servers import Port
from layer_generation.console import print_facts, print_json

_SERVE = "serve"


class _Group(click.Group):
    """`fusi app MAP_DIR` serves; what is named by a first word of its own does that."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a first word that is no command as the map's folder."""
        if args and args[0] not in self.commands:
            args = [_SERVE, *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let options come before the map's folder, too."""
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
            args = [_SERVE, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say both uses."""
        formatter.write_usage(ctx.command_path, "[serve] MAP_DIR [OPTIONS]  |  enqueue MAP_DIR [OPTIONS]")


@click.group("app", cls=_Group)
def app() -> None:
    """Look at a map of quadrants in a browser and have models draw it: `fusi app MAP_DIR`."""


@app.command(_SERVE)
@click.argument("map_dir", type=parameters.PATH)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; one that other machines reach needs --token-env.",
)
@click.option("--port", type=Port(), default="8082", show_default=True, help="Port, or auto for a free one.")
@click.option(
    "--config", type=parameters.PATH, help="Models (app_config.json of the map, else the embedded)."
)
@click.option(
    "--layers", "layers_dirs", type=parameters.PATH, multiple=True, help="Folders that hold layers."
)
@click.option("--no-generate", is_flag=True, help="Only look: the queue is kept, nothing is drawn.")
@click.option("--token-env", metavar="NAME", default="", help="Variable that holds the token of visitors.")
@click.option("--open/--no-open", "opens", default=False, help="Open the page in a browser.")
def serve(
    map_dir: Path, host: str, port: int, config: Path | None, layers_dirs: tuple[Path, ...],
    no_generate: bool, token_env: str, opens: bool,
) -> None:  # fmt: skip
    """Serve the app of a map until Ctrl-C."""
    from layer_generation.listening import listen, on_loopback, url_of
    from layer_generation.web.opening import opened

    environment = settings.keys_from()
    token = _token(token_env, environment.get(token_env, ""))
    listener = listen(host, port)
    try:
        alone, url = on_loopback(listener), url_of(listener)
        if not alone and not token:
            raise UsageError(f"{host}: other machines reach it; name a variable with a token by --token-env")
        site = opened(
            map_dir,
            config=config,
            layers_dirs=layers_dirs or (settings.places_from().layers_dir, map_dir / "layers"),
            environment=environment,
            generates=not no_generate,
            log=lambda line: click.echo(line, err=True),
        )
    except BaseException:
        listener.close()
        raise

    def started() -> None:
        click.echo(f"{url} shows {map_dir}; Ctrl-C ends it")
        if opens:
            click.launch(url)

    site.serve(listener, started, loopback_only=alone, token=token)


def _token(name: str, value: str) -> str:
    if name and not value.strip():
        raise UsageError(f"--token-env {name}: the environment variable is not set; put the token into it")
    return value.strip()


@app.command()
@click.argument("map_dir", type=parameters.PATH)
@click.option(
    "--quadrants", "named", multiple=True, metavar="X,Y", help="A quadrant; may be given several times."
)
@click.option("--box", type=parameters.QuadrantBox(), help="All quadrants of a rectangle, inclusive.")
@click.option("--model", "model_id", help="Id of a model (the default one).")
@click.option(
    "--config", type=parameters.PATH, help="Models (app_config.json of the map, else the embedded)."
)
@click.option("--prompt", default="", help="What to draw (the model's).")
@click.option("--negative-prompt", default="", help="What not to draw (the model's).")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed (derived from the place).")
@click.option("--regenerate", is_flag=True, help="Draw what has a generation anew.")
@click.option("--render", "renders", is_flag=True, help="Queue renders instead of generations.")
@parameters.as_json
def enqueue(
    map_dir: Path, named: tuple[str, ...], box: tuple[int, int, int, int] | None, model_id: str | None,
    config: Path | None, prompt: str, negative_prompt: str, seed: int | None, regenerate: bool,
    renders: bool, as_json: bool,
) -> None:  # fmt: skip
    """Queue quadrants of a map for an app to draw, each picture after its neighbours."""
    from layer_generation.quadrants import QuadrantStore
    from layer_generation.web.generation_queue import GenerationQueue
    from layer_generation.web.models import read_app_config
    from layer_generation.web.wishes import Wish, wish, wish_renders

    quadrants = _quadrants(named, box)
    with QuadrantStore(map_dir) as store:
        store.require_own()
        models = read_app_config(config, map_dir, settings.keys_from())
        with GenerationQueue(map_dir) as queue:
            if renders:
                queued = wish_renders(queue, store, quadrants, overwrite=regenerate)
            else:
                queued = wish(
                    queue,
                    store,
                    models,
                    Wish(
                        quadrants=quadrants,
                        model_id=model_id,
                        prompt=prompt,
                        negative_prompt=negative_prompt,
                        seed=seed,
                        regenerate=regenerate,
                        renders_missing=True,
                    ),
                )
    facts: dict[str, Any] = {
        "items": list(queued.items),
        "skipped": [list(one) for one in queued.skipped],
        "without_context": list(queued.without_context),
    }
    if as_json:
        print_json(facts)
        return
    print_facts([("queued", len(queued.items)), ("skipped", len(queued.skipped))])
    for line in queued.without_context:
        click.echo(f"note: {line}", err=True)


def _quadrants(named: tuple[str, ...], box: tuple[int, int, int, int] | None) -> tuple[tuple[int, int], ...]:
    from layer_generation.web.items import rectangle

    found: list[tuple[int, int]] = []
    for text in named:
        x, _, y = text.partition(",")
        try:
            found.append((int(x), int(y)))
        except ValueError:
            raise UsageError(f"--quadrants {text}: expected X,Y, two whole numbers") from None
    if box is not None:
        found += rectangle((box[0], box[1]), (box[2], box[3]))
    if not found:
        raise UsageError("no quadrant is named; name some by --quadrants X,Y or --box X,Y,X,Y")
    return tuple(dict.fromkeys(found))

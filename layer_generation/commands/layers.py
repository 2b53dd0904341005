"""A layer from its plan to its last quadrant: init, extend, generate, status."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import click

from fusi_pipeline.errors import Interrupted, UsageError
from layer_generation import layer
from layer_generation.commands import parameters
from layer_generation.console import print_facts, print_json, print_table
from layer_generation.endpoints.open import check_endpoint, check_key, open_endpoint
from layer_generation.errors import EndpointInvalid, EndpointsExhausted
from layer_generation.layer import LayerStatus, PlanReport
from layer_generation.layer_config import (
    SOURCE_LAYERS,
    EndpointConfig,
    LayerConfig,
    moved,
    read_endpoints,
    read_layer,
)
from layer_generation.pool import Pool, PoolLimits
from layer_generation.settings import keys_from
from layer_generation.worker import LayerRun, RunOptions, RunReport

_PATH = click.Path(path_type=Path)
_LAYER = click.option("--layer-dir", required=True, type=_PATH, help="Folder of the layer.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
_NUMBERS = 4


class Bounds(click.ParamType[tuple[int, int, int, int]]):
    """A box of quadrants, inclusive."""

    name = "X0,Y0,X1,Y1"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int, int]:
        """Return the box, or fail with what is expected."""
        try:
            left, top, right, bottom = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected four whole numbers min_x,min_y,max_x,max_y", param, ctx)
        if left > right or top > bottom:
            self.fail(f"{value!r}: expected min_x <= max_x and min_y <= max_y", param, ctx)
        return left, top, right, bottom


class _WithBounds(click.Command):
    """A command whose --bounds may be four words, negative ones among them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the four words into one, then parse as ever."""
        if "--bounds" in args:
            at = args.index("--bounds") + 1
            words = args[at : at + _NUMBERS]
            if len(words) == _NUMBERS and all(_is_whole(word) for word in words):
                args = [*args[:at], ",".join(words), *args[at + _NUMBERS :]]
        return super().parse_args(ctx, args)


def _is_whole(word: str) -> bool:
    return word.removeprefix("-").isdigit()


@click.command(cls=_WithBounds)
@click.option("--name", required=True, help="Name of the layer.")
@click.option("--generation-dir", required=True, type=_PATH, help="Folder of the map.")
@click.option(
    "--source-layer",
    type=click.Choice(SOURCE_LAYERS),
    default="generations",
    show_default=True,
    help="What of the map the models are shown.",
)
@click.option("--bounds", type=Bounds(), help="Only these quadrants, inclusive; four words will do, too.")
@click.option(
    "--model-endpoints", type=_PATH, help="JSON file of model servers; the embedded model otherwise."
)
@click.option("--prompt", help="What the models are asked for.")
@click.option("--negative-prompt", help="What they shall leave out.")
@click.option("--steps", type=click.IntRange(min=1), help="Inference steps.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the layer; each block's follows from it.")
@click.option("--output", required=True, type=_PATH, help="Folder to make.")
@click.option("--force", is_flag=True, help="Put a layer that is there aside under another name.")
@_JSON
def init(
    name: str,
    generation_dir: Path,
    source_layer: str,
    bounds: tuple[int, int, int, int] | None,
    model_endpoints: Path | None,
    prompt: str | None,
    negative_prompt: str | None,
    steps: int | None,
    seed: int | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Make a layer over a map: its configuration and its plan."""
    params = {"prompt": prompt, "negative_prompt": negative_prompt, "steps": steps, "seed": seed}
    endpoints: tuple[EndpointConfig, ...] = ()
    if model_endpoints is not None:
        endpoints = moved(read_endpoints(model_endpoints), model_endpoints.parent, output)
    for one in endpoints:
        check_endpoint(one, output)
    report = layer.init_layer(
        output,
        name=name,
        generation_dir=generation_dir,
        source_layer=source_layer,
        bounds=bounds,
        endpoints=endpoints,
        params={key: value for key, value in params.items() if value is not None},
        force=force,
    )
    for trouble in _missing_keys(endpoints):
        click.echo(f"note: {trouble} before `fusi layer generate`", err=True)
    print_json(report) if as_json else _print_plan(report)


def _missing_keys(endpoints: Sequence[EndpointConfig]) -> Iterator[EndpointInvalid]:
    """Yield what is wrong with the keys of endpoints."""
    keys = keys_from()
    for one in endpoints:
        try:
            check_key(one, keys)
        except EndpointInvalid as error:
            yield error


@click.command()
@_LAYER
@_JSON
def extend(layer_dir: Path, as_json: bool) -> None:
    """Add blocks for quadrants that came into the map; what is planned or finished stays."""
    report = layer.extend_layer(layer_dir)
    print_json(report) if as_json else _print_plan(report)


@click.command()
@_LAYER
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Requests under way at most.")
@click.option("--resume", is_flag=True, help="Go on where an earlier run stopped, which it does anyway.")
@click.option("--retry-errors", is_flag=True, help="Try failed blocks again, with all their attempts.")
@click.option("--max-items", type=click.IntRange(min=1), help="Begin so many blocks at most.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and call no model.")
@click.option(
    "--give-up",
    type=parameters.FiniteRange(min=0),
    help="Seconds that a server may fail before it is not waited for (60).",
)
@click.option("--strict-steps", is_flag=True, help="Begin a step only when the one before has ended.")
@click.option(
    "--progress-interval",
    type=parameters.FiniteRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds between lines.",
)
@_JSON
def generate(
    layer_dir: Path,
    max_concurrent: int | None,
    resume: bool,
    retry_errors: bool,
    max_items: int | None,
    dry_run: bool,
    strict_steps: bool,
    give_up: float | None,
    progress_interval: float,
    as_json: bool,
) -> None:
    """Draw the blocks of a layer until all are drawn, with all model servers at once."""
    del resume  # the default
    config = read_layer(layer_dir)
    if not config.model_endpoints:
        raise UsageError(f"{layer_dir}: names no model endpoint; add some to layer_config.json")
    if dry_run:
        _say_what_would_be_done(layer_dir, config, as_json)
        return
    for one in config.model_endpoints:  # before anything of the layer changes
        check_endpoint(one, layer_dir)
        check_key(one, keys_from())
    if retry_errors:
        layer.retry_errors(layer_dir)
    options = RunOptions(max_items=max_items, strict_steps=strict_steps, max_concurrent=max_concurrent)
    report, trouble = _run(layer_dir, config, options, progress_interval, give_up)
    print_json(report) if as_json else _print_run(report)
    if trouble is not None:
        raise trouble
    if report.interrupted:
        raise Interrupted
    if report.failed or (report.remaining and max_items is None):
        sys.exit(1)


def _say_what_would_be_done(layer_dir: Path, config: LayerConfig, as_json: bool) -> None:
    """Print how far a layer is and whom a run would call. Raises what the run would be refused for."""
    found = layer.status_of(layer_dir)
    troubles = [_trouble(layer_dir, one) for one in config.model_endpoints]
    called = list(zip(config.model_endpoints, troubles, strict=True))
    if as_json:
        print_json({**asdict(found), "would_call": [_called(one, trouble) for one, trouble in called]})
    else:
        _print_status(found)
        for one, trouble in called:
            verb = "would call" if trouble is None else "cannot call"
            click.echo(f"{verb} {one.name}: {one.url}, {one.protocol}, {one.concurrency} at a time")
    found_wrong = [trouble for trouble in troubles if trouble is not None]
    for trouble in found_wrong[:-1]:
        click.echo(trouble, err=True)
    if found_wrong:
        raise found_wrong[-1]


def _trouble(layer_dir: Path, endpoint: EndpointConfig) -> EndpointInvalid | None:
    """Return why an endpoint cannot be called as it is."""
    try:
        check_endpoint(endpoint, layer_dir)
        check_key(endpoint, keys_from())
    except EndpointInvalid as error:
        return error
    return None


def _called(endpoint: EndpointConfig, trouble: EndpointInvalid | None) -> dict[str, object]:
    return {
        "name": endpoint.name,
        "url": endpoint.url,
        "protocol": endpoint.protocol,
        "concurrency": endpoint.concurrency,
        "trouble": None if trouble is None else str(trouble),
    }


def _run(
    layer_dir: Path, config: LayerConfig, options: RunOptions, interval_s: float, give_up_s: float | None
) -> tuple[RunReport, EndpointsExhausted | None]:
    """Return what a run did, and why it could not go on; None where nothing was in its way."""
    keys = keys_from()
    endpoints = [
        (open_endpoint(one, keys, folder=layer_dir), one.concurrency) for one in config.model_endpoints
    ]
    pool = Pool(endpoints, PoolLimits() if give_up_s is None else PoolLimits(give_up_s=give_up_s))
    started = time.monotonic()
    run = LayerRun(layer_dir, config, pool, options)
    trouble = None
    try:
        shown: list[str] = []
        with _stopping(run):
            for counts in run.run(interval_s):
                while not run.events.empty():
                    click.echo(run.events.get(), err=True)
                lines = list(progress_lines(counts))
                for line in lines:
                    if line not in shown:
                        click.echo(line, err=True)
                shown = lines
    except EndpointsExhausted as error:
        trouble = error
    finally:
        pool.close()
    return run.report(time.monotonic() - started), trouble


def progress_lines(counts: dict[int, dict[str, int]]) -> Iterator[str]:
    """Yield a line for each step that has begun and is not behind the one that is under way."""
    for step, found in counts.items():
        total = sum(found.values())
        if not total or not (found["complete"] or found["in_progress"] or found["error"]):
            continue
        share = found["complete"] * 100 // total
        line = f"[Step {step}] {found['complete']}/{total} complete ({share}%), {found['error']} errors"
        yield line + (f", {found['blocked']} blocked" if found["blocked"] else "")


@contextmanager
def _stopping(run: LayerRun) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end a run: once for finishing what is under way, again for giving it back."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if run.stopping:
            run.give_back()
            click.echo("giving back what is under way", err=True)
        else:
            run.stop()
            click.echo("finishing what is under way; once more to give it back", err=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@_LAYER
@_JSON
def status(layer_dir: Path, as_json: bool) -> None:
    """Say how far a layer is, what failed and what waits for it."""
    found = layer.status_of(layer_dir)
    print_json(found) if as_json else _print_status(found)


def _print_plan(report: PlanReport) -> None:
    share = report.calls / report.quadrants if report.quadrants else 0
    bound = "" if report.bound is None else f", no plan needs fewer than {report.bound}"
    print_facts(
        [
            ("layer", f"{report.name}, {report.layer_dir}"),
            ("quadrants", report.quadrants),
            ("calls", f"{report.calls}, {share:.3f} a quadrant{bound}"),
            *((f"step {step}", count) for step, count in report.by_step.items()),
            ("blocks", ", ".join(f"{count} of {kind}" for kind, count in report.by_type.items()) or "none"),
            ("added now", report.added),
        ]
    )
    _print_reasons(report.reasons)
    click.echo(f"next: fusi layer generate --layer-dir {report.layer_dir}")


def _print_reasons(reasons: Mapping[str, int]) -> None:
    """Print how many blocks have less context than they should, and why."""
    for reason, count in reasons.items():
        click.echo(f"{count} {'block has' if count == 1 else 'blocks have'} less context: {reason}")


def _print_run(report: RunReport) -> None:
    rows: Sequence[tuple[str, object]] = [
        (
            "finished now",
            f"{report.completed}" + (f", {report.adopted} of them received before" if report.adopted else ""),
        ),
        ("calls", report.calls),
        ("failed", report.failed),
        ("blocked", report.blocked),
        ("left", report.remaining),
    ]
    print_facts(rows)
    for name, count in sorted(report.by_endpoint.items()):
        click.echo(f"  {name}: {count} blocks")


def _print_status(found: LayerStatus) -> None:
    click.echo(f"{found.name}: {found.complete} of {found.total} blocks, "
               f"{found.quadrants_complete} of {found.quadrants} quadrants")  # fmt: skip
    names = ("pending", "blocked", "in_progress", "complete", "error")
    print_table(
        ("step", *names), [(step, *(counts[name] for name in names)) for step, counts in found.steps.items()]
    )
    _print_reasons(dict(Counter(str(one["reason"]) for one in found.irregular).most_common()))
    for one in found.errors:
        click.echo(f"  block {one['id']} ({one['type']} at {one['x']},{one['y']}): {one['message']}")

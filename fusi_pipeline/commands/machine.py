"""The machine and the runs on it: monitor, doctor."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click

from fusi_pipeline import options
from fusi_pipeline.console import duration, print_json, print_table, size, stoppable
from fusi_pipeline.errors import Interrupted, UsageError
from fusi_pipeline.monitor import INTERVAL_S, append_to, line, watched
from fusi_pipeline.monitor_report import MonitorReport, read_samples, report_of
from fusi_pipeline.run_file import running
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.files import replacing


@click.command()
@click.argument("run", required=False, metavar="[PID|RUN]")
@click.option(
    "--interval",
    type=options.FiniteRange(min=0.1),
    default=INTERVAL_S,
    show_default=True,
    help="Seconds between two samples.",
)
@click.option(
    "-o", "--output", type=options.PATH, help="Add samples to this file; with --report the picture's name."
)
@click.option("--report", "samples", type=options.PATH, metavar="FILE", help="Draw and sum up samples.")
@options.overwrite
@options.as_json
def monitor(
    run: str | None,
    interval: float,
    output: Path | None,
    samples: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Watch a run until it ends, or report on the samples of one.

    A run is named by the number of its process, its output folder, or an archive that it writes.
    """
    if (run is None) == (samples is None):
        raise UsageError(
            "give a run to watch (PID, output folder or archive), or --report FILE, and not both"
        )
    if samples is not None:
        _report(samples, output or samples.with_name(f"{samples.name}.png"), overwrite, as_json)
        return
    if as_json:
        raise UsageError("--json goes with --report; samples are JSON lines anyway")
    _watch(run or "", interval, output)


def _watch(run: str, interval_s: float, output: Path | None) -> None:
    """Write samples until the run ends or a signal comes; sum up those of a file at the end."""
    pid, file = running(run)
    descriptor = sys.stdout.fileno() if output is None else append_to(output)
    taken = 0
    try:
        with stoppable(), suppress(Interrupted, KeyboardInterrupt):
            for sample in watched(pid, file, interval_s):
                os.write(descriptor, f"{line(sample)}\n".encode())
                taken += 1
    finally:
        if output is not None:
            os.close(descriptor)
    if output is not None and taken:
        _print_stages(report_of(output, *read_samples(output)))


def _report(samples: Path, picture: Path, overwrite: bool, as_json: bool) -> None:
    """Draw the picture of samples and print their figures by stage."""
    from fusi_pipeline.monitor_picture import picture as drawn
    from fusi_pipeline.preview import check_output, png

    if picture.suffix != ".png":
        raise UsageError(f"{picture}: the picture is a PNG; give a name that ends in .png")
    read, damaged = read_samples(samples)
    check_output(picture, (samples,), overwrite=overwrite)
    with replacing(picture) as scratch:
        scratch.write_bytes(png(drawn(read, samples.name)))
    report = replace(report_of(samples, read, damaged), picture=picture)
    if as_json:
        print_json(report)
        return
    _print_stages(report)
    click.echo(f"{picture}: {report.samples} samples")


def _print_stages(report: MonitorReport) -> None:
    rows = [
        (one.stage, duration(one.seconds), one.tiles, _known(one.tiles_per_s), _known(one.cpu_percent),
         f"{one.rss_peak_mib:.0f}", f"{one.rss_mean_mib:.0f}", _known(one.uss_peak_mib),
         _known(one.uss_mean_mib), _bytes(one.read_bytes), _bytes(one.written_bytes),
         size(one.wal_peak_bytes), f"{one.output_free_least_mib}", f"{one.available_least_mib}")
        for one in report.stages
    ]  # fmt: skip
    header = ("stage", "time", "tiles", "tiles/s", "cpu %", "rss peak", "mean", "uss peak", "mean", "read",
              "written", "log", "disk free", "memory free")  # fmt: skip
    print_table(header, rows)
    click.echo("memory and free space in MiB")
    if report.damaged:
        click.echo(f"note: {report.path}: {report.damaged} damaged lines left out")


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _bytes(value: int | None) -> str:
    return "-" if value is None else size(value)


@click.command()
@options.places
@options.as_json
@options.settled
def doctor(settings: Settings, as_json: bool) -> None:
    """Say what this machine has and lacks for fusi, and which settings suit it."""
    from fusi_pipeline.doctor import BROKEN, OK, examine

    report = examine(settings)
    if as_json:
        print_json(report)
    else:
        for one in report.findings:
            mark = {OK: "  ", BROKEN: "!!"}.get(one.status, " -")
            click.echo(f"{mark} {one.name:<16} {one.value}")
            if one.remedy:
                click.echo(f"   {'':<16} {one.remedy}")
        for number, profile in enumerate(report.profiles):
            click.echo(
                f"\n# {profile.name}{'' if number else ', which suits this machine'}: {profile.reason}"
            )
            words = [f"{name}={shlex.quote(value)}" for name, value in profile.environment.items()]
            click.echo(f"export {' '.join(words)}")
            if profile.options:
                click.echo(f"# and give fusi aggregate or fusi build: {profile.options}")
    if not report.sound:
        sys.exit(1)

"""What the samples of a run amount to: figures by stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import groupby, pairwise
from pathlib import Path

from fusi_pipeline.errors import ArchiveUnreadable, UsageError
from fusi_pipeline.monitor import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What one stage of a run used."""

    stage: str
    """The stage and what it was done to; `all` for the whole run."""
    seconds: float
    samples: int
    tiles: int
    """Tiles that were finished in it, as far as samples tell."""
    tiles_per_s: float | None
    cpu_percent: float | None
    """Mean, of one processor."""
    rss_peak_mib: float
    rss_mean_mib: float
    uss_peak_mib: float | None
    uss_mean_mib: float | None
    read_bytes: int | None
    """From disks."""
    written_bytes: int | None
    wal_peak_bytes: int
    output_free_least_mib: int
    available_least_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorReport:
    """What the samples of a run, or of several one after another, amount to."""

    path: Path
    samples: int
    damaged: int
    """Lines that are no sample; a run that is killed may leave one."""
    stages: tuple[StageFigures, ...]
    """In order, and `all` at the end."""
    picture: Path | None = None


def read_samples(path: Path) -> tuple[list[Sample], int]:
    """Return the samples of a file and the number of lines that are none.

    Raises UsageError where there is no such file, ArchiveUnreadable where it
    holds not one.
    """
    samples: list[Sample] = []
    damaged = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                sample = _sample(line)
                if sample is not None:
                    samples.append(sample)
                else:
                    damaged += bool(line.strip())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of samples") from None
    if not samples:
        raise ArchiveUnreadable(
            path, "holds no samples; write some with --monitor or `fusi monitor --output`"
        )
    return samples, damaged


def report_of(path: Path, samples: Sequence[Sample], damaged: int) -> MonitorReport:
    """Return what samples amount to."""
    stages = [_figures(name, part) for name, part in _stages(samples)]
    whole = _figures("all", list(samples))
    return MonitorReport(path=path, samples=len(samples), damaged=damaged, stages=(*stages, whole))


def _sample(line: str) -> Sample | None:
    """Return the sample of a line, None where it is damaged."""
    try:
        facts = json.loads(line)
        known = {field.name: facts[field.name] for field in fields(Sample) if field.default is MISSING}
    except (ValueError, TypeError, KeyError):
        return None
    numbers = (known["at_s"], known["elapsed_s"], known["cpu_s"], known["rss_mib"], known["tiles"])
    return Sample(**known) if all(isinstance(one, int | float) for one in numbers) else None


def _stages(samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """Yield (name, samples) of each stage, with the first sample behind it, where it ended."""
    parts = [(name, list(part)) for name, part in groupby(samples, key=stage_of)]
    for (name, part), (_, following) in pairwise([*parts, ("", [])]):
        yield name or "start", part + following[:1]


def stage_of(sample: Sample) -> str:
    """Return the stage of a sample and what it was done to."""
    return f"{sample.stage} {sample.subject}".strip()


def _figures(name: str, samples: Sequence[Sample]) -> StageFigures:
    seconds = _grown(samples, lambda one: one.elapsed_s) or 0.0
    cpu = _grown(samples, lambda one: one.cpu_s) or 0.0
    tiles = int(_grown(samples, lambda one: one.tiles, alike=stage_of) or 0)
    rss = [one.rss_mib for one in samples]
    uss = [one.uss_mib for one in samples if one.uss_mib is not None]
    read = _grown(samples, lambda one: one.read_bytes)
    written = _grown(samples, lambda one: one.written_bytes)
    return StageFigures(
        stage=name,
        seconds=round(seconds, 1),
        samples=len(samples),
        tiles=tiles,
        tiles_per_s=round(tiles / seconds, 1) if tiles and seconds else None,
        cpu_percent=round(100 * cpu / seconds, 1) if seconds else None,
        rss_peak_mib=max(rss),
        rss_mean_mib=round(sum(rss) / len(rss), 1),
        uss_peak_mib=max(uss, default=None),
        uss_mean_mib=round(sum(uss) / len(uss), 1) if uss else None,
        read_bytes=None if read is None else int(read),
        written_bytes=None if written is None else int(written),
        wal_peak_bytes=max(one.wal_bytes for one in samples),
        output_free_least_mib=min(one.output_free_mib for one in samples),
        available_least_mib=min(one.available_mib for one in samples),
    )


def _grown(
    samples: Sequence[Sample],
    value: Callable[[Sample], float | None],
    alike: Callable[[Sample], object] = lambda _: None,
) -> float | None:
    """Return by how much a value grew within runs, where `alike` is the same; None where it is not known."""
    grown, known = 0.0, False
    for one, other in pairwise(samples):
        before, after = value(one), value(other)
        if before is None or after is None:
            continue
        known = True
        if one.pid == other.pid and alike(one) == alike(other):
            grown += max(after - before, 0.0)
    return grown if known else None

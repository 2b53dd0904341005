"""Builds whose workers are this process: quick, and any block can be made to fail."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fusi_pipeline import aggregate, build_groups, build_run
from fusi_pipeline.build import BuildReport
from fusi_pipeline.groups import GroupRule
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings, settings_from
from fusi_pipeline.workers import Lost


class _Pool:
    def __init__(self) -> None:
        self.notes: deque[str] = deque()


class Workers:
    """Stand-ins for the worker processes of builds and for the processes of groups."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.lost: Callable[[Any], bool] = lambda _: False
        """Which tasks no worker can do."""
        self.made: list[str] = []
        """What was worked on."""
        self.groups: list[int] = []
        """The groups that were run."""
        patched.setattr(build_run, "process_pool", self._pool)
        patched.setattr(build_run, "in_order", self._in_order)
        patched.setattr(build_groups, "in_fresh_process", self._fresh)

    @contextmanager
    def _pool(self, _workers: int, module: str, context: object, *_: object) -> Iterator[_Pool]:
        importlib.import_module(module).start(context)
        yield _Pool()

    def _in_order(
        self, _pool: object, work: str, tasks: Iterable[tuple[Any, bool]], *_: object, **__: object
    ) -> Iterator[tuple[Any, Any]]:
        module, function = work.split(":")
        do = getattr(importlib.import_module(module), function)
        for task, needed in tasks:
            if needed and self.lost(task):
                yield task, Lost(f"{task}", "was ended in a test")
            else:
                self.made += [f"{task}"] if needed else []
                yield task, do(task) if needed else None

    def _fresh(
        self, _environment: object, function: str, job: Any, group: Any
    ) -> Generator[Progress, None, Any]:
        self.groups.append(group.number)
        module, name = function.split(":")
        return (yield from getattr(importlib.import_module(module), name)(job, group))


def settings_in(store: Path, output: Path, **options: object) -> Settings:
    """Return settings for a source store and an output folder."""
    return settings_from({}).with_options(source_store=store, output_dir=output, **options)


def built(
    settings: Settings,
    *names: str,
    options: BuildOptions | None = None,
    rule: GroupRule | None = None,
    seen: list[Progress] | None = None,
    **how: bool,
) -> tuple[BuildReport, ...]:
    """Build sources; append what is yielded to `seen`."""
    work = aggregate.build_sources(names, settings, options, rule, **how)
    while True:
        try:
            moment = next(work)
        except StopIteration as end:
            reports: tuple[BuildReport, ...] = end.value
            return reports
        if seen is not None:
            seen.append(moment)

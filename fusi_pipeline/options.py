"""The options that commands share, and how they become settings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from fusi_pipeline.errors import UsageError, ZoomInvalid
from fusi_pipeline.groups import PATTERNS, GroupRule, check_split, is_split
from fusi_pipeline.merge import MODES
from fusi_pipeline.monitor import INTERVAL_S, Watch
from fusi_pipeline.pack import PACKERS
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.settings import ON_DISK_FULL, Settings, settings_from
from fusi_pipeline.tiles.grid import MAX_LATITUDE_DEG, MAX_ZOOM, Bounds
from fusi_pipeline.tiles.image import ENCODERS

Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number within a range; not NaN, which is within none, and not infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with what is expected."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r}: expected a finite number", param, ctx)
        return number


class BBox(click.ParamType[Bounds]):
    """A geographic box, west,south,east,north in degrees."""

    name = "W,S,E,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bounds:
        """Return the box, or fail with what is expected."""
        if isinstance(value, Bounds):
            return value
        try:
            west, south, east, north = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected four numbers west,south,east,north in degrees", param, ctx)
        inside = all(-180 <= lon <= 180 for lon in (west, east)) and -90 <= south < north <= 90
        if not inside or west == east or south >= MAX_LATITUDE_DEG or north <= -MAX_LATITUDE_DEG:
            self.fail(
                f"{value!r}: expected longitudes of -180..180 and -90 <= south < north <= 90", param, ctx
            )
        return Bounds(west, south, east, north)


class Position(click.ParamType[tuple[float, float]]):
    """A longitude and a latitude in degrees."""

    name = "LON,LAT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Return (lon, lat), or fail with what is expected."""
        try:
            lon, lat = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected two numbers lon,lat in degrees", param, ctx)
        if not (-180 <= lon <= 180 and -MAX_LATITUDE_DEG <= lat <= MAX_LATITUDE_DEG):
            self.fail(f"{value!r}: expected lon of -180..180 and lat of -85.0511..85.0511", param, ctx)
        return lon, lat


def _stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


_zoom = click.IntRange(0, MAX_ZOOM)
_positive = click.IntRange(min=1)
PATH = click.Path(path_type=Path)

places = _stacked(
    click.option("--source-store", type=PATH, help="Folder of sources (FUSI_SOURCE_STORE)."),
    click.option("--output-dir", type=PATH, help="Folder for what is made (FUSI_OUTPUT_DIR)."),
)
progress = click.option(
    "--progress-interval",
    type=FiniteRange(min=0),
    help="Seconds between progress lines without a terminal (FUSI_PROGRESS_INTERVAL; 10).",
)
processes = _stacked(
    click.option("--workers", type=_positive, help="Worker processes (FUSI_WORKERS; the processors)."),
    click.option(
        "--memory-mb", type=_positive, help="Budget of all processes together (FUSI_MEMORY_MB; half of all)."
    ),
    progress,
)
watchdog = _stacked(
    click.option(
        "--watchdog-memory-mb",
        type=_positive,
        help="End a worker that takes more, and make its block in quarters (FUSI_WATCHDOG_MEMORY_MB).",
    ),
    click.option(
        "--watchdog-time-seconds",
        "watchdog_time_s",
        type=FiniteRange(min=0, min_open=True),
        help="Likewise for one that is longer at a block (FUSI_WATCHDOG_TIME_SECONDS).",
    ),
    click.option(
        "--memory-floor-mb",
        type=click.IntRange(min=0),
        help="Fewer workers while less memory is available (FUSI_MEMORY_FLOOR_MB; a twentieth).",
    ),
    click.option(
        "--on-disk-full",
        type=click.Choice(ON_DISK_FULL),
        help="End the run, or wait for space (FUSI_ON_DISK_FULL; stop).",
    ),
)
encoder = click.option(
    "--encoder",
    type=click.Choice(ENCODERS),
    help="What writes tiles: fusi's own for terrain, or libwebp (FUSI_ENCODER; fusi).",
)
packer = click.option(
    "--packer",
    type=click.Choice(PACKERS),
    help="What writes the PMTiles: fusi's own, or the pmtiles command (auto, which is fusi's own).",
)
reading = _stacked(
    processes,
    watchdog,
    encoder,
    click.option("--warp-threads", type=_positive, help="Threads per block (FUSI_WARP_THREADS; 1)."),
    click.option(
        "--io-sleep-ms",
        type=FiniteRange(min=0),
        help="Pause after reading a block (FUSI_IO_SLEEP_MS; 0).",
    ),
)
area = _stacked(
    click.option("--min-zoom", type=_zoom, help="Lowest zoom (0)."),
    click.option("--max-zoom", type=_zoom, help="Base zoom (from the ground resolution, 17 at most)."),
    click.option("--bbox", type=BBox(), help="Only tiles that touch this box, in degrees."),
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
skip_broken = click.option("--skip-broken", is_flag=True, help="Leave out files that cannot be used.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace a file that fusi did not write.")
names = click.argument("names", nargs=-1, required=True, metavar="NAME...")
_mode = click.option("--mode", type=click.Choice(MODES), help="Which height wins (priority).")
_feather = click.option(
    "--feather-m",
    type=FiniteRange(min=0, min_open=True),
    help="Metres over which an edge is blended; means --mode feather.",
)
_lineage = click.option(
    "--lineage",
    type=PATH,
    help="Also write which source each pixel is from: a PMTiles or MBTiles, by its ending.",
)
group_blocks = click.option(
    "--group-blocks", type=_positive, metavar="N", help="Blocks in a group; a group has a process of its own."
)
groups = _stacked(
    click.option(
        "--split",
        metavar="PATTERN",
        help=f"Run in groups, each in a new process: {', '.join(PATTERNS)}, or zooms as 0-12,13-15,16.",
    ),
    group_blocks,
    click.option("--resume-from", type=_positive, metavar="GROUP", help="Begin at this group."),
)
merge_rule = _stacked(_mode, _feather, _lineage)
monitoring = _stacked(
    click.option(
        "--monitor",
        "samples",
        type=PATH,
        metavar="FILE",
        help="Add samples of what the run uses to this file, as JSON lines.",
    ),
    click.option(
        "--monitor-interval",
        "samples_interval_s",
        type=FiniteRange(min=0.1),
        default=INTERVAL_S,
        show_default=True,
        help="Seconds between two samples.",
    ),
)


def settled(command: Callable[..., None]) -> Callable[..., None]:
    """Hand a command its `Settings`, from the environment and the options of `places` and `work`."""

    @functools.wraps(command)
    def with_settings(**options: Any) -> None:
        own = {name: options.pop(name, None) for name in _SETTING_OPTIONS}
        io_sleep_ms, interval = options.pop("io_sleep_ms", None), options.pop("progress_interval", None)
        settings = settings_from().with_options(
            **own,
            io_sleep_s=None if io_sleep_ms is None else io_sleep_ms / 1000,
            progress_interval_s=interval,
        )
        command(settings=settings, **options)

    return with_settings


_SETTING_OPTIONS = (
    "source_store",
    "output_dir",
    "workers",
    "memory_mb",
    "warp_threads",
    "watchdog_memory_mb",
    "watchdog_time_s",
    "memory_floor_mb",
    "on_disk_full",
    "encoder",
    "packer",
)


@dataclass(frozen=True, slots=True)
class MergeRule:
    """How a merge is to be done."""

    mode: str
    feather_m: float
    lineage: Path | None


def ruled(command: Callable[..., None]) -> Callable[..., None]:
    """Hand a command its `MergeRule`, from the options of `merge_rule`."""

    @functools.wraps(command)
    def with_rule(**options: Any) -> None:
        mode, feather_m = options.pop("mode"), options.pop("feather_m")
        if feather_m is not None and mode not in (None, "feather"):
            raise UsageError(f"--feather-m goes with --mode feather, not with --mode {mode}")
        if feather_m is None and mode == "feather":
            raise UsageError("--mode feather needs the width of the band: --feather-m METRES")
        mode = mode or ("priority" if feather_m is None else "feather")
        command(rule=MergeRule(mode, feather_m or 0.0, options.pop("lineage")), **options)

    return with_rule


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What a command is to say of itself while it runs."""

    samples: Path | None
    interval_s: float

    def of(self, output: Path, settings: Settings, *, leaves_file: bool = True) -> Watch:
        """Return that for a run that writes to an output."""
        return Watch(
            output=output,
            scratch=settings.scratch_dir,
            leaves_file=leaves_file,
            samples=self.samples,
            interval_s=self.interval_s,
        )


def monitored(command: Callable[..., None]) -> Callable[..., None]:
    """Hand a command its `Monitoring`, from the options of `monitoring`."""

    @functools.wraps(command)
    def with_monitoring(**options: Any) -> None:
        monitoring = Monitoring(options.pop("samples"), options.pop("samples_interval_s"))
        command(monitoring=monitoring, **options)

    return with_monitoring


def grouping(command: Callable[..., None]) -> Callable[..., None]:
    """Hand a command its `GroupRule`, from the options of `groups`; None where none is given."""

    @functools.wraps(command)
    def with_groups(**options: Any) -> None:
        split, size = options.pop("split"), options.pop("group_blocks")
        resume_from = options.pop("resume_from", None)
        if split is None and size is None:
            if resume_from is not None:
                raise UsageError("--resume-from goes with --split or --group-blocks")
            command(groups=None, **options)
            return
        rule = GroupRule(split=check_split(split or "fast"), group_blocks=size, resume_from=resume_from)
        command(groups=rule, **options)

    return with_groups


def split_before_names(command: Callable[..., None]) -> Callable[..., None]:
    """Take what follows a `--split` without a pattern for the first name."""

    @functools.wraps(command)
    def with_names(names: tuple[str, ...], split: str | None, **options: Any) -> None:
        if split is not None and not is_split(split):
            names, split = (split, *names), "balanced"
        if not names:
            raise click.UsageError("Missing argument 'NAME...'.")
        command(names=names, split=split, **options)

    return with_names


def options_from(min_zoom: int | None, max_zoom: int | None, bbox: Bounds | None) -> BuildOptions:
    """Return what of a source to build. Raises ZoomInvalid."""
    if min_zoom is not None and max_zoom is not None and min_zoom > max_zoom:
        raise ZoomInvalid(min_zoom, max_zoom, "--min-zoom is above --max-zoom")
    return BuildOptions(minzoom=min_zoom, maxzoom=max_zoom, bbox=bbox)

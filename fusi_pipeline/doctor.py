"""What a machine has and lacks for fusi, each with what to do about it. Nothing it looks at is changed."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pyproj
from pyproj.datadir import get_data_dir, get_user_data_dir  # type: ignore[attr-defined]

from fusi_pipeline import machine_memory
from fusi_pipeline.cost import worker_mib
from fusi_pipeline.doctor_profiles import Machine, Profile, profiles
from fusi_pipeline.pack import cli_path
from fusi_pipeline.settings import Settings, processors
from fusi_pipeline.survey import gdal_facts
from fusi_pipeline.tiles import native, terrarium
from fusi_pipeline.tiles.files import free_mib, sync
from fusi_pipeline.tiles.image import decode_webp, encode_webp

OK, NOTE, BROKEN = "ok", "note", "broken"
_PACKAGES = ("numpy", "rasterio", "pyproj", "imagecodecs", "pillow", "numba", "dagster", "psutil")
_DRIVERS = ("GTiff", "VRT")
_MORE_DRIVERS = ("SRTMHGT", "AAIGrid", "JP2OpenJPEG", "netCDF", "HFA")
_LEAST_FREE_MIB = 10 * 1024
_LEAST_FILES = 256
_GOOD_FILES = 1024
_PROBE_BYTES = 32 << 20
_NETWORK = ("nfs", "cifs", "smb", "afp", "9p", "webdav", "davfs", "sshfs", "rclone", "glusterfs", "ceph")
_PLUGGED = ("/Volumes/", "/media/", "/run/media/", "/mnt/usb")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_GEOIDS = {"EGM2008": "us_nga_egm08_25.tif", "EGM96": "us_nga_egm96_15.tif"}
_PAGES = (
    ("fusi serve", "fusi_pipeline/viewer/static/index.html", "viewer"),
    ("fusi app", "layer_generation/web/static/index.html", "app-page"),
    ("isometric maps", "layer_generation/renderer/static/index.html", "renderer-page"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one thing."""

    name: str
    status: str
    """`ok`, `note` for what some work will miss, `broken` for what nothing works without."""
    value: str
    remedy: str = ""
    """What to do, where something is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """What was found, and the settings that suit the machine."""

    findings: tuple[Finding, ...]
    profiles: tuple[Profile, ...]
    """The one that suits best first."""

    @property
    def sound(self) -> bool:
        """Whether nothing is broken."""
        return all(one.status != BROKEN for one in self.findings)


def examine(settings: Settings) -> DoctorReport:
    """Return what a machine has and lacks; writes a few files beside the output and removes them."""
    findings = [one for check in _CHECKS for one in check(settings)]
    disk, speed = _disk(settings.output_dir)
    findings += disk
    memory = machine_memory.total_mib()
    machine = Machine(
        processors=processors(),
        memory_mib=memory,
        output_dir=settings.output_dir,
        disk_mb_s=speed,
        external=_is_external(settings.output_dir),
    )
    return DoctorReport(findings=tuple(findings), profiles=profiles(machine))


def _versions(_: Settings) -> Iterator[Finding]:
    yield Finding(
        name="fusi",
        status=OK,
        value=f"{version('fusi')}, Python {platform.python_version()}, {platform.platform()}",
    )
    said, missing = [], []
    for name in _PACKAGES:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Finding(
        name="packages",
        status=BROKEN if missing else OK,
        value=", ".join([*said, *(f"{name} is missing" for name in missing)]),
        remedy="install fusi again, with its dependencies" if missing else "",
    )


def _gdal(_: Settings) -> Iterator[Finding]:
    number, drivers = gdal_facts()
    missing = [name for name in _DRIVERS if name not in drivers]
    more = [name for name in _MORE_DRIVERS if name in drivers]
    yield Finding(
        name="GDAL",
        status=BROKEN if missing else OK,
        value=f"{number}, {len(drivers)} drivers, {', '.join((*_DRIVERS, *more))} among them"
        if not missing
        else f"{number} without {', '.join(missing)}",
        remedy="install a rasterio whose GDAL has them; the wheels do" if missing else "",
    )


def _proj(_: Settings) -> Iterator[Finding]:
    folders = [Path(folder) for folder in get_data_dir().split(os.pathsep)] + [Path(get_user_data_dir())]
    found = any((folder / "proj.db").is_file() for folder in folders)
    yield Finding(
        name="PROJ",
        status=OK if found else BROKEN,
        value=f"{pyproj.proj_version_str}, data in {folders[0]}" if found else f"no proj.db in {folders[0]}",
        remedy="" if found else "install pyproj again; unset PROJ_DATA if it names another PROJ's folder",
    )
    there = [name for name, file in _GEOIDS.items() if any((folder / file).is_file() for folder in folders)]
    lacking = [name for name in _GEOIDS if name not in there]
    yield Finding(
        name="geoid grids",
        status=NOTE if lacking else OK,
        value=", ".join([*there, *(f"{name} is not there" for name in lacking)]),
        remedy=f"only for sources with target_vertical_crs: put {_GEOIDS[lacking[0]]} into {folders[-1]}, "
        "or name a grid by geoid_grid"
        if lacking
        else "",
    )


def _kernels(_: Settings) -> Iterator[Finding]:
    started = time.monotonic()
    native.warm_up()
    taken = time.monotonic() - started
    random = np.random.default_rng(1)
    heights = np.cumsum(random.standard_normal((512, 512)), axis=1).astype(np.float32)
    pixels = terrarium.encode(heights, 13)
    same = pixels is not None and bool(np.array_equal(decode_webp(encode_webp(pixels)), pixels))
    yield Finding(
        name="kernels",
        status=OK if same else BROKEN,
        value=f"{'loaded' if taken < 1 else 'compiled'} in {taken:.2f} s; "
        + ("a tile came back as it was" if same else "a tile did not come back as it was"),
        remedy="" if same else "remove fusi-kernels-*.bin and report it; FUSI_ENCODER=libwebp goes meanwhile",
    )


def _command(_: Settings) -> Iterator[Finding]:
    path = cli_path()
    said = "" if path is None else _answer([path, "version"])
    yield Finding(
        name="pmtiles command",
        status=NOTE if path is None else OK,
        value="not installed" if path is None else f"{path} {said}".strip(),
        remedy="only for a second opinion of `fusi verify` and for --packer cli: install go-pmtiles"
        if path is None
        else "",
    )


def _browser(_: Settings) -> Iterator[Finding]:
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = find_spec("playwright") is not None
    good = path is not None and driver
    yield Finding(
        name="browser",
        status=OK if good else NOTE,
        value=f"{path or 'no Chromium on the PATH'}, playwright is {'there' if driver else 'not installed'}",
        remedy=""
        if good
        else "only for isometric maps: install Chromium and fusi[browser], or set FUSI_CHROMIUM",
    )
    root = Path(__file__).parent.parent
    missing = [(what, recipe) for what, file, recipe in _PAGES if not (root / file).is_file()]
    yield Finding(
        name="pages",
        status=NOTE if missing else OK,
        value="not built: " + ", ".join(what for what, _ in missing) if missing else "built",
        remedy="with Node.js and npm: " + ", ".join(f"just {recipe}" for _, recipe in missing)
        if missing
        else "",
    )


def _memory(settings: Settings) -> Iterator[Finding]:
    total, available = machine_memory.total_mib(), machine_memory.available_mib()
    machine = int(psutil.virtual_memory().total) >> 20
    limited = f", of {machine} MiB of the machine, by a control group" if total < machine else ""
    need = 240 + worker_mib(settings.gdal_cache_mib)
    short = total < need
    tight = available < need
    yield Finding(
        name="memory",
        status=BROKEN if short else NOTE if tight else OK,
        value=f"{total} MiB{limited}; {available} MiB available; budget {settings.memory_mb} MiB",
        remedy=f"one worker takes {need} MiB in all: lower GDAL_CACHEMAX, or end other programs"
        if short or tight
        else "",
    )
    yield Finding(name="processors", status=OK, value=f"{processors()}, {settings.workers} workers")


def _limits(_: Settings) -> Iterator[Finding]:
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= files < _GOOD_FILES
    yield Finding(
        name="open files",
        status=BROKEN if 0 <= files < _LEAST_FILES else NOTE if few else OK,
        value="no limit" if files < 0 else str(files),
        remedy=f"ulimit -n {4 * _GOOD_FILES} before a run" if few else "",
    )
    for name, what in (("RLIMIT_FSIZE", "size of a file"), ("RLIMIT_AS", "memory of a process")):
        limit, _hard = resource.getrlimit(getattr(resource, name))
        if limit >= 0:
            yield Finding(
                name=what,
                status=NOTE,
                value=f"{limit >> 20} MiB",
                remedy="lift the limit (ulimit) for long runs",
            )


def _sources(settings: Settings) -> Iterator[Finding]:
    store = settings.source_store
    good = store.is_dir() and os.access(store, os.R_OK | os.X_OK)
    yield Finding(
        name="source store",
        status=OK if good else NOTE,
        value=f"{store.absolute()}{'' if good else ' cannot be read' if store.exists() else ' is not there'}",
        remedy="" if good else "make it, or name another by --source-store (FUSI_SOURCE_STORE)",
    )


def _scratch(settings: Settings) -> Iterator[Finding]:
    folder = settings.scratch_dir
    problem = _unwritable(_existing(folder))
    apart = not problem and _device(folder) != _device(settings.output_dir)
    free = free_mib(folder)
    small = apart and free < _LEAST_FREE_MIB
    yield Finding(
        name="temporary files",
        status=BROKEN if problem else NOTE if small else OK,
        value=f"{folder.absolute()}, {free} MiB free{', on another volume than the output' if apart else ''}"
        + (f"; {problem}" if problem else ""),
        remedy="unset TMPDIR, or set it to a folder on the volume of the output" if problem or small else "",
    )


def _disk(output: Path) -> tuple[list[Finding], float | None]:
    """Return what is found of the output's volume, and the MB it takes in a second."""
    folder, free = _existing(output), free_mib(output)
    kind = _filesystem(folder)
    found = [
        Finding(
            name="free space",
            status=OK if free >= _LEAST_FREE_MIB else NOTE,
            value=f"{free} MiB at {output.absolute()}",
            remedy=""
            if free >= _LEAST_FREE_MIB
            else "compare it with `fusi plan`; --output-dir names another disk",
        )
    ]
    if problem := _unwritable(folder):
        remedy = "give yourself the right to write there, or another --output-dir"
        return [*found, Finding(name="output", status=BROKEN, value=problem, remedy=remedy)], None
    with tempfile.TemporaryDirectory(prefix=".fusi-doctor-", dir=folder) as probe:
        speed, locks, cased = _written_mb_s(Path(probe)), _sqlite_problem(Path(probe)), _is_cased(Path(probe))
    network, weak = kind.startswith(_NETWORK), kind in ("vfat", "msdos", "tmpfs", "ramfs")
    words = [
        kind or "filesystem unknown",
        "upper and lower case differ" if cased else "upper and lower case are one",
    ]
    words += ["in a network"] if network else []
    words += [f"writes {speed:.0f} MB/s"] if speed is not None else []
    advice = {
        "vfat": "files end at 4 GiB there: use another file system", "msdos": "use another file system",
        "tmpfs": "it is memory and gone with the next start", "ramfs": "it is memory",
    }  # fmt: skip
    if locks:
        status, remedy = BROKEN, f"SQLite cannot work there ({locks}): give an --output-dir on a local disk"
    elif network:
        status, remedy = (
            NOTE,
            "locks and syncs of network disks are not to be trusted: build on a local disk, then copy",
        )
    else:
        status, remedy = (NOTE, advice[kind]) if weak else (OK, "")
    return [*found, Finding(name="output", status=status, value=", ".join(words), remedy=remedy)], speed


def _existing(path: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    folder = path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _unwritable(folder: Path) -> str:
    """Return why nothing can be written into a folder, empty where it can."""
    try:
        with tempfile.TemporaryFile(prefix=".fusi-doctor-", dir=folder) as probe:
            probe.write(b"fusi")
        return ""
    except OSError as error:
        return f"{folder} cannot be written to: {error.strerror or error}"


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


def _filesystem(folder: Path) -> str:
    """Return the kind of the file system of a folder, empty where that is not known."""
    best, kind = "", ""
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        if folder.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, partition.fstype.lower().removeprefix("fuse.")
    return kind


def _is_external(path: Path) -> bool:
    folder = f"{_existing(path)}/"
    return folder.startswith(_PLUGGED) or _filesystem(_existing(path)).startswith(_NETWORK)


def _written_mb_s(folder: Path) -> float | None:
    """Return how fast a file is written and on the disk, None where there is no room to try."""
    if free_mib(folder) < 4 * _PROBE_BYTES >> 20:
        return None
    path = folder / "speed"
    started = time.monotonic()
    path.write_bytes(os.urandom(1 << 20) * (_PROBE_BYTES >> 20))
    sync(path)
    return _PROBE_BYTES / 1e6 / max(time.monotonic() - started, 1e-6)


def _sqlite_problem(folder: Path) -> str:
    """Return why an archive cannot be written in a folder, as one is; empty where it can."""
    try:
        with closing(sqlite3.connect(folder / "probe.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            connection.execute("CREATE TABLE probe (value)")
        return "" if mode == "wal" else f"no write-ahead log, {mode}"
    except sqlite3.Error as error:
        return str(error)


def _is_cased(folder: Path) -> bool:
    (folder / "case").touch()
    return not (folder / "CASE").exists()


def _answer(command: list[str]) -> str:
    """Return the first line of what a command says of itself."""
    try:
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start ({error})"
    lines = (run.stdout or run.stderr).strip().splitlines()
    return lines[0] if lines else ""


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _versions,
    _gdal,
    _proj,
    _kernels,
    _command,
    _browser,
    _memory,
    _limits,
    _sources,
    _scratch,
)

"""The errors a person can act on, each named for its condition.

Every message names the thing, the condition and the remedy. `exit_code` is 2
where the command was given wrongly and 1 where the work failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path


class FusiError(Exception):
    """Any condition that fusi reports in one line, without a traceback."""

    exit_code = 1

    def __reduce__(self) -> tuple[Callable[[type[FusiError], str], FusiError], tuple[type[FusiError], str]]:
        """Pickle by the message, since a worker's error must reach the writer whatever made it."""
        return _restored, (type(self), str(self))


def _restored(kind: type[FusiError], message: str) -> FusiError:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


class UsageError(FusiError):
    """The command or setting itself is wrong; nothing was attempted."""

    exit_code = 2


class SettingInvalid(UsageError):
    """An environment variable or option holds a value that cannot be used."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name}={value!r}: expected {expected}")


class SourceMissing(UsageError):
    """A source is named that the source store does not hold."""

    def __init__(self, name: str, folder: Path, known: Sequence[str]) -> None:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known[:8])
        more = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
        have = f"it holds {', '.join(near)}{more}" if known else "it holds no source"
        super().__init__(
            f"source {name!r}: no folder {folder}; {have}; "
            "name one of these or set --source-store (FUSI_SOURCE_STORE)"
        )


class SourceEmpty(FusiError):
    """A source folder holds no raster that could be used."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"source {name!r}: {reason}")


class SourceUnreadable(FusiError):
    """A source file that the index lists cannot be opened or decoded."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}; restore the file, or run `fusi scan` again if it moved or changed"
        )


class RasterUnusable(FusiError):
    """The one raster that a command was given cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class SourcesBroken(FusiError):
    """Some files of a source cannot be used; each is named with what is wrong."""

    def __init__(self, name: str, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            ((filename, problem),) = problems
            super().__init__(
                f"source {name!r}: {filename}: {problem}; "
                "mend or remove it, or leave it out with --skip-broken"
            )
            return
        lines = "".join(f"\n  {filename}: {problem}" for filename, problem in problems)
        super().__init__(
            f"source {name!r}: {len(problems)} broken files; mend or remove them, "
            f"or leave them out with --skip-broken{lines}"
        )


class AreaEmpty(UsageError):
    """The area asked for does not touch the data."""

    def __init__(self, name: str, bbox: object, bounds: object) -> None:
        super().__init__(
            f"source {name!r}: --bbox {bbox} does not touch the data, which covers {bounds} "
            "(west,south,east,north)"
        )


class ZoomInvalid(UsageError):
    """A zoom range is empty or outside what the tile grid has."""

    def __init__(self, minzoom: int, maxzoom: int, reason: str) -> None:
        super().__init__(f"zoom range {minzoom}..{maxzoom}: {reason}")


class ArchiveMissing(UsageError):
    """A tile archive is named that does not exist."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: no such archive")


class ArchiveUnreadable(FusiError):
    """A file is not the archive it is taken for."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class ArchiveUnsuitable(FusiError):
    """An archive is sound but holds something the operation cannot use."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class ExtraMissing(FusiError):
    """Something was asked for that needs a package which is only installed on request."""

    def __init__(self, what: str, package: str, extra: str, instead: str) -> None:
        super().__init__(
            f"{what} needs {package}, which is not installed; install fusi[{extra}], or {instead}"
        )


class LineageMissing(FusiError):
    """An archive has no lineage to tell its sources from."""

    def __init__(self, path: Path, named: Path | None) -> None:
        found = f"its lineage {named} is not there, or of another merge" if named else "it names no lineage"
        super().__init__(
            f"{path}: {found}; make one with `fusi merge ... --lineage OUT`, or name a lineage archive"
        )


class TileCorrupt(FusiError):
    """A tile of an archive does not decode to what it should be."""

    def __init__(self, path: Path | str, tile: object, reason: str) -> None:
        super().__init__(
            f"{path}: tile {tile} is corrupt: {reason}; make the archive again or fetch it again "
            "(one that fusi built of a source: `fusi build NAME --overwrite`)"
        )


class OutputExists(UsageError):
    """An output would replace a file that this command did not write."""

    def __init__(self, path: Path, reason: str = "exists and was not written by this command") -> None:
        super().__init__(f"{path}: {reason}; choose another name or give --overwrite")


class OutputUnwritable(FusiError):
    """The folder for an output cannot be made or written to."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot be written: {reason}; choose a writable folder")


class OutputBusy(FusiError):
    """Another process is writing the same output."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: another fusi process is writing it; wait for it or end it first")


class DiskFull(FusiError):
    """The output's volume has no space left; what is committed stays whole."""

    def __init__(self, path: Path, free_mib: int) -> None:
        super().__init__(
            f"{path}: the disk is full ({free_mib} MiB free); "
            "free some space and run the same command again, finished work is kept"
        )


class DiskTooSmall(DiskFull):
    """The output's volume cannot hold what is planned; nothing was begun."""

    def __init__(self, path: Path, free_mib: int, expected_mib: int) -> None:
        super(DiskFull, self).__init__(
            f"{path}: the disk has {free_mib} MiB free, and about {expected_mib} MiB are to be written; "
            "free some space, give another --output-dir, or begin with --on-disk-full wait"
        )


class WorkerLost(FusiError):
    """Worker processes end without an answer."""

    def __init__(self, what: str, reason: str = "was killed, most likely for lack of memory") -> None:
        super().__init__(
            f"a worker process died while working on {what}: it {reason}; "
            "run the same command again with fewer --workers or a smaller --memory-mb"
        )


class WorkUnfinished(FusiError):
    """Some pieces of work could not be done, each tried again and in smaller parts; all others are done."""

    def __init__(self, subject: str, unit: str, lost: Sequence[tuple[str, str]], held_back: int = 0) -> None:
        """Name what is lost as (what, why); `held_back` pieces wait for them."""
        self.lost = tuple(lost)
        self.held_back = held_back
        named = ", ".join(f"{what} (a worker {why})" for what, why in lost[:8])
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        waiting = f", {held_back} wait for them" if held_back else ""
        super().__init__(
            f"{subject}: {len(lost)} {unit} could not be made{waiting}: {named}{more}; all others are done "
            "and kept: run the same command again, with fewer --workers or higher --watchdog limits"
        )


class SeveralUnfinished(FusiError):
    """Of several sources some work could not be done."""

    def __init__(self, errors: Sequence[WorkUnfinished]) -> None:
        super().__init__("".join(f"\n  {error}" for error in errors).lstrip())


class BudgetTooSmall(UsageError):
    """The memory budget does not hold one worker at its smallest block."""

    def __init__(self, memory_mb: int, needed_mb: int) -> None:
        super().__init__(f"--memory-mb {memory_mb}: one worker needs {needed_mb} MiB at least")


class PackerUnavailable(FusiError):
    """The `pmtiles` command was asked for and is not installed, or failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"--packer cli: {reason}; install the pmtiles command or use --packer builtin")


class AddressUnavailable(FusiError):
    """A server cannot listen where it was told to."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        remedy = "--port auto takes a free one" if port else "give another --host"
        super().__init__(f"{host}:{port or 'auto'}: cannot listen there: {reason}; {remedy}")


class Interrupted(BaseException):
    """The run was asked to stop (Ctrl-C or SIGTERM); committed work is kept.

    Its message, if any, says what was left instead of that the same command goes on.
    A BaseException, so that no handler of failures takes it for one.
    """


class SourceConfigInvalid(UsageError):
    """A `source.toml` cannot be read or says something that cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class InputOptionsInvalid(UsageError):
    """The file that lists the inputs of a merge cannot be read or says something that cannot be used."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class CutLineInvalid(UsageError):
    """The cut line of an input is no GeoJSON of areas."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; a cut line is a GeoJSON file of polygons in degrees")


class GeoidGridMissing(FusiError):
    """Heights cannot be converted because grids that this takes are not on the disk."""

    def __init__(self, source: str, grids: Sequence[str], folder: Path, more: str, what: str = "") -> None:
        noun, it = ("grid", "it") if len(grids) == 1 else ("grids", "them")
        way = f" to convert heights {what}" if what else ""
        missing = f"missing the {noun} {' and '.join(grids)}{way}"
        super().__init__(f"source {source!r}: {missing}; put {it} into {folder}, or {more}")


class OutsideGeoidGrid(FusiError):
    """A height lies where the conversion that is asked for has no value."""

    def __init__(self, source: str, what: str, lon: float, lat: float, file: str = "") -> None:
        self.file = file
        where = f"{file}, " if file else ""
        super().__init__(
            f"source {source!r}: {where}longitude {lon:.6f}, latitude {lat:.6f}: no value there to "
            f"convert heights ({what}); use a grid that covers the data, or leave it out with --bbox"
        )


class HeightsInconvertible(FusiError):
    """The conversion of heights that a source asks for cannot be made."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"source {source!r}: heights cannot be converted: {reason}")


class HeightsUndeclared(UsageError):
    """Heights are to be converted, but what they are counted from is not known, or contradicts the wish."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"source {source!r}: {reason}")


class SourceIndexInvalid(FusiError):
    """The index of a source is absent, damaged or of another version."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; make it with `fusi scan`")

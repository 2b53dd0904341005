"""What is true of an archive, re-derived from its bytes and not from what it says."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fusi_pipeline import integrity, lineage_check, lineage_files, picture_check
from fusi_pipeline.archive_rules import ArchiveRules, rules_of
from fusi_pipeline.deep import DeepResult, ZoomFigures, check_tiles, figures
from fusi_pipeline.errors import ArchiveUnreadable, PackerUnavailable
from fusi_pipeline.findings import ADVICE, DeepContext
from fusi_pipeline.integrity import check_seal, counts_of, kind_of, metadata_problems, structure_problems
from fusi_pipeline.pack import cli_path, cli_verify
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp, is_lossless_webp
from fusi_pipeline.tiles.open import open_archive

_MOST_PROBLEMS = 50
_FILE_ADVICE = "a file that is not what was written: make the archive again, or fetch it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepFacts:
    """What a deep check has shown besides problems."""

    places: int
    """Tiles that were drawn as a sample; 0 where all were checked."""
    seal: str
    """Of the digests of all tiles: `holds`, `broken`, `not stated`, or `not checked` in a sample."""
    lineage: Path | None
    """The lineage archive that was checked along."""
    zooms: tuple[ZoomFigures, ...]
    """Figures of parents and borders by zoom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was checked of an archive, and what is wrong with it."""

    path: Path
    format: str
    """`mbtiles` or `pmtiles`."""
    holds: str
    """`heights`, `lineage` or `pictures`, by what the archive states."""
    tiles: int
    decoded: int
    """Tiles that were decoded and looked at."""
    minimum_m: float | None
    """Least and greatest height among them; None where none was."""
    maximum_m: float | None
    second_opinion: str
    """What the `pmtiles` command said: `ok`, its complaint, or `not installed`."""
    problems: tuple[str, ...]
    """One sentence each; empty where the archive is sound."""
    suspects: tuple[str, ...] = ()
    """What looks wrong and may be right, of a deep check."""
    advice: tuple[str, ...] = ()
    """What to do about the kinds of problems and suspects there are."""
    deep: DeepFacts | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(path: Path, *, sample: int = 1000) -> Generator[Progress, None, VerifyReport]:
    """Check the structure of an archive and decode `sample` tiles spread over it, 0 for all.

    Raises ArchiveMissing, and ArchiveUnreadable where the file cannot be read at all.
    """
    with _text_of(path), open_archive(path) as reader:
        found = structure_problems(reader)
        counts = counts_of(reader, found) if integrity.is_readable(found) else {}
        if counts or not found:
            found.extend(metadata_problems(reader, counts))
        total = sum(counts.values())
        stride = max(1, total // sample) if sample else 1
        wanted = len(range(0, total, stride))
        decoded, low, high = 0, np.inf, -np.inf
        for tile in _spread(reader, counts, stride):
            decoded += 1
            problem, limits = _tile_problem(reader, tile)
            if problem:
                found.append(f"tile {tile}: {problem}")
            low, high = min(low, limits[0]), max(high, limits[1])
            if decoded % 20 == 0 or decoded == wanted:
                yield Progress("verify", decoded, wanted, "tiles")
            if len(found) >= _MOST_PROBLEMS:
                found.append(f"and perhaps more: stopped after {_MOST_PROBLEMS} problems")
                break
        kind, holds = kind_of(reader), _held(reader)
    opinion = _second_opinion(path, kind, found)
    return VerifyReport(
        path=path,
        format=kind,
        holds=holds,
        tiles=total,
        decoded=decoded,
        minimum_m=_known(low),
        maximum_m=_known(high),
        second_opinion=opinion,
        problems=tuple(found),
    )


def verify_deep(
    path: Path, settings: Settings, *, sample: int = 0, lineage: Path | None = None
) -> Generator[Progress, None, VerifyReport]:
    """Check an archive wholly: file, digests, every tile with its parent, its neighbours and its lineage.

    With `sample` only so many tiles spread over it, with what lies around them,
    and no digests. `lineage` is the lineage archive where the metadata does not
    name it. Raises ArchiveMissing, ArchiveUnreadable, and ArchiveUnsuitable for
    a lineage that is none.
    """
    check = _Deep(path, settings, sample)
    with ExitStack() as stack:
        stack.enter_context(_text_of(path))
        reader = stack.enter_context(open_archive(path))
        beside = lineage_check.lineage_for(path, reader.metadata, lineage, check.suspects)
        sources = stack.enter_context(lineage_files.open_lineage(beside)) if beside else None
        try:
            yield from check.run(reader, sources)
        except ArchiveUnreadable as error:
            if not check.problems:
                raise
            check.problems.append(f"nothing else was checked: {error}")
        return check.report(reader, beside)


@dataclass(slots=True)
class _Deep:
    """A deep check under way."""

    path: Path
    settings: Settings
    sample: int
    problems: list[str] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)
    seal: str = "not checked"
    counts: dict[int, int] = field(default_factory=dict)
    result: DeepResult = field(default_factory=DeepResult)
    opinion: str = "not asked"
    pictures: int = 0
    """Pictures that were looked at."""
    advice: list[str] = field(default_factory=list)

    def run(self, reader: TileReader, sources: TileReader | None) -> Generator[Progress, None, None]:
        """Check all there is to check; a sample as large as the archive is all of it."""
        self.counts = counts_of(reader, [])
        if self.sample >= sum(self.counts.values()):
            self.sample = 0
        self.seal = yield from self._file(reader, "")
        if sources is not None:
            yield from self._file(sources, f"lineage {sources.path.name}: ")
            self.problems += lineage_check.pair_problems(reader, sources)
        elif lineage_files.is_lineage(reader.metadata):
            self._with_terrain(reader)
        if self.counts and reader.metadata.is_picture:
            pictures = yield from picture_check.check_families(
                reader, self.counts, self.settings.workers, sample=self.sample
            )
            self.pictures = pictures.tiles
            self.advice = [picture_check.ADVICE] if pictures.problems else []
            self.problems += pictures.problems
        elif self.counts:
            context = DeepContext(self.path, sources.path if sources else None)
            self.result = yield from check_tiles(reader, context, self.settings, sample=self.sample)
            if sources is not None and not self.sample:
                self.problems += lineage_check.credit_problems(reader.metadata, self.result.winners)
            missed = sum(self.counts.values()) - self.result.tiles
            if missed and not self.sample:
                self.problems.append(f"{missed} tiles are listed and cannot be found")
        self.opinion = _second_opinion(self.path, kind_of(reader), self.problems)

    def _file(self, reader: TileReader, prefix: str) -> Generator[Progress, None, str]:
        """Check one archive as a whole; return what became of its digests.

        Raises ArchiveUnreadable where SQLite finds it damaged, which is noted.
        """
        found = structure_problems(reader, wholly=True)
        self.problems += [f"{prefix}{text}" for text in found]
        if not integrity.is_readable(found):
            raise ArchiveUnreadable(reader.path, "SQLite finds it damaged")
        found = []
        counts = counts_of(reader, found)
        found += metadata_problems(reader, counts)
        misplaced, doubtful = integrity.place_problems(reader, counts)
        found += misplaced
        self.suspects += [f"{prefix}{text}" for text in doubtful]
        verdict = "not checked"
        if not self.sample:
            seal = yield from check_seal(reader)
            verdict = seal.verdict
            found += seal.problems
        self.problems += [f"{prefix}{text}" for text in found]
        return verdict

    def _with_terrain(self, reader: TileReader) -> None:
        """Compare a lineage archive with the terrain that it names, where that is beside it."""
        terrain = lineage_files.named(self.path, reader.metadata, lineage_files.TERRAIN_KEY)
        if terrain is not None and terrain.is_file():
            with open_archive(terrain) as other:
                self.problems += lineage_check.pair_problems(other, reader)

    def report(self, reader: TileReader, beside: Path | None) -> VerifyReport:
        """Return what was found."""
        rules, result = rules_of(reader.metadata), self.result
        kinds = dict.fromkeys((*result.problems.kinds, *result.suspects.kinds))
        advice = [*self.advice, *(ADVICE[kind] for kind in kinds)]
        by_file = [_FILE_ADVICE] if self.problems and not self.advice else []
        return VerifyReport(
            path=self.path,
            format=kind_of(reader),
            holds=_held(reader),
            tiles=sum(self.counts.values()),
            decoded=result.tiles or self.pictures,
            minimum_m=_known(result.minimum_m),
            maximum_m=_known(result.maximum_m),
            second_opinion=self.opinion,
            problems=(*self.problems, *result.problems.lines()),
            suspects=(*self.suspects, *result.suspects.lines()),
            advice=(*by_file, *advice),
            deep=self._facts(rules, beside),
        )

    def _facts(self, rules: ArchiveRules, beside: Path | None) -> DeepFacts:
        zooms = figures(self.result, rules)
        return DeepFacts(places=self.sample, seal=self.seal, lineage=beside, zooms=zooms)


@contextmanager
def _text_of(path: Path) -> Iterator[None]:
    """Take damaged text, which SQLite hands on even within its own errors, for a file that cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ArchiveUnreadable(path, f"holds text that is none ({error.reason}); make it again") from error


def _held(reader: TileReader) -> str:
    if reader.metadata.is_picture:
        return "pictures"
    return "lineage" if lineage_files.is_lineage(reader.metadata) else "heights"


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _spread(reader: TileReader, counts: dict[int, int], stride: int) -> Iterator[Tile]:
    """Yield every `stride`-th tile of an archive, zoom by zoom."""
    position = 0
    for z in sorted(counts):
        coordinates = reader.coordinates(z)
        for x, y in coordinates[(-position) % stride :: stride].tolist():
            yield Tile(z, x, y)
        position += len(coordinates)


def _tile_problem(reader: TileReader, tile: Tile) -> tuple[str, tuple[float, float]]:
    """Return what is wrong with a tile, and its least and greatest height."""
    nothing = (np.inf, -np.inf)
    try:
        data = reader.read(tile)
    except ArchiveUnreadable as error:
        return str(error), nothing
    if data is None:
        return "is listed and cannot be read", nothing
    if reader.metadata.is_picture:
        return picture_check.tile_problem(data, reader.metadata, tile), nothing
    try:
        pixels = decode_webp(data)
    except ImageInvalid as error:
        return str(error), nothing
    if pixels.shape[:2] != (TILE_SIZE_PX, TILE_SIZE_PX):
        return f"is {pixels.shape[1]} x {pixels.shape[0]} px", nothing
    limits = nothing
    if not lineage_files.is_lineage(reader.metadata):
        heights = terrarium.decode(pixels)
        if not np.isnan(heights).all():
            limits = float(np.nanmin(heights)), float(np.nanmax(heights))
    if not is_lossless_webp(data):
        return "is not lossless", limits
    rules = rules_of(reader.metadata)
    if (rules.final or rules.is_lineage) and pixels.shape[2] == 4:
        return "has an alpha channel in a final archive", limits
    return "", limits


def _second_opinion(path: Path, kind: str, found: list[str]) -> str:
    """Return what the `pmtiles` command says of an archive; a complaint is noted as a problem too."""
    if kind != "pmtiles":
        return "not asked"
    if cli_path() is None:
        return "not installed"
    try:
        opinion = cli_verify(path) or "ok"
    except PackerUnavailable as error:
        opinion = str(error)
    if opinion != "ok":
        found.append(f"pmtiles verify: {opinion}")
    return opinion

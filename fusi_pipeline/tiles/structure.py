"""What is wrong with the structure of a PMTiles archive, re-derived from its directories."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveUnreadable
from fusi_pipeline.tiles import directory as codec
from fusi_pipeline.tiles.directory import (
    COMPRESSIONS,
    DEGREE_E7,
    DIRECTORY_DIGEST,
    FIRST_READ_BYTES,
    HEADER_BYTES,
    TILE_DIGEST,
    TILE_TYPES,
    Entries,
    Header,
    Visit,
    sections,
)
from fusi_pipeline.tiles.pmtiles import PMTilesReader, zoom_of

_ROUNDING_E7 = 100
"""1e-5 degrees, a metre: programs write places with five digits and more."""
_FORMAT_NAMES = {"jpeg": "jpg", "mvt": "pbf"}
"""Other names of formats than MBTiles has."""


def problems(path: Path) -> list[str]:
    """Return what is wrong with the structure of an archive, a sentence each; empty where it is sound.

    Derives every claim of the header from the directories again, and holds
    header, directories and metadata against each other; looks into no tile.
    Whatever passes, `pmtiles verify` passes too. Raises ArchiveMissing.
    """
    try:
        with PMTilesReader(path) as reader:
            found = [*layout_problems(reader.header, path.stat().st_size), *_padding_problems(reader)]
            if is_sealed(reader):
                found += _claim_problems(reader)
            else:
                found += _gzip_problems(reader) + _contradictions(reader.header, reader.document)
            return found + _directory_problems(reader)
    except ArchiveUnreadable as error:
        return [str(error).removeprefix(f"{path}: ")]


def is_sealed(reader: PMTilesReader) -> bool:
    """Tell whether the metadata states digests of the rest, as the writer of `pmtiles_writer` does."""
    return DIRECTORY_DIGEST in reader.document


def tile_data_problem(reader: PMTilesReader) -> Generator[int, None, str]:
    """Hash the tile data, yielding the bytes done; return what is wrong with it, or nothing.

    Nothing also where the archive states no digest. Raises ArchiveUnreadable.
    """
    stated = reader.document.get(TILE_DIGEST)
    if stated is None:
        return ""
    found, done = hashlib.sha256(), 0
    for part in reader.section("tile data"):
        found.update(part)
        done += len(part)
        yield done
    if found.hexdigest() == stated:
        return ""
    return "the tile data is not what was written: its SHA-256 is not the one that the metadata states"


def _padding_problems(reader: PMTilesReader) -> list[str]:
    """Return what is wrong with the unused bytes between root directory and the first 16 KiB."""
    end = reader.header.root_offset + reader.header.root_length
    with reader.path.open("rb") as file:
        file.seek(end)
        unused = file.read(max(0, min(FIRST_READ_BYTES, *_starts_after(reader.header, end)) - end))
    return ["the unused bytes behind the root directory are not all zero"] if any(unused) else []


def _starts_after(header: Header, end: int) -> list[int]:
    """Return where the sections behind a position start."""
    found = [offset for _, offset, length in sections(header) if length and offset >= end]
    return found or [end, end]


def _gzip_problems(reader: PMTilesReader) -> list[str]:
    """Return what is wrong with compressed sections in bits that no checksum covers."""
    header = reader.header
    if header.internal_compression != codec.GZIP:
        return []
    visited: list[Visit] = []
    for _ in reader.walk(visited=visited):
        pass
    start = header.leaf_directory_offset
    places = [
        ("root directory", header.root_offset, header.root_length),
        ("metadata", header.metadata_offset, header.metadata_length),
        *((f"leaf directory at {leaf.offset}", start + leaf.offset, leaf.length) for leaf in visited),
    ]
    found = []
    with reader.path.open("rb") as file:
        for what, offset, length in places:
            file.seek(offset)
            doubt = codec.gzip_doubt(file.read(length)) if length else ""
            found += [f"the {what} {doubt}"] if doubt else []
    return found


def _claim_problems(reader: PMTilesReader) -> list[str]:
    """Return where the sections of an archive with digests do not agree."""
    header, found = reader.header, []
    stored = b"".join(reader.section("metadata"))
    if stored != codec.enclose(codec.inflate(stored, codec.GZIP)):
        found.append("the metadata is not stored as it was written")
    digest = hashlib.sha256()
    for what in ("root directory", "leaf directories"):
        for part in reader.section(what):
            digest.update(part)
    if digest.hexdigest() != reader.document[DIRECTORY_DIGEST]:
        found.append("the directories are not what was written: their SHA-256 is not the stated one")
    for what, said, true in (
        ("where the root directory starts", header.root_offset, HEADER_BYTES),
        ("where the tile data starts", header.tile_data_offset, FIRST_READ_BYTES),
        ("where the metadata starts", header.metadata_offset, FIRST_READ_BYTES + header.tile_data_length),
        (
            "where the leaf directories start",
            header.leaf_directory_offset,
            header.metadata_offset + header.metadata_length,
        ),
        ("the clustered flag", header.clustered, 1),
        ("the internal compression", header.internal_compression, codec.GZIP),
        ("the tile compression", header.tile_compression, codec.NONE),
        *_repeated(header, reader.document),
    ):
        if said != true:
            found.append(f"the header says {said} for {what}; what was written is {true}")
    return found


def _contradictions(header: Header, document: Mapping[str, object]) -> list[str]:
    """Return where header and metadata of any archive state different things."""
    stated = dict(document)
    for key in ("minzoom", "maxzoom"):
        if str(stated.get(key, "")).isdecimal():
            stated[key] = int(str(stated[key]))
    for key in ("bounds", "center"):
        stated[key] = _numbers(stated.get(key))
    kind = str(stated.get("format") or "").lower().removeprefix("image/")
    stated["format"] = _FORMAT_NAMES.get(kind, kind) or None
    return [
        f"the header says {said} for {what}, the metadata {true}"
        for what, said, true in _repeated(header, stated)
        if true is not None and not _alike(said, true)
    ]


def _numbers(stated: object) -> object:
    """Return numbers that are written with commas between them as a list, anything else as it is."""
    if not isinstance(stated, str):
        return stated
    try:
        numbers = [float(part) for part in stated.split(",")]
    except ValueError:
        return stated
    return [*numbers[:2], int(numbers[2])] if len(numbers) == 3 else numbers


def _alike(said: object, true: object) -> bool:
    """Tell whether two facts are the same, places up to how programs round them."""
    if isinstance(said, tuple) and isinstance(true, tuple) and len(said) == len(true):
        return all(abs(one - other) <= _ROUNDING_E7 for one, other in zip(said, true, strict=True))
    return said == true


def _repeated(header: Header, document: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """Return (what, as the header has it, as the metadata has it) of the facts that both state."""
    corners = (header.min_lon_e7, header.min_lat_e7, header.max_lon_e7, header.max_lat_e7)
    middle = (header.center_lon_e7, header.center_lat_e7, header.center_zoom)
    kind = TILE_TYPES[header.tile_type] if header.tile_type < len(TILE_TYPES) else header.tile_type
    return [
        ("the lowest zoom", header.min_zoom, document.get("minzoom")),
        ("the highest zoom", header.max_zoom, document.get("maxzoom")),
        ("the tile type", kind, document.get("format")),
        ("the bounds", corners, _stated_box(document.get("bounds"))),
        ("the centre", middle, _stated_center(document.get("center"))),
    ]


def _stated_box(stated: object) -> object:
    """Return the bounds of the metadata as the header has them, or as they are where they are none."""
    match stated:
        case [int() | float(), int() | float(), int() | float(), int() | float()]:
            return codec.box_e7(*stated)
        case _:
            return stated


def _stated_center(stated: object) -> object:
    """Return the centre of the metadata as the header has it, or as it is where it is none."""
    match stated:
        case [int() | float() as lon, int() | float() as lat, int() as zoom]:
            return round(lon * DEGREE_E7), round(lat * DEGREE_E7), zoom
        case _:
            return stated


def _directory_problems(reader: PMTilesReader) -> list[str]:
    header = reader.header
    visited: list[Visit] = []
    audit = Audit(header.tile_data_length, header.clustered == 1)
    for entries in reader.walk(visited=visited):
        audit.feed(entries)
    if audit.pending:
        for entries in reader.walk():
            audit.resolve(entries)
    found = leaf_problems(visited, header.leaf_directory_length) + audit.problems()
    for what, said, true in (
        ("tiles addressed", header.addressed_tiles_count, audit.tiles),
        ("tile entries", header.tile_entries_count, audit.entries),
        ("tile contents", header.tile_contents_count, audit.contents),
        ("as lowest zoom", header.min_zoom, zoom_of(max(audit.first_id, 0))),
        ("as highest zoom", header.max_zoom, zoom_of(max(audit.next_id - 1, 0))),
    ):
        if said != true:
            found.append(f"the header says {said} {what}, the directories {true}")
    return found


class Audit:
    """What the tile entries of an archive amount to, and what is wrong among them.

    Feed every entry by `feed`, in order; then, where `pending` says so, all of
    them once more by `resolve`. Memory grows only with the entries that repeat
    earlier bytes (or all of them, where the archive is not clustered).
    """

    def __init__(self, tile_data_length: int, clustered: bool) -> None:
        self.tiles = 0
        """Tiles addressed."""
        self.entries = 0
        """Entries seen."""
        self.first_id = -1
        self.next_id = 0
        """One more than the last id addressed."""
        self.end = 0
        """One more than the last byte of tile data in use."""
        self._fresh = 0
        self._length = tile_data_length
        self._clustered = clustered
        self._found: dict[str, tuple[int, int]] = {}
        self._others = np.empty((0, 2), dtype=np.uint64)
        self._matched = np.empty(0, dtype=bool)
        self._resolved_end = 0

    def feed(self, entries: Entries) -> None:
        """Take in the next entries; none of them may point to a leaf directory."""
        ids, offsets, lengths = entries.ids, entries.offsets, entries.lengths
        ends = ids + entries.runs
        before = np.concatenate([np.array([self.next_id], dtype=np.uint64), ends[:-1]])
        self._note("not in ascending order, or overlapping the entry before", ids, ids < before)
        self._note("without bytes", ids, lengths == 0)
        room = np.uint64(self._length) - np.minimum(offsets, np.uint64(self._length))
        self._note("outside the tile data", ids, lengths > room)
        fresh, tops = _fresh(self.end, offsets, lengths)
        if self._clustered:
            self._note("out of order in tile data that is said to be clustered", ids, offsets > tops[:-1])
        if self.first_id < 0:
            self.first_id = int(ids[0])
        self.tiles += int(entries.runs.sum())
        self.entries += len(ids)
        self.next_id = max(self.next_id, int(ends.max()))
        self.end = int(tops[-1])
        self._fresh += int(fresh.sum())
        others = np.stack([offsets[~fresh], lengths[~fresh]], axis=1)
        if len(others):
            self._others = np.unique(np.concatenate([self._others, others]), axis=0)
            self._matched = np.zeros(len(self._others), dtype=bool)

    @property
    def pending(self) -> bool:
        """Whether entries that repeat earlier bytes are left to resolve."""
        return len(self._others) > 0

    def resolve(self, entries: Entries) -> None:
        """Match the repeating entries with those they repeat; feed all entries again, in order."""
        fresh, tops = _fresh(self._resolved_end, entries.offsets, entries.lengths)
        self._resolved_end = int(tops[-1])
        offsets, lengths = entries.offsets[fresh], entries.lengths[fresh]
        if not len(offsets):
            return
        places = np.minimum(np.searchsorted(offsets, self._others[:, 0]), len(offsets) - 1)
        same = offsets[places] == self._others[:, 0]
        self._matched |= same
        differing = same & (lengths[places] != self._others[:, 1])
        self._note("of another length than the entry whose bytes they share", self._others[:, 0], differing)

    @property
    def contents(self) -> int:
        """Distinct offsets among the entries."""
        return self._fresh + len(np.unique(self._others[~self._matched, 0]))

    def problems(self) -> list[str]:
        """Return one sentence for each kind of thing that is wrong."""
        found = [
            f"{count} {'entry is' if count == 1 else 'entries are'} {what} (the first at {first})"
            for what, (count, first) in self._found.items()
        ]
        lost = self._others[~self._matched, 0]
        if self._clustered and len(lost):
            found.append(f"entries share bytes that start where no entry's do (the first at {lost[0]})")
        if self.end < self._length:
            found.append(f"{self._length - self.end} bytes at the end of the tile data belong to no tile")
        return found

    def _note(self, what: str, where: npt.NDArray[np.uint64], wrong: npt.NDArray[np.bool_]) -> None:
        if wrong.any():
            count, first = self._found.get(what, (0, int(where[np.argmax(wrong)])))
            self._found[what] = (count + int(wrong.sum()), first)


def _fresh(
    end: int, offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """Tell which entries continue right where all bytes before them end.

    `end` is where the bytes before the first entry end. Returns that mask,
    shape (n,), and the ends before each entry and after the last, (n + 1,).
    """
    start = np.array([end], dtype=np.uint64)
    tops = np.maximum.accumulate(np.concatenate([start, offsets + lengths]))
    return offsets == tops[:-1], tops


def layout_problems(header: Header, size: int) -> list[str]:
    """Return what is wrong with a header as such, in a file of `size` bytes, a sentence each."""
    parts = sections(header)
    found = [f"the {what} has the offset 0" for what, offset, _ in parts if offset == 0]
    if header.root_offset + header.root_length > FIRST_READ_BYTES:
        found.append(f"the root directory does not end within the first {FIRST_READ_BYTES} bytes")
    ends, last = HEADER_BYTES, "header"
    for what, offset, length in sorted(parts, key=lambda section: section[1:]):
        if length and offset < ends:
            found.append(f"the {what} overlaps the {last}")
        padded = last == "root directory" and offset == FIRST_READ_BYTES
        if length and offset > ends and not padded:
            found.append(f"{offset - ends} bytes between the {last} and the {what} belong to no section")
        if length:
            ends, last = max(ends, offset + length), what
    total = sum(length for _, _, length in parts)
    if size not in (HEADER_BYTES + total, FIRST_READ_BYTES + total - header.root_length):
        found.append(f"the file has {size} bytes, which is not what its sections add up to")
    for what, value, values in (
        ("clustered flag", header.clustered, range(2)),
        ("tile compression", header.tile_compression, range(len(COMPRESSIONS))),
        ("tile type", header.tile_type, range(len(TILE_TYPES))),
    ):
        if value not in values:
            found.append(f"the header's {what} is {value}, which has no meaning")
    return found + _place_problems(header)


def _place_problems(header: Header) -> list[str]:
    """Return what is wrong with bounds and centre."""
    found = []
    unset = header.center_zoom == header.center_lon_e7 == header.center_lat_e7 == 0
    for what, low, high, center, limit in (
        ("longitude", header.min_lon_e7, header.max_lon_e7, header.center_lon_e7, 180 * DEGREE_E7),
        ("latitude", header.min_lat_e7, header.max_lat_e7, header.center_lat_e7, 90 * DEGREE_E7),
    ):
        places = (center, -center) if abs(center) == 180 * DEGREE_E7 else (center,)
        if not -limit <= low < high <= limit:
            found.append(f"the bounds run from {what} {low / DEGREE_E7} to {high / DEGREE_E7}")
        if abs(center) > limit:
            found.append(f"the centre has the {what} {center / DEGREE_E7}")
        elif not unset and not any(low - _ROUNDING_E7 <= one <= high + _ROUNDING_E7 for one in places):
            found.append(f"the centre has the {what} {center / DEGREE_E7}, which is not within the bounds")
    if not header.min_zoom <= header.center_zoom <= header.max_zoom:
        found.append(f"the centre has the zoom {header.center_zoom}, which is not between the others")
    return found


def leaf_problems(visited: list[Visit], section_length: int) -> list[str]:
    """Return what is wrong with how leaf directories lie in their section, a sentence each."""
    found = []
    end = 0
    for leaf in sorted(visited, key=lambda visit: visit.offset):
        if leaf.depth > 1:
            found.append(f"the leaf directory at {leaf.offset} is reached by way of another leaf")
        if leaf.announced_id != leaf.first_id:
            found.append(
                f"the leaf directory at {leaf.offset} starts with id {leaf.first_id}, not {leaf.announced_id}"
            )
        if leaf.offset != end:
            found.append(f"the leaf directory at {leaf.offset} does not start where others end, at {end}")
        end = leaf.offset + leaf.length
    if end != section_length:
        found.append(f"the leaf directories take {end} bytes, their section has {section_length}")
    return found

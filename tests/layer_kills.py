"""A layer drawn over HTTP by processes that are killed at random: what it paid, and what it has.

    python -m tests.layer_kills --kills 30 --seed 7 --runners 2

kills `fusi layer generate` so often, at random moments and at those when a file
appears, starts it again each time, and checks the laws that `Outcome.faults` states.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from layer_generation.camera import MercatorGrid
from layer_generation.desk import seed_of
from layer_generation.layer import init_layer
from layer_generation.layer_config import EndpointConfig
from layer_generation.pictures import Pixels, decoded, png
from layer_generation.progress import Progress
from layer_generation.quadrants import QuadrantStore
from layer_generation.received import FOLDER
from tests.image_server import ImageServer

Quadrant = tuple[int, int]
SLOTS = 2
_JUST_NOW_S = 0.25
"""An answer that was sent so shortly before a kill may still have been under way to the disk, where a call
ends."""
_STEP_S = 0.0005
_FAR_S = 120.0
_FUSI = """
import click
from fusi_pipeline import console
from layer_generation.cli import layer
console.main(click.Group("fusi", commands={"layer": layer}))
"""
"""The command `fusi` of these sources, whatever is installed."""
MOMENTS = ("at random", "a picture", "an answer", "the folder of a block")


def source(x: int, y: int) -> Pixels:
    """Return the picture of a quadrant, shape (512, 512, 3): no two pixels of a map nearby are alike."""
    rows, cols = np.mgrid[0:512, 0:512]
    return np.stack([(rows // 3 + 31 * x) % 199, (cols + 17 * y) % 197, (rows + cols) % 251], axis=-1).astype(
        np.uint8
    )


def plain(x: int, y: int) -> Pixels:
    """Return a picture of one colour, which costs little time."""
    return np.full((512, 512, 3), (31 * x % 199, 17 * y % 197, (5 * x + 3 * y) % 251), dtype=np.uint8)


def disc(radius: int, holes: float, seed: int) -> list[Quadrant]:
    """Return the quadrants of a disc, some of them missing."""
    luck = random.Random(seed)
    around = range(-radius, radius + 1)
    return [(x, y) for y in around for x in around if x * x + y * y <= radius**2 and luck.random() >= holes]


def made_map(folder: Path, quadrants: Sequence[Quadrant], of: Callable[[int, int], Pixels] = source) -> Path:
    """Write a map whose quadrants have renders."""
    with QuadrantStore.create(folder, MercatorGrid(zoom=12)) as store:
        store.put("render", ((x, y, png(of(x, y))) for x, y in quadrants))
    return folder


def made_layer(folder: Path, place: Path, endpoints: Sequence[EndpointConfig], **params: object) -> Path:
    """Make a layer over a map."""
    init_layer(
        folder,
        name="killed",
        generation_dir=place,
        source_layer="renders",
        endpoints=endpoints,
        params=params,
    )
    return folder


def command(layer: Path, *words: str) -> list[str]:
    """Return the words that draw a layer."""
    return [
        sys.executable, "-c", _FUSI, "layer", "generate", "--layer-dir", str(layer),
        "--progress-interval", "0.5", *words,
    ]  # fmt: skip


def hashes(layer: Path) -> dict[str, str]:
    """Return the SHA-256 of each file among the layer's pictures, by its path there."""
    folder = layer / "generations"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclass(frozen=True, slots=True)
class Life:
    """A runner from its start to its kill or end (`time.monotonic`)."""

    began: float
    ended: float
    killed: bool
    held: frozenset[object] = frozenset()
    """Of a killed one the blocks that it was making and had no answer on the disk for, by their seeds."""


@dataclass(slots=True)
class Outcome:
    """What a layer came to."""

    blocks: int
    seeds: set[object]
    lives: list[Life]
    files: dict[str, str]
    wanted: dict[str, str]
    """The files of a run that nobody disturbed."""
    statuses: Counter[str]
    calls: list[tuple[object, float, float]] = field(default_factory=list)
    """Of each call the seed, its arrival and its answer."""

    @property
    def kills(self) -> int:
        """How often a runner was killed."""
        return sum(life.killed for life in self.lives)

    def in_flight(self, *, just_now_s: float = _JUST_NOW_S) -> Counter[object]:
        """Return, by seed, how often a call of a killed runner was under way when it was killed.

        That is a call whose answer was not on the disk, and had not left the server longer ago than
        `just_now_s`; with 0, a call that the server was still at.
        """
        found: Counter[object] = Counter()
        for life in self.lives:
            asked = {
                seed
                for seed, arrived, answered in self.calls
                if life.began <= arrived <= life.ended + 1.0 and answered >= life.ended - just_now_s
            }
            found.update(asked & life.held)
        return found

    def faults(self) -> list[str]:
        """Return what of the promises does not hold."""
        paid, under_way = Counter(seed for seed, _, _ in self.calls), self.in_flight()
        found = [
            f"block of seed {seed}: paid for {paid[seed]} times, {under_way[seed]} of them under way at kills"
            for seed in self.seeds
            if not 1 <= paid[seed] <= 1 + under_way[seed]
        ]
        if set(paid) != self.seeds:
            found.append("calls for something that is no block")
        if len(self.calls) > self.blocks + SLOTS * self.kills:
            found.append(f"{len(self.calls)} calls for {self.blocks} blocks and {self.kills} kills")
        if self.files != self.wanted:
            names = sorted(name for name in {**self.files, **self.wanted}
                           if self.files.get(name) != self.wanted.get(name))  # fmt: skip
            found.append(f"files that are missing, stray or different: {names[:8]}")
        if set(self.statuses) != {"complete"}:
            found.append(f"statuses {dict(self.statuses)}")
        return found


class Killer:
    """Starts runners on a layer and kills them, each with all its processes."""

    def __init__(self, layer: Path, luck: random.Random, words: Sequence[str] = ()) -> None:
        self.layer = layer
        self.lives: list[Life] = []
        self._luck = luck
        self._words = words
        with Progress(layer) as progress:
            self._seeds = {block.id: seed_of(0, block) for block in progress.blocks()}

    def start(self) -> tuple[subprocess.Popen[bytes], float]:
        """Start a runner."""
        began = time.monotonic()
        return (
            subprocess.Popen(
                command(self.layer, *self._words),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            ),
            began,
        )  # fmt: skip

    def end(self, runner: subprocess.Popen[bytes], began: float, *, kill: bool) -> bool:
        """End a runner by a kill, or wait for it; tell whether it had ended by itself."""
        over = runner.poll() is not None
        held = set() if over or not kill else self._held(runner)
        if kill and not over:
            os.killpg(runner.pid, signal.SIGKILL)
        ended = time.monotonic()
        code = runner.wait(timeout=_FAR_S)
        if kill and not over:
            held = (held | self._held(runner)) - self._stored()
        self.lives.append(Life(began, ended, kill and not over, frozenset(held)))
        assert kill or code == 0, f"a runner that nobody killed ended with {code}"
        return over

    def wait(self, runner: subprocess.Popen[bytes], moment: str, most_s: float) -> None:
        """Wait for a moment of a runner's life."""
        if self._luck.random() < 0.85:
            self._at_work(runner)
        until = time.monotonic() + self._luck.uniform(0.0, most_s)
        before = self._names()
        count = self._luck.randrange(1, 12)
        while time.monotonic() < until and runner.poll() is None:
            time.sleep(_STEP_S)
            if moment == "at random":
                continue
            new = self._names() - before
            kinds = {"a picture": ".png", "an answer": ".answer", "the folder of a block": ".part.d"}
            if sum(name.endswith(kinds[moment]) for name in new) >= count:
                return

    def _at_work(self, runner: subprocess.Popen[bytes]) -> None:
        """Wait until a runner has claimed a block, or ended."""
        while runner.poll() is None and not self._held(runner):
            time.sleep(0.01)

    def _held(self, runner: subprocess.Popen[bytes]) -> set[object]:
        """Return the seeds of the blocks that a runner is making."""
        with closing(sqlite3.connect(self.layer / "progress.db", timeout=30)) as database:
            rows = database.execute(
                "SELECT id, worker FROM generation_plan WHERE status = 'in_progress'"
            ).fetchall()
        mine = {block for block, worker in rows if f":{runner.pid}:" in (worker or "")}
        return {seed for block, seed in self._seeds.items() if block in mine}

    def _stored(self) -> set[object]:
        """Return the seeds of the blocks whose answers are on the disk."""
        folder = self.layer / "generations" / FOLDER
        blocks = {int(path.name.partition("-")[0]) for path in folder.glob("*.answer")}
        return {seed for block, seed in self._seeds.items() if block in blocks}

    def _names(self) -> set[str]:
        folder = self.layer / "generations"
        found = {entry.name for entry in os.scandir(folder)}
        with suppress(FileNotFoundError):
            found |= {entry.name for entry in os.scandir(folder / FOLDER)}
        return found


def moments(luck: random.Random, kills: int) -> Iterator[str]:
    """Yield when to kill."""
    for number in range(kills):
        yield MOMENTS[number % len(MOMENTS)] if kills < 8 else luck.choice(MOMENTS)


def killed_run(
    layer: Path, server: ImageServer, kills: int, seed: int, *, runners: int = 1, most_s: float = 3.0
) -> list[Life]:
    """Draw a layer by one or two runners, of which the first is killed so often; return their lives."""
    luck = random.Random(seed)
    killer = Killer(layer, luck)
    others = [killer.start() for _ in range(runners - 1)]
    for moment in moments(luck, kills):
        runner, began = killer.start()
        killer.wait(runner, moment, most_s)
        if killer.end(runner, began, kill=True):
            break
    if runners == 1 or luck.random() < 0.5:
        killer.end(*killer.start(), kill=False)
    for runner, began in others:
        killer.end(runner, began, kill=False)
    return killer.lives


def undisturbed(folder: Path, place: Path, server: ImageServer) -> dict[str, str]:
    """Return the files of the same layer drawn by one runner that nobody kills."""
    layer = made_layer(folder, place, [endpoint(server)])
    subprocess.run(command(layer), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return hashes(layer)


def endpoint(server: ImageServer) -> EndpointConfig:
    """Return the server as an endpoint of a layer."""
    return server.config("base64", name="one", concurrency=SLOTS)


def outcome(layer: Path, server: ImageServer, lives: list[Life], wanted: dict[str, str]) -> Outcome:
    """Return what became of a layer."""
    with Progress(layer) as progress:
        blocks = list(progress.blocks())
    return Outcome(
        blocks=len(blocks),
        seeds={call.seed for call in server.calls},
        lives=lives,
        files=hashes(layer),
        wanted=wanted,
        statuses=Counter(block.status for block in blocks),
        calls=[(call.seed, call.arrived, call.answered) for call in server.calls],
    )


def all_readable(layer: Path) -> bool:
    """Tell whether every picture of a layer decodes to a quadrant."""
    paths = list((layer / "generations").glob("*.png"))
    return all(decoded(path.read_bytes(), path).shape == (512, 512, 3) for path in paths)


def main() -> None:
    """Kill, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runners", type=int, default=1)
    parser.add_argument("--radius", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ImageServer() as server:
        root, luck = Path(folder), random.Random(given.seed)
        place = made_map(root / "map", disc(given.radius, 0.06, given.seed))
        wanted = undisturbed(root / "calm", place, server)
        server.calls.clear()
        server.takes_s = lambda: luck.uniform(0.02, 0.15) * (20 if given.runners > 1 else 1)
        layer = made_layer(root / "layer", place, [endpoint(server)])
        lives = killed_run(layer, server, given.kills, given.seed, runners=given.runners)
        found = outcome(layer, server, lives, wanted)
        extra = len(found.calls) - found.blocks
        exact, late = sum(found.in_flight(just_now_s=0.0).values()), sum(found.in_flight().values())
        said = (
            f"seed {given.seed}: {found.blocks} blocks, {found.kills} kills, {len(found.calls)} calls:"
            f" {extra} more than blocks. Under way at kills were {late}: at {exact} the server was still,"
            f" of {late - exact} the answer was being read, not yet on the disk"
        )
        sys.stdout.write("\n".join([said, *(found.faults() or ["every promise holds"])]) + "\n")
        sys.exit(bool(found.faults()) or not all_readable(layer))


if __name__ == "__main__":
    main()

"""How long a run will still take: what the plan predicts, corrected by what was measured. Pure.

A plan predicts seconds by kinds of work (see `progress.Work`). Each kind is
given a factor, fitted to the time that passed while known amounts of each were
done; where little of a kind was done its factor stays near that of all
together. What comes before the first unit of a stage is done (processes start,
code is compiled) says nothing of the rest and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fusi_pipeline.progress import TILES, Progress, Work

Vector = npt.NDArray[np.float64]

_LEAST_STEP_S = 0.2
"""Moments closer together are taken as one: processes answer in bursts."""
_SPEEDS = (0.4, 2.5)
"""Measured by predicted time of reading that is believed of other stages too, before they run."""
_PRIOR_S = 1.0
"""How long the prediction is believed against what is measured."""
_STIFFNESS = 0.3
"""How strongly a kind keeps to the factor of all, as a share of what was done of it, less with time."""
_MOST_APART = 8.0
"""A kind's factor is at most this many times that of all, or this part of it."""


@dataclass(slots=True, eq=False)
class _Fit:
    """Measured times against predicted work of one stage."""

    kinds: int
    absolute: bool
    """Whether work is in seconds, so that the prediction means something before anything was measured."""
    speed: float = 1.0
    """Measured by predicted time that is expected before anything was measured."""
    elapsed_s: float = 0.0
    steps: int = 0
    done: Vector = field(init=False)
    _squares: npt.NDArray[np.float64] = field(init=False)
    _products: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.done = np.zeros(self.kinds)
        self._squares = np.zeros((self.kinds, self.kinds))
        self._products = np.zeros(self.kinds)

    def add(self, work: Vector, seconds: float) -> None:
        """Note that `work`, predicted seconds by kind, took so long; the variance grows with the work."""
        size = float(work.sum())
        if size <= 0:
            return
        self.elapsed_s += seconds
        self.steps += 1
        self.done += work
        self._squares += np.outer(work, work) / size
        self._products += work * (seconds / size)

    @property
    def measured(self) -> bool:
        """Whether anything was."""
        return bool(self.done.sum() > 0)

    @property
    def factor(self) -> float:
        """Measured by predicted time, of all kinds together."""
        prior = _PRIOR_S if self.absolute else 0.0
        work = float(self.done.sum()) + prior
        return (self.elapsed_s + prior * self.speed) / work if work else 1.0

    def factors(self) -> Vector:
        """Return measured by predicted time for each kind."""
        common = self.factor
        if self.kinds == 1:
            return np.array([common])
        stiff = np.diag(_STIFFNESS / self.steps**0.5 * self.done + 1e-3 * self.done.sum())
        solved = np.linalg.solve(self._squares + stiff, self._products + stiff @ np.full(self.kinds, common))
        return np.clip(solved, common / _MOST_APART, common * _MOST_APART)


class Forecast:
    """Listens to the moments of a run and says how long it will still take."""

    def __init__(self) -> None:
        self._fits: dict[tuple[str, int], _Fit] = {}
        self._title = ""
        self._start: Vector | None = None
        """What was done when the stage began, until something more is; then None."""
        self._at_s: float | None = None
        self._counted = np.zeros(0)

    def take(self, progress: Progress, now_s: float) -> float | None:
        """Return the seconds that are left at a moment; None where that cannot be said.

        They are those of the whole run as far as the moment tells of what comes
        after its stage, else of the stage. `now_s` is a time that only grows.
        """
        if progress.note:
            if progress.stage == "wait":
                self._at_s = None  # time that passes without work
            return None
        done, total = _vectors(progress)
        fit = self._fits.get((progress.stage, len(done)))
        if fit is None:
            fit = _Fit(len(done), progress.work is not None, self._speed())
            self._fits[progress.stage, len(done)] = fit
        self._measure(progress, fit, done, now_s)
        left = np.maximum(total - done, 0.0)
        if not progress.total or not (fit.measured or (fit.absolute and self._known())):
            return None
        left_s = float(left @ fit.factors() if fit.measured else left.sum() * self._factor_of(progress.stage))
        return left_s + sum(seconds * self._factor_of(stage) for stage, seconds in progress.ahead)

    def _measure(self, progress: Progress, fit: _Fit, done: Vector, now_s: float) -> None:
        if (
            progress.title != self._title
            or len(done) != len(self._counted)
            or done.sum() < self._counted.sum()
        ):
            self._title, self._start, self._at_s, self._counted = progress.title, done, None, done
        if self._start is not None:
            if done.sum() <= self._start.sum():
                return
            self._start = None
        if self._at_s is None:
            self._at_s, self._counted = now_s, done
        elif now_s - self._at_s >= _LEAST_STEP_S and done.sum() > self._counted.sum():
            fit.add(np.maximum(done - self._counted, 0.0), now_s - self._at_s)
            self._at_s, self._counted = now_s, done

    def _known(self) -> list[_Fit]:
        """Return the fits by which a prediction of another stage can be corrected: those that know kinds."""
        return [one for one in self._fits.values() if one.absolute and one.kinds > 1 and one.measured]

    def _factor_of(self, stage: str) -> float:
        """Return measured by predicted time of a stage; where it did not run, of tiles elsewhere."""
        own = [
            fit for (name, _), fit in self._fits.items() if name == stage and fit.absolute and fit.measured
        ]
        if own:
            return own[-1].factor
        known = self._known()
        weights = [float(one.done.sum()) for one in known]
        factors = [float(one.factors()[TILES]) for one in known]
        return (float(np.dot(weights, factors)) + _PRIOR_S * self._speed()) / (sum(weights) + _PRIOR_S)

    def _speed(self) -> float:
        """Return measured by predicted time as the scan tells it, within bounds: a slow disk is not all."""
        scans = [fit for (stage, _), fit in self._fits.items() if stage == "scan" and fit.absolute]
        return float(np.clip(scans[-1].factor, *_SPEEDS)) if scans else 1.0


def _vectors(progress: Progress) -> tuple[Vector, Vector]:
    work = progress.work or Work((float(progress.done),), (float(progress.total),))
    return np.array(work.done, dtype=np.float64), np.array(work.total, dtype=np.float64)

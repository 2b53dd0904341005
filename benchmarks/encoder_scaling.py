"""How much more two threads encode than one, beside what two processes do, which share no lock.

One thread, two threads and two processes encode all tiles in turn, so that what else the machine
does meets all three alike. Two processes are what the machine gives at the time: where threads
reach less than they do, a lock is in the way.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles import vp8l

Pixels = npt.NDArray[np.uint8]


def scaling(tiles: list[Pixels], rounds: int) -> dict[str, object]:
    """Return ratios of wall and CPU time, medians over rounds, each with its least and most.

    Forks; the calling process must have one thread.
    """

    def encode_all() -> None:
        for pixels in tiles:
            vp8l.encode(pixels, any_picture=True)

    encode_all()
    context = multiprocessing.get_context("fork")
    begin, end = context.Barrier(3), context.Barrier(3)
    others = [
        context.Process(target=_serve, args=(encode_all, begin, end, rounds), daemon=True) for _ in range(2)
    ]
    for process in others:
        process.start()
    threads, processes, beside, stretch = [], [], [], []
    for _ in range(rounds):
        one_s, one_cpu_s = _one(encode_all)
        threads_s, threads_cpu_s = _threads(encode_all)
        begin.wait()
        started = time.perf_counter()
        end.wait()
        processes_s = time.perf_counter() - started
        threads.append(2 * one_s / threads_s)
        processes.append(2 * one_s / processes_s)
        beside.append(processes_s / threads_s)
        stretch.append(threads_cpu_s / (2 * one_cpu_s))
    for process in others:
        process.join()
    return {
        "two_threads_over_one": _spread(threads),
        "two_processes_over_one": _spread(processes),
        "two_threads_over_two_processes": _spread(beside),
        "cpu_of_a_tile_in_two_threads_by_one": _spread(stretch),
        "rounds": rounds,
    }


def _one(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU seconds of work in this thread."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


def _threads(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU seconds of the work done twice, in two threads."""
    threads = [threading.Thread(target=work) for _ in range(2)]
    started, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, time.process_time() - cpu


def _serve(work: Callable[[], None], begin: Barrier, end: Barrier, rounds: int) -> None:
    for _ in range(rounds):
        begin.wait()
        work()
        end.wait()


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }

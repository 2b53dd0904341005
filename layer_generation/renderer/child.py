"""The process that draws: it holds the browser, takes cells on standard input, answers on standard output.

A request is a line of JSON. An answer is a line of JSON that ends with the
number of bytes that follow. The process ends with its owner: when standard
input is closed, whatever it is doing, it ends the browser and itself and takes
its temporary files away. When anything but a request fails it ends too, with the
reason as its last answer; its owner starts another.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from fusi_pipeline.errors import FusiError
from layer_generation.renderer.browser import Drawing, open_page
from layer_generation.renderer.page_server import PageServer
from layer_generation.renderer.views import Window, view_from

_WATCH_S = 1.0
_end_begun = threading.Lock()
_log = logging.getLogger(__name__)


def main() -> None:
    """Draw until standard input ends: `python -m layer_generation.renderer.child BROWSER SCRATCH_FOLDER`."""
    browser, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints, prints to the log
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, scratch), daemon=True).start()
    threading.Thread(target=_watch, args=(os.getppid(), scratch), daemon=True).start()
    opened = ExitStack()  # never closed: a browser that failed may not answer to that either
    try:
        server = opened.enter_context(PageServer())
        drawing = opened.enter_context(open_page(browser, server.address))
        _tell(answers, {"ready": drawing.version})
        while True:
            _answer(requests.get(), server, drawing, answers)
    except Exception as error:  # noqa: BLE001 - handed to the owner, who starts another process
        if not _of_the_browser(error):
            _log.exception("the drawing process failed")
        with suppress(OSError):  # nobody reads it where the owner is gone
            _tell(answers, {"broken": " ".join(str(error).split())[:400]})
        _end(scratch, 3)


def _answer(request: dict[str, Any], server: PageServer, drawing: Drawing, answers: BinaryIO) -> None:
    """Answer a request. playwright's own errors come through, which end the process."""
    if "ping" in request:
        drawing.page.evaluate("0")
        _tell(answers, {})
        return
    scenes = server.scenes
    try:
        view = view_from(request["view"])
        scene, job = scenes.job(view, request["left"], request["top"], Window(*request["window"]))
    except FusiError as error:
        _tell(answers, {"error": type(error).__name__, "reason": str(error)})
        return
    job |= {"tiles_at": f"{server.path}tiles/{scene}/", "answer": f"{server.path}cells/{request['id']}"}
    drawing.said.clear()
    try:
        facts = drawing.page.evaluate("(job) => window.renderer.draw(job)", job)
    except Exception as error:
        failure = scenes.failure
        if failure is None or not _of_the_browser(error):
            raise
        _tell(answers, {"error": type(failure).__name__, "reason": str(failure)})
        return
    _tell(answers, dict(facts), server.taken(request["id"]))


def _of_the_browser(error: Exception) -> bool:
    from playwright.sync_api import Error

    return isinstance(error, Error)


def _tell(answers: BinaryIO, facts: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps({**facts, "bytes": len(data)}).encode() + b"\n" + data)
    answers.flush()


def _read(requests: queue.SimpleQueue[dict[str, Any]], scratch: Path) -> None:
    """Queue the requests; end everything when the owner closes the pipe or is no more."""
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    _end(scratch)


def _watch(owner: int, scratch: Path) -> None:
    """End everything when the owner is no more, though another process it forked holds the pipe open."""
    while os.getppid() == owner:
        time.sleep(_WATCH_S)
    _end(scratch)


def _end(scratch: Path, code: int = 0) -> None:
    """End the browser and this process at once; take the temporary files away. Never returns."""
    _end_begun.acquire()  # whoever comes second waits here until the process is no more
    for process in _below():
        try:
            process.kill()
        except psutil.Error:
            _log.debug("%s is gone already", process)
    psutil.wait_procs(list(_below()), timeout=3)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(code)


def _below() -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process().children(recursive=True)
    except psutil.Error:
        return


if __name__ == "__main__":
    main()

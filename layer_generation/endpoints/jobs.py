"""Pictures that a server draws in the background: submit, ask now and then, cancel."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Protocol, TypeVar

from layer_generation.endpoints.base import (
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    EndpointUnreached,
    Stop,
)
from layer_generation.endpoints.exchange import AnswerUnusable, Call, Server
from layer_generation.endpoints.failures import cleaned

Asked = TypeVar("Asked", contravariant=True)
Found = TypeVar("Found", covariant=True)
Request = TypeVar("Request")
Result = TypeVar("Result")

FIRST_POLL_S = 0.5
_LONGEST_POLL_S = 5.0
_POLL_GROWTH = 1.5
_LONGEST_ASKED_S = 60.0
"""More than that is not waited for between two questions, whatever the server asks for."""
_FAILURES = 5
"""Questions in a row that may fail before a job is given up."""
_UNUSABLE = 3
"""Answers in a row without a state or a picture that could be read, after which a job is given up."""
_UNKNOWN = 2
"""Answers in a row that the server knows no such job, after which it is taken for lost."""
_SUBMIT_S = 3.0
"""So long a caller who wants to stop waits for the id of a job, without which it cannot be cancelled."""
_CANCEL_S = 3.0
_LONGEST_ID = 200
_NEVER = ("INVALID_REQUEST", "invalid_request", "invalid_parameter", "content_policy_violation")
"""Codes of jobs that would fail again."""


class JobLost(Exception):
    """The server does not know the job any more."""

    def __init__(self, job: str, *, sure: bool = False) -> None:
        super().__init__(job)
        self.sure = sure
        """Whether the protocol has looked twice, so that there is no need to ask again."""


class _Reluctant:
    """A wish to stop that is heard only some seconds after it was uttered."""

    def __init__(self, stop: Stop, seconds: float) -> None:
        self._stop = stop
        self._seconds = seconds
        self._heard: float | None = None

    def is_set(self) -> bool:
        """Tell whether to stop."""
        if self._heard is None and self._stop.is_set():
            self._heard = time.monotonic()
        return self._heard is not None and time.monotonic() - self._heard >= self._seconds

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until told to stop or until the time is over; tell which."""
        self._stop.wait(timeout)
        return self.is_set()


class Jobs(Protocol[Asked, Found]):
    """How a protocol speaks of jobs."""

    def submit(self, call: Call, request: Asked) -> str:
        """Begin a picture; return the job's id."""
        ...

    def poll(self, call: Call, job: str) -> Found | EndpointError | None:
        """Return the picture, why there is none, or None while it is under way. Raises JobLost."""
        ...

    def cancel(self, call: Call, job: str) -> None:
        """Ask the server to stop drawing."""
        ...


def drawn(server: Server, jobs: Jobs[Request, Result], request: Request, stop: Stop, poll_s: float) -> Result:
    """Return the picture of a job; one that the server lost is submitted once more.

    A job that is not waited for any more (stop, time over, no usable answers, lost) is cancelled.
    """
    call = server.call(stop)
    for _ in range(2):
        job = jobs.submit(call.stopped_by(_Reluctant(stop, _SUBMIT_S)), request)
        try:
            found = _awaited(call, jobs, job, poll_s)
        except JobLost:  # to this client; whoever answered may not be who draws
            _cancel(server, jobs, job)
            continue
        except BaseException:
            _cancel(server, jobs, job)
            raise
        if isinstance(found, EndpointError):
            raise found
        return found
    raise EndpointRetryable("lost the job, and another one after it")


def _cancel(server: Server, jobs: Jobs[Request, Result], job: str) -> None:
    """Ask the server to stop drawing, if it still hears; whatever ended the wait is told, not this."""
    with contextlib.suppress(EndpointError):
        jobs.cancel(server.call(threading.Event(), _CANCEL_S), job)


def _awaited(call: Call, jobs: Jobs[Request, Result], job: str, poll_s: float) -> Result | EndpointError:
    """Ask for a job until it ended. A question that fails is asked again, since the job may well go on.

    Returns the picture, or why the server ended the job without one. Raises JobLost and EndpointError
    where the job is given up and may be under way.
    """
    failures = unusable = unknown = 0
    wait_s = poll_s
    while True:
        call.sleep(wait_s)
        asked_s = 0.0
        try:
            found = jobs.poll(call, job)
            failures = unusable = unknown = 0
        except JobLost as lost:
            found = None
            unknown += 1
            if lost.sure or unknown >= _UNKNOWN:
                raise
        except EndpointRetryable as error:
            found = None
            failures += 1
            unusable += isinstance(error, AnswerUnusable)
            if failures >= _FAILURES and isinstance(error, EndpointUnreached):
                said = f"{error}; a picture was under way there and may be lost"
                raise EndpointUnreached(said, error.retry_after_s) from error
            if unusable >= _UNUSABLE or failures >= _FAILURES:
                raise
            asked_s = min(error.retry_after_s or 0.0, _LONGEST_ASKED_S)
        if found is not None:
            return found
        wait_s = max(min(wait_s * _POLL_GROWTH, _LONGEST_POLL_S), asked_s)


def id_of(stated: object) -> str:
    """Return the id of a job as a server states it, which becomes part of an address.

    Raises AnswerUnusable unless it is 1..200 printable ASCII characters without `/`, `?` and `#`.
    """
    if not isinstance(stated, str) or not stated:
        raise AnswerUnusable("answers without the id of a job")
    if len(stated) > _LONGEST_ID:
        raise AnswerUnusable(
            f"answers with a job's id of {len(stated)} characters; at most {_LONGEST_ID} are taken"
        )
    if stated in (".", "..") or not all(" " <= one <= "~" and one not in "/?#" for one in stated):
        raise AnswerUnusable(
            f"answers with a job's id that is no part of an address ({cleaned(ascii(stated))}); "
            "expected printable ASCII without / ? #"
        )
    return stated


def ended(status: str, error: object) -> EndpointError:
    """Return why a job ended without a picture."""
    told = error if isinstance(error, dict) else {"message": error}
    code, message = str(told.get("code") or ""), str(told.get("message") or "")
    text = cleaned(": ".join(part for part in (code, message) if part))
    said = f"the server's job {status}" + (f" ({text})" if text else "")
    return EndpointPermanent(said) if code in _NEVER else EndpointRetryable(said)

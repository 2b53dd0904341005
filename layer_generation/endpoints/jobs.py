"""Pictures that a server draws in the background: submit, ask now and then, cancel."""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol

from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    Stop,
)
from layer_generation.endpoints.exchange import AnswerUnusable, Call, Server
from layer_generation.endpoints.failures import cleaned

FIRST_POLL_S = 0.5
_LONGEST_POLL_S = 5.0
_POLL_GROWTH = 1.5
_LONGEST_ASKED_S = 60.0
"""More than that is not waited for between two questions, whatever the server asks for."""
_FAILURES = 5
"""Questions in a row that may fail before a job is given up."""
_CANCEL_S = 3.0
_NEVER = ("INVALID_REQUEST", "invalid_request", "invalid_parameter", "content_policy_violation")
"""Codes of jobs that would fail again."""


class JobLost(Exception):
    """The server does not know the job any more."""


class Jobs(Protocol):
    """How a protocol speaks of jobs."""

    def submit(self, call: Call, request: EditRequest) -> str:
        """Begin a picture; return the job's id."""
        ...

    def poll(self, call: Call, job: str) -> EditResult | EndpointError | None:
        """Return the picture, why there is none, or None while it is under way. Raises JobLost."""
        ...

    def cancel(self, call: Call, job: str) -> None:
        """Ask the server to stop drawing."""
        ...


def drawn(server: Server, jobs: Jobs, request: EditRequest, stop: Stop, poll_s: float) -> EditResult:
    """Return the picture of a job; one that the server lost is submitted once more.

    A job that is not waited for any more (stop, time over, no answers) is cancelled.
    """
    call = server.call(stop)
    for _ in range(2):
        job = jobs.submit(call, request)
        try:
            found = _awaited(call, jobs, job, poll_s)
        except JobLost:
            continue
        except BaseException:
            with contextlib.suppress(EndpointError):
                jobs.cancel(server.call(threading.Event(), _CANCEL_S), job)
            raise
        if isinstance(found, EndpointError):
            raise found
        return found
    raise EndpointRetryable("lost the job, and another one after it")


def _awaited(call: Call, jobs: Jobs, job: str, poll_s: float) -> EditResult | EndpointError:
    """Ask for a job until it ended. A question that fails is asked again, since the job may well go on."""
    failures = 0
    wait_s = poll_s
    while True:
        call.sleep(wait_s)
        asked_s = 0.0
        try:
            found = jobs.poll(call, job)
            failures = 0
        except AnswerUnusable as error:
            return error
        except EndpointRetryable as error:
            found = None
            failures += 1
            if failures >= _FAILURES:
                raise
            asked_s = min(error.retry_after_s or 0.0, _LONGEST_ASKED_S)
        if found is not None:
            return found
        wait_s = max(min(wait_s * _POLL_GROWTH, _LONGEST_POLL_S), asked_s)


def ended(status: str, error: object) -> EndpointError:
    """Return why a job ended without a picture."""
    told = error if isinstance(error, dict) else {"message": error}
    code, message = str(told.get("code") or ""), str(told.get("message") or "")
    text = cleaned(": ".join(part for part in (code, message) if part))
    said = f"the server's job {status}" + (f" ({text})" if text else "")
    return EndpointPermanent(said) if code in _NEVER else EndpointRetryable(said)

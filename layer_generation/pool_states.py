"""How patient a pool of model servers is, and how its servers stand, as values."""

from __future__ import annotations

from dataclasses import dataclass

CLOSED, OPEN, HALF_OPEN, QUARANTINE = "closed", "open", "half-open", "quarantine"
STATES = (CLOSED, OPEN, HALF_OPEN, QUARANTINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How patient a pool is."""

    failures_to_open: int = 3
    """Failures in a row after which a server rests."""
    first_rest_s: float = 1.0
    """Longest first rest; each further one may be twice as long."""
    longest_rest_s: float = 60.0
    longest_retry_after_s: float = 900.0
    """More than that is not waited for when a server asks to wait; it is asked again then."""
    quarantine_s: float = 600.0
    """Until a server in quarantine is tried again."""
    give_up_s: float = 60.0
    """A server that failed for so long, without one success, is not waited for when no other is left.

    Twice the wait that it asked for last comes on top.
    """


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a picture that failed."""

    retry_after_s: float
    """How long to leave it before it is tried again."""
    counts_as_attempt: bool
    """Whether this was one of the attempts that the picture has."""
    permanent: bool
    """Whether to give it up: no server that is left would do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """How a server stands, for status pages."""

    name: str
    state: str
    """One of STATES."""
    slots: int
    in_flight: int
    succeeded: int
    failed: int
    failures_in_a_row: int
    reason: str
    """Why it failed last; empty after a success."""
    rests_s: float
    """Until it is tried again; 0 where it may work now."""
    failing_s: float
    """Since it began to fail without a success between; 0 after a success."""
    gave_up: bool
    """Whether it is not waited for any more."""
    mean_s: float | None
    """Recent mean time for one picture."""

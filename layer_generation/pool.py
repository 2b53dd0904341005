"""Model servers at work: which may take a picture now, which rests, which is out, and why.

A pool holds no thread and no database. A worker for each slot asks its slot,
works, and reports:

    wait_s = slot.acquire()
    if wait_s > 0:                      # rests or is out: sleep that long at most, ask again
        ...
    block = claim() if slot.helps(left) else None
    if block is None:
        slot.release()                  # nothing to do; the permit goes back
    try:
        answer = slot.endpoint.edit(request, stop)
    except EndpointError as error:
        verdict = slot.failed(error, block.id)
    else:
        slot.succeeded(seconds)

Free slots pull work, so fast servers do more. Each server has a circuit breaker:
`closed` it works; after some failures in a row it is `open` and rests, each time
longer, at random up to a limit that doubles; then it is `half-open` and one slot
tries one picture, which closes the circuit or opens it again. A server that
refuses the key, the route or the model, or whose quota is used up, is in
`quarantine`, and tried again rarely.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from layer_generation.endpoints.base import Endpoint, EndpointCancelled, EndpointError, EndpointPermanent
from layer_generation.errors import EndpointsExhausted
from layer_generation.pool_states import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    QUARANTINE,
    STATES,
    EndpointState,
    PoolLimits,
    Verdict,
)

__all__ = [
    "CLOSED", "HALF_OPEN", "OPEN", "QUARANTINE", "STATES", "EndpointState", "Pool", "PoolLimits", "Slot",
    "Verdict",
]  # fmt: skip

_ROUNDS_LEFT = 2
"""No server is tried any more when those that work have fewer rounds of pictures left than that."""
_REFUSED_SHARE = 4
"""A refused picture rests for such a part of the time that another server takes for one."""
_SHARE_OF_LAST = 0.2
"""Weight of the last picture in the mean time of a server's pictures."""


@dataclass(slots=True)
class _Server:
    """What a pool knows of one server. All changes are made under the pool's lock."""

    name: str
    slots: int
    state: str = CLOSED
    in_flight: int = 0
    succeeded: int = 0
    failed: int = 0
    in_a_row: int = 0
    openings: int = 0
    """How often it opened without a success between."""
    rest_until: float = -math.inf
    failing_since: float | None = None
    asked_s: float = 0.0
    """The wait that it asked for when it failed last."""
    reason: str = ""
    mean_s: float | None = None
    trial: int | None = None
    """The permit that tries a half-open server."""
    blamed: set[Hashable] = field(default_factory=set)
    """Pictures that an attempt was counted for since its last success."""


class Slot:
    """One of the requests that a server takes at a time. One slot is for one thread."""

    def __init__(self, pool: Pool, endpoint: Endpoint, server: _Server, number: int) -> None:
        self.endpoint = endpoint
        self.number = number
        """1, 2, ... within the server."""
        self._pool = pool
        self._server = server
        self._rest_until = -math.inf
        self._permit: int | None = None
        self._was_closed = True

    @property
    def name(self) -> str:
        """The server's name."""
        return self._server.name

    def acquire(self) -> float:
        """Take the permit for one picture and return 0, or return the seconds to wait before asking again.

        A permit ends with `succeeded`, `failed` or `release`.
        """
        return self._pool._acquire(self)

    def helps(self, left: int) -> bool:
        """Tell whether to take one of so many pictures that nobody has begun.

        Not where the other servers that work would have drawn all of them before
        this one has drawn one: near the end of a run a slow server, or one that
        is being tried, only prolongs it.
        """
        return self._pool._helps(self, left)

    def release(self) -> None:
        """Give the permit back unused."""
        self._pool._ended(self)

    def succeeded(self, seconds: float) -> None:
        """Report a picture, and the time it took."""
        self._pool._succeeded(self, seconds)

    def failed(self, error: EndpointError, picture: Hashable = None) -> Verdict:
        """Report a failure; return what is to become of the picture, which any value may name."""
        return self._pool._failed(self, error, picture)


class Pool:
    """The servers of a run. Threads may share it."""

    def __init__(
        self,
        endpoints: Iterable[tuple[Endpoint, int]],
        limits: PoolLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Take servers, each with the number of requests that it takes at a time.

        `clock` returns seconds, `chance` a random number of 0 to 1.
        """
        self.limits = limits or PoolLimits()
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._permits = 0
        self._servers: list[_Server] = []
        self._slots: list[Slot] = []
        self._refusals: dict[Hashable, set[str]] = {}
        self._most: int | None = None
        for endpoint, slots in endpoints:
            server = _Server(endpoint.name, slots)
            self._servers.append(server)
            self._slots += [Slot(self, endpoint, server, number) for number in range(1, slots + 1)]

    def slots(self) -> Sequence[Slot]:
        """Return every slot of every server, the first ones of all servers before the second ones."""
        return sorted(self._slots, key=lambda slot: slot.number)

    def limit_to(self, most: int | None) -> None:
        """Let no more pictures than so many be under way at a time, at whichever servers."""
        with self._lock:
            self._most = most

    def states(self) -> tuple[EndpointState, ...]:
        """Return how each server stands now."""
        with self._lock:
            now = self._clock()
            return tuple(
                EndpointState(
                    name=one.name,
                    state=self._state(one, now),
                    slots=one.slots,
                    in_flight=one.in_flight,
                    succeeded=one.succeeded,
                    failed=one.failed,
                    failures_in_a_row=one.in_a_row,
                    reason=one.reason,
                    rests_s=max(0.0, one.rest_until - now),
                    failing_s=0.0 if one.failing_since is None else now - one.failing_since,
                    gave_up=self._gave_up(one, now),
                    mean_s=one.mean_s,
                )
                for one in self._servers
            )

    def exhausted(self) -> str | None:
        """Return why no server could go on, each with its reason; None while one may.

        A server with a picture under way may go on.
        """
        with self._lock:
            now = self._clock()
            if any(one.in_flight or not self._gave_up(one, now) for one in self._servers):
                return None
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in self._servers)
            return reasons or "no endpoint is configured"

    def check(self) -> None:
        """Raise EndpointsExhausted where no server could go on."""
        reason = self.exhausted()
        if reason is not None:
            raise EndpointsExhausted(
                f"no model endpoint is left to go on with: {reason}; "
                "mend one and run the same command again, finished work is kept"
            )

    def close(self) -> None:
        """Release the connections of every server."""
        for endpoint in {id(slot.endpoint): slot.endpoint for slot in self._slots}.values():
            endpoint.close()

    # What slots ask and report

    def _acquire(self, slot: Slot) -> float:
        server = slot._server
        with self._lock:
            assert slot._permit is None, "a slot does one picture at a time"
            now = self._clock()
            rest_s = max(server.rest_until, slot._rest_until) - now
            if rest_s > 0:
                return rest_s
            if self._most is not None and sum(one.in_flight for one in self._servers) >= self._most:
                return self.limits.first_rest_s
            if server.state in (OPEN, QUARANTINE):
                server.state = HALF_OPEN
            if server.state == HALF_OPEN and server.trial is not None:
                return self.limits.first_rest_s
            self._permits += 1
            slot._permit = self._permits
            slot._was_closed = server.state == CLOSED
            if server.state == HALF_OPEN:
                server.trial = slot._permit
            server.in_flight += 1
            return 0.0

    def _helps(self, slot: Slot, left: int) -> bool:
        server = slot._server
        with self._lock:
            known = [(one.slots, one.mean_s) for one in self._others_at_work(server) if one.mean_s]
            if slot._permit is not None and not slot._was_closed and known:
                return left > _ROUNDS_LEFT * sum(slots for slots, _ in known)
            if server.mean_s is None or not known:
                return True
            a_second = sum(slots / mean_s for slots, mean_s in known)
            return server.mean_s <= left / a_second + min(mean_s for _, mean_s in known)

    def _ended(self, slot: Slot) -> bool:
        """End a permit; tell whether it was the one that tries a half-open server."""
        with self._lock:
            return self._end(slot)

    def _end(self, slot: Slot) -> bool:
        server = slot._server
        assert slot._permit is not None, "a report needs a permit"
        was_trial = server.trial == slot._permit
        if was_trial:
            server.trial = None
        slot._permit = None
        server.in_flight -= 1
        return was_trial

    def _succeeded(self, slot: Slot, seconds: float) -> None:
        server = slot._server
        with self._lock:
            self._end(slot)
            server.succeeded += 1
            mean_s = seconds if server.mean_s is None else server.mean_s
            server.mean_s = mean_s + _SHARE_OF_LAST * (seconds - mean_s)
            server.state, server.trial = CLOSED, None
            server.in_a_row = server.openings = 0
            server.rest_until = -math.inf
            server.failing_since, server.reason = None, ""
            server.blamed.clear()

    def _failed(self, slot: Slot, error: EndpointError, picture: Hashable) -> Verdict:
        server = slot._server
        with self._lock:
            was_trial = self._end(slot)
            if isinstance(error, EndpointCancelled):
                return Verdict(0.0, False, False)
            now = self._clock()
            counts = self._counts(slot, error, picture)
            server.failed += 1
            server.in_a_row += 1
            server.reason = str(error)
            if server.failing_since is None:
                server.failing_since = now
            server.asked_s = getattr(error, "retry_after_s", None) or 0.0
            self._rest(slot, error, was_trial, now)
            if isinstance(error, EndpointPermanent):
                return self._refused(server, picture, counts, now)
            if self._others_at_work(server):
                return Verdict(0.0, counts, False)
            return Verdict(max(self._asked_s(server), self._random_rest(server.in_a_row)), counts, False)

    # Rules

    def _state(self, server: _Server, now: float) -> str:
        rested = server.rest_until <= now
        return HALF_OPEN if server.state in (OPEN, QUARANTINE) and rested else server.state

    def _gave_up(self, server: _Server, now: float) -> bool:
        """Tell whether a server is out: for good, for too long, or until too late."""
        if server.failing_since is None:
            return False
        if server.state == QUARANTINE or server.asked_s > self.limits.longest_retry_after_s:
            return True
        patience_s = self.limits.give_up_s + 2 * server.asked_s
        return server.in_a_row >= self.limits.failures_to_open and now - server.failing_since >= patience_s

    def _others_at_work(self, server: _Server) -> list[_Server]:
        return [one for one in self._servers if one is not server and one.state == CLOSED]

    def _asked_s(self, server: _Server) -> float:
        return min(server.asked_s, self.limits.longest_retry_after_s)

    def _counts(self, slot: Slot, error: EndpointError, picture: Hashable) -> bool:
        """Tell whether a failure is one of the picture's attempts.

        Not where the server is the likelier cause: it was being tried, it never
        drew a picture while others do, or it failed on the same one just before.
        """
        server = slot._server
        if not error.counts or not slot._was_closed:
            return False
        if picture is not None and self._others_at_work(server):
            before = picture in server.blamed or server.name in self._refusals.get(picture, ())
            server.blamed.add(picture)
            return server.succeeded > 0 and not before
        return True

    def _rest(self, slot: Slot, error: EndpointError, was_trial: bool, now: float) -> None:
        """Decide how long the slot or the server as a whole rests after a failure."""
        server, limits = slot._server, self.limits
        until = now + self._asked_s(server)
        if error.quarantines:
            server.state, server.trial = QUARANTINE, None
            until = max(until, now + limits.quarantine_s)
        elif server.state == QUARANTINE:
            pass  # an older request of a server that is out already
        elif was_trial or (server.state == CLOSED and server.in_a_row >= limits.failures_to_open):
            server.state = OPEN
            server.openings += 1
            until = max(until, now + self._random_rest(server.openings))
        elif not error.counts:
            until = max(until, now + self._random_rest(server.in_a_row))
        else:
            slot._rest_until = now + self._random_rest(server.in_a_row)
        server.rest_until = max(server.rest_until, until)

    def _random_rest(self, number: int) -> float:
        """Return a random time up to a limit that doubles with each number, and a tenth of it at least."""
        limit = min(self.limits.longest_rest_s, self.limits.first_rest_s * 2.0 ** min(number - 1, 30))
        return (0.1 + 0.9 * self._chance()) * limit

    def _refused(self, server: _Server, picture: Hashable, counts: bool, now: float) -> Verdict:
        """Note a refusal; the picture is given up where every server that is left refused it.

        Otherwise it is left alone for a while, unless a slot of another server is free for it.
        """
        refused = self._refusals.setdefault(picture, set())
        refused.add(server.name)
        left = [one for one in self._servers if one.name not in refused and not self._gave_up(one, now)]
        if picture is None or not left:
            return Verdict(0.0, counts, True)
        if any(one.state == CLOSED and one.in_flight < one.slots for one in left):
            return Verdict(0.0, counts, False)
        means = [one.mean_s / _REFUSED_SHARE for one in left if one.mean_s is not None]
        return Verdict(min(means, default=self.limits.first_rest_s), counts, False)

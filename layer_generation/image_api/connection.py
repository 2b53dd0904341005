"""A connection whose every wait ends: for a request's head, and for a client that reads no answer."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from layer_generation.image_api.answers import PLAIN
from layer_generation.image_api.journal import note
from layer_generation.image_api.refusals import Busy, Refusal, RequestInvalid

HEAD_S = 15.0
"""From a connection, or the first byte of a further request, to the end of the head."""
STALL_S = 30.0
LEAST_BYTES = 1 << 16
"""Of an answer that is sent, taken in each STALL_S; who reads less is not waited for."""
MOST_CONNECTIONS = 900


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with limits."""

    head_s = HEAD_S
    stall_s = STALL_S
    most = MOST_CONNECTIONS
    _patience: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._answer_and_close(Busy("Server has too many connections"))
            return
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; wait on for a head that is not complete."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._patience is None and not self.transport.is_closing():
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all waiting."""
        self._stop_waiting()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads on."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop watching."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._answer_and_close(RequestInvalid(msg))

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(self.head_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        note("closed", reason="no request in time")
        self.transport.close()

    def _watch(self, unread: int) -> None:
        self._stall = self.loop.call_later(self.stall_s, self._check, unread)

    def _check(self, unread: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left > max(unread - LEAST_BYTES, 0):
            note("closed", reason="answer not read")
            self.transport.abort()
        else:
            self._watch(left)

    def _answer_and_close(self, refusal: Refusal) -> None:
        """Write an answer past the application; close."""
        self._stop_waiting()
        body = json.dumps(refusal.document()).encode()
        headers = {
            **PLAIN, **refusal.headers, "Content-Type": "application/json", "Content-Length": str(len(body)),
            "Connection": "close",
        }  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        phrase = {400: "Bad Request", 503: "Service Unavailable"}[refusal.status]
        self.transport.write(f"HTTP/1.1 {refusal.status} {phrase}\r\n{head}\r\n".encode() + body)
        self.transport.close()

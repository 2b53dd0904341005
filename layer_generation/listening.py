"""Sockets of servers, and whether an address is this machine's loopback."""

from __future__ import annotations

import ipaddress
import re
import socket

from fusi_pipeline.errors import AddressUnavailable

_HOST = re.compile(r"(\[[0-9a-f:.%]*\]|[^:\[\]]*)(:\d{1,5})?")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the first address of a host; port 0 picks a free one.

    Raises AddressUnavailable.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise AddressUnavailable(host, port, getattr(error, "strerror", None) or str(error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise AddressUnavailable(host, port, getattr(error, "strerror", None) or str(error)) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of a socket for a client on this machine."""
    host, port = listener.getsockname()[:2]
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def on_loopback(listener: socket.socket) -> bool:
    """Tell whether only this machine reaches a socket."""
    host = listener.getsockname()[0]
    return is_loopback(f"[{host}]" if ":" in host else host)


def is_loopback(host: str) -> bool:
    """Tell whether a host, with or without a port, is a name or an address of the loopback."""
    match = _HOST.fullmatch(host.strip().lower())
    if match is None:
        return False
    name = match[1].strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

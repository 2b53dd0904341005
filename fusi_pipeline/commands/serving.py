"""Archives for a browser: serve."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path
from threading import Thread
from typing import Any

import click

from fusi_pipeline import options

_LABEL = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://({_LABEL}(\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?",
    re.ASCII,
)
"""RFC 6454, section 6.2: neither a path nor a name before the host."""


class Port(click.ParamType[int]):
    """A TCP port, or `auto` for a free one, which is 0."""

    name = "PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the port, or fail with what is expected."""
        text = str(value)
        if text == "auto":
            return 0
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
            self.fail(f"{text!r}: expected a port of 1..65535 or auto", param, ctx)
        return int(text)


class Origin(click.ParamType[str]):
    """The origin of a page as browsers send it, scheme://host[:port], or `*` for any."""

    name = "ORIGIN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the origin in lower case and without the usual port, or fail with what is expected."""
        text = str(value)
        match = _ORIGIN.fullmatch(text.lower())
        if text != "*" and (match is None or not 1 <= int(match["port"] or 1) <= 65535):
            expected = (
                "expected * or an origin, scheme://host or scheme://host:port, such as https://example.org"
            )
            self.fail(f"{text!r}: {expected}", param, ctx)
        if match is None:
            return text
        usual = (match["scheme"], match["port"]) in (("http", "80"), ("https", "443"))
        return text.lower().removesuffix(f":{match['port']}") if usual else text.lower()


@click.command()
@click.argument("archives", type=options.PATH, nargs=-1, required=True, metavar="ARCHIVE...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; other machines reach others.",
)
@click.option("--port", type=Port(), default="8080", show_default=True, help="Port, or auto for a free one.")
@click.option(
    "--missing",
    type=click.Choice(["404", "204"]),
    default="404",
    show_default=True,
    help="Answer where an archive has no tile.",
)
@click.option("--cors", type=Origin(), multiple=True, help="Pages that may read answers; * for all.")
@click.option("--open/--no-open", "opens", default=False, help="Open the page in a browser.")
def serve(
    archives: tuple[Path, ...], host: str, port: int, missing: str, cors: tuple[str, ...], opens: bool
) -> None:
    """Serve archives on this machine: tiles, TileJSON, the files, and a page with a map."""
    from fusi_pipeline.viewer import server
    from fusi_pipeline.viewer.app import application
    from fusi_pipeline.viewer.shelf import Shelf

    with Shelf(archives) as shelf:
        listener = server.listen(host, port)
        alone, url = server.on_loopback(listener), server.url_of(listener)

        def started() -> None:
            names = ", ".join(one.name for one in shelf)
            click.echo(f"{url} serves {names}; Ctrl-C ends it")
            if opens:
                Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        if not alone:
            click.echo(f"fusi: warning: whoever reaches {host} can read these archives", err=True)
        app = application(shelf, missing=int(missing), loopback_only=alone, origins=cors)
        server.serve(app, listener, started)

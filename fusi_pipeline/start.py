"""Where the `fusi` command begins: nothing is loaded before Ctrl-C is taken care of."""

from __future__ import annotations

import sys

_EXIT_INTERRUPTED = 130
_WITH_WORKERS = frozenset({"build", "aggregate", "convert", "merge"})
_HELP = frozenset({"-h", "--help"})


def main() -> None:
    """Load the command line and run it."""
    try:
        if sys.argv[1:2] and sys.argv[1] in _WITH_WORKERS and not _HELP.intersection(sys.argv):
            from fusi_pipeline import fork_ahead

            fork_ahead.begin()
        from fusi_pipeline.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("fusi: interrupted before it began\n")
        sys.exit(_EXIT_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()

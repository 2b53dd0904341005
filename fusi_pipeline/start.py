"""Where the `fusi` command begins: nothing is loaded before Ctrl-C is taken care of."""

from __future__ import annotations

import sys

_EXIT_INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it."""
    try:
        from fusi_pipeline.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("fusi: interrupted before it began\n")
        sys.exit(_EXIT_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()

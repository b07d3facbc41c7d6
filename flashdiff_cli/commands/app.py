"""Entry point of the console program: signals are handled before anything large is imported."""

from __future__ import annotations

import sys

from flashdiff_cli import lean
from flashdiff_cli.commands import signals


def main(arguments: list[str] | None = None) -> None:
    """Run the program and leave with its exit code: 0 done, 1 some failed, 2 wrong usage, 128 and its number after a signal."""
    signals.open_streams()
    lean.install()
    with signals.handled(signals.leave):
        from flashdiff_cli.commands.program import run

        code = run(arguments)
        if code > 128 and arguments is None:  # else a program has called that goes on
            # Threads may still write, and another signal may end the process before they have finished.
            signals.abandon()
    sys.exit(code)


if __name__ == "__main__":
    main()

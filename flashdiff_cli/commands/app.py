"""Entry point of the console program: signals are handled before anything large is imported, and nothing large is taken apart at the end."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

from flashdiff_cli import lean
from flashdiff_cli.commands import signals


def main(arguments: list[str] | None = None) -> None:
    """Run the program and leave with its exit code: 0 done, 1 some failed, 2 wrong usage, 128 and its number after a signal."""
    end = None if arguments is not None else _End()  # else a program has called that goes on
    signals.open_streams()
    lean.install()
    with signals.handled(signals.leave):
        from flashdiff_cli.commands.program import run

        code = run(arguments)
        if end is not None:
            end.code = code
            if code > 128:
                # Threads may still write, and another signal may end the process before they have finished.
                signals.abandon()
    sys.exit(code)


class _End:
    """What is to be done at the exit is done, and then the process ends: Python would take seconds to take apart what was imported."""

    def __init__(self) -> None:
        self.code: int | None = None
        # The first to be registered is the last to be called.
        atexit.register(self)

    def __call__(self) -> None:
        """End the process if the program has come to its end."""
        if self.code is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(self.code)


if __name__ == "__main__":
    main()

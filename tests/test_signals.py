"""A signal in the middle of a write to stderr: what it has to say is said, and the write is not harmed."""

import io
import os
import signal

import pytest
from rich.console import Console

from flashdiff_cli.commands.show import interruptible
from flashdiff_cli.commands.signals import Interrupted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


class Interrupting(io.RawIOBase):
    """A terminal during whose writes, as often as it is told, a signal comes."""

    def __init__(self, *numbers: int):
        self.numbers, self.written = list(numbers), b""

    def writable(self):
        return True

    def write(self, data):
        self.written += bytes(data)
        if self.numbers:
            os.kill(os.getpid(), self.numbers.pop(0))
        return len(data)


class Shown:
    def __init__(self, terminal: Interrupting):
        self.stream = io.TextIOWrapper(io.BufferedWriter(terminal), encoding="utf-8")
        self.console = Console(file=self.stream, width=100)


@pytest.fixture(autouse=True)
def _hang_ups_are_heard():
    """Though the tests run under nohup, where a hang-up is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_a_line_is_written(number, code):
    terminal = Interrupting(number)
    shown = Shown(terminal)
    with interruptible(shown) as stop:
        print("[1/6] a.png: done in 0.1 s", file=shown.stream, flush=True)
        assert stop.is_set() and stop.code == code
        print("[2/6] b.png: done in 0.1 s", file=shown.stream, flush=True)
    first, *rest = terminal.written.decode().splitlines()
    assert first.startswith("[1/6]") and sorted(line[:9] for line in rest) == ["[2/6] b.p", "flashdiff"]


def test_a_second_signal_while_a_line_is_written():
    terminal = Interrupting(signal.SIGINT, signal.SIGTERM)
    shown = Shown(terminal)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, interruptible(shown):
        print("[1/6] a.png: done in 0.1 s", file=shown.stream, flush=True)
        print("[2/6] b.png: done in 0.1 s", file=shown.stream, flush=True)
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert b"[1/6]" in terminal.written


def test_a_signal_while_stderr_is_closed():
    """Nobody hears it, and the work in hand still ends in order."""
    shown = Shown(Interrupting())
    shown.stream.close()
    with interruptible(shown) as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.is_set()

"""The program with a restorer that takes no time, for tests of what becomes of files: no torch, all else as it is.

A picture is any bytes; restored, it is `R(` + bytes + `)`, so that one restored twice shows. By environment:
FAKE_SECONDS: how long a picture takes. FAKE_WRITING: how long its file.
FAKE_KILL=POINT:N: the process kills itself at the N-th time at a point: "line" (before the
journal's line), "name" (after it, before the file has its name), "named" (right after), "torn" (in the middle of the line).
FAKE_PLAIN=1: a system without locks of bytes, hard links and names that are given once; "empty" is then the point after an empty file has
taken the name. FAKE_EDIT=FILE: changed while the first picture is restored.
"""

import errno
import gc
import hashlib
import importlib
import itertools
import os
import resource
import signal
import sys
import time
import traceback
import types
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from flashdiff_cli.commands.program import app
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures import atomic as whole_files
from flashdiff_cli.runs import journal, locks
from flashdiff_cli.runs.record import Record


@dataclass
class Picture:
    data: bytes
    digest: bytes
    image: None = None
    size = (8, 8)
    notes: list = field(default_factory=list)

    def to_rgb(self):
        raise FlashdiffError("not a picture that can be shown")


def read_picture(path):
    data = Path(path).read_bytes()
    return Picture(data, hashlib.sha256(data).digest())


def write_picture(picture, path, quality=95, into=whole_files.whole, notes=None):
    with into(Path(path)) as file:
        half = len(picture.data) // 2
        file.write(picture.data[:half])
        file.flush()
        time.sleep(float(os.environ.get("FAKE_WRITING", 0)))
        file.write(picture.data[half:])


class Restorer:
    def __init__(self, *arguments, **more):
        pass

    def check(self, settings):
        pass

    def together(self, settings, callback=None, phase=None):
        return OneByOne(self, settings)

    def restore(self, picture, settings, name="", callback=None, sample=0, phase=None):
        time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
        edited = os.environ.get("FAKE_EDIT")
        if edited:
            Path(edited).write_bytes(b"edited while it was restored")
        if b"trouble" in picture.data:
            raise ZeroDivisionError("no such luck")
        record = Record(name, width=8, height=8, severity=0.5, variance=0.25, start_step=3, schedule_steps=20, steps=3)
        record.operator, record.noise_std, record.seconds = {"name": "gaussian-blur", "blur_std": 1.0}, 0.01, {"total": 0.0}
        return Picture(b"R(" + picture.data + b")", b""), record


@dataclass
class OneByOne:
    """What stands in for `runs.together.Together`."""

    restorer: Restorer
    settings: object
    limit = 1

    def add(self, picture, name="", sample=0, tag=None):
        try:
            outcome = self.restorer.restore(picture, self.settings, name)
        except Exception as error:
            outcome = error
        yield [(types.SimpleNamespace(picture=picture, tag=tag), outcome)]

    def rest(self, begun=False):
        return ()


def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made
    package, _, last = name.rpartition(".")
    setattr(importlib.import_module(package), last, made)


def at(point):
    """Called at each point; the process ends there if FAKE_KILL says so."""
    wanted, _, number = os.environ.get("FAKE_KILL", "").partition(":")
    if point == wanted:
        at.count += 1
        if at.count == int(number):
            os.kill(os.getpid(), signal.SIGKILL)


at.count = 0


def watch():
    """Put the points of FAKE_KILL into the program."""
    append, name, write = journal.append, whole_files._name, os.write

    def appended(handle, path, text, sync):
        if '"source": ' in text:
            at("line")
        append(handle, path, text, sync)

    def named(temporary, path, replace):
        at("name")
        name(temporary, path, replace)
        at("named")

    def written(handle, data):
        point = os.environ.get("FAKE_KILL", "").partition(":")[0]
        if point == "torn" and len(data) > 100:
            at.count += 1
            if at.count == int(os.environ["FAKE_KILL"].partition(":")[2]):
                write(handle, bytes(data[: len(data) // 2]))
                os.kill(os.getpid(), signal.SIGKILL)
        return write(handle, data)

    journal.append, whole_files._name, os.write = appended, named, written
    if os.environ.get("FAKE_PLAIN"):
        replace = os.replace

        def no_link(*arguments, **more):
            raise OSError(errno.EPERM, "no links here")

        def replaced(source, target):
            if os.path.exists(target) and not os.path.getsize(target):
                at("empty")
            replace(source, target)

        locks._BYTES = False
        whole_files._renamer, os.link, os.replace = lambda: None, no_link, replaced


def main(arguments=None):
    module("flashdiff_cli.pictures.files", Picture=Picture, read_picture=read_picture, write_picture=write_picture, picture_of=None)
    module("flashdiff_cli.runs.restorer", Restorer=Restorer)
    module("flashdiff_cli.runs.extras")
    watch()
    from flashdiff_cli.commands.app import main as program

    if arguments is not None:
        sys.argv = ["flashdiff", *arguments]  # as a process of its own has it
    program()


SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Running:
    """The program in a process of its own, forked off so that it starts at once."""

    def __init__(self, *arguments, cwd, stdout=None, limit=None, **environment):
        self.out, self.err = Path(cwd) / f".out-{next(COUNTER)}", Path(cwd) / f".err-{next(COUNTER)}"
        gc.collect()
        gc.freeze()
        # What is sent to the fork in its first moments waits until it takes signals as a process that has just begun does.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.pid = os.fork()
        if not self.pid:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._be(list(map(str, arguments)), cwd, stdout or self.out, limit, environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _be(self, arguments, cwd, stdout, limit, environment):
        code = 70
        try:
            os.chdir(cwd)
            os.environ.update({k: str(v) for k, v in environment.items()})
            for number, path in ((1, stdout), (2, self.err)):
                if path == "closed":
                    os.close(number)
                    continue
                handle = path if isinstance(path, int) else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, number)
            sys.stdout = None if stdout == "closed" else open(1, "w", closefd=False)
            sys.stderr = open(2, "w", closefd=False)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            main(arguments)
        except SystemExit as leave:
            code = leave.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(code)

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self):
        """(exit code, or the signal's number less than 0; stdout; stderr)"""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        out = self.out.read_text() if self.out.exists() else ""
        err = self.err.read_text() if self.err.exists() else ""  # killed before it began
        for path in (self.out, self.err):
            path.unlink(missing_ok=True)
        assert "Traceback" not in err, err
        return code, out, err


COUNTER = itertools.count()
# What is imported late is there for all forks.
for name in ("jinja2", "flashdiff_cli.pictures.formats", "flashdiff_cli.runs.resume", "flashdiff_cli.runs.executor", "flashdiff_cli.runs.tabulate"):
    importlib.import_module(name)
CliRunner().invoke(app, ["restore", "--help"])


if __name__ == "__main__":
    main()

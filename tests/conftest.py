"""Fixtures that several test files share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, serve

# Read when torch is imported. Workers of pytest-xdist have a core each; threads of their own would wait for one another, five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

PARITY_VARIABLE = "FLASHDIFF_PARITY"
LEAN = "from flashdiff_cli import lean; lean.install()"
END = "sys.stdout.flush(), sys.stderr.flush(), __import__('os')._exit(0)"
SEVERAL = """
import json, sys
from flashdiff_cli.commands.app import main
for arguments in json.loads(sys.argv[1]):
    code = 0
    try:
        main(arguments)
    except SystemExit as leave:
        code = leave.code or 0
    for stream in (sys.stdout, sys.stderr):
        print(f"\x1e{code}\x1e", end="", file=stream, flush=True)
"""


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of reference results; skipped where it is not at hand, an error in CI."""
    value = os.environ.get(PARITY_VARIABLE)
    if not value:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{PARITY_VARIABLE} must name the folder of reference results in CI")
        pytest.skip(f"{PARITY_VARIABLE} is not set: no reference results to compare with")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{PARITY_VARIABLE}={value} is no folder")
    return folder


@pytest.fixture(autouse=True, scope="session")
def times_of_these_tests(tmp_path_factory):
    """What runs of tests took is not what this machine's user is told to expect."""
    from flashdiff_cli.runs import expected

    kept, expected._file = expected._file, lambda: tmp_path_factory.getbasetemp() / "seconds.json"
    yield
    expected._file = kept


@pytest.fixture
def hub():
    found = Hub()
    with serve(found) as address:
        found.address = address
        yield found


@pytest.fixture
def program(hub, tmp_path):
    """Run the program against the local Hub, with a cache of its own; (exit code, stdout, stderr).

    The Hub's address is read when its client is imported, so every run is a process of its own. `script` is Python source
    to run instead of the program.
    """
    home = tmp_path / "home"

    def call(*arguments, endpoint=None, script=None, timeout=240, **environment):
        keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env = keep | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint or hub.address, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
        start = ["-m", "flashdiff_cli.commands.app"] if script is None else ["-c", f"import sys; {LEAN}\n{script}\n{END}"]
        command = [sys.executable, *start, *map(str, arguments)]
        done = subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=timeout, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def programs(program):
    """Run the program several times in one process, as `program` runs it once; [(exit code, stdout, stderr)]."""

    def call(*runs, **environment):
        code, out, err = program(json.dumps([[*map(str, arguments)] for arguments in runs]), script=SEVERAL, **environment)
        assert code == 0, err
        out, err = out.split("\x1e"), err.split("\x1e")
        return [(int(code), said, complained) for said, code, complained in zip(out[:-1:2], out[1::2], err[::2], strict=False)]

    return call


@pytest.fixture
def cli(capsys):
    """Run the program in this process; (exit code, stdout, stderr)."""
    from flashdiff_cli.commands.app import main

    def call(*arguments):
        code = 0
        try:
            main([*map(str, arguments)])
        except SystemExit as leave:
            code = leave.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def run(model, cli):
    """Restore by the test file's own `model` from a start step of 2: (exit code, records, stderr)."""

    def call(*arguments):
        code, out, err = cli("restore", *arguments, "--model", model, "--start-step", "2", "--json")
        return code, [json.loads(line) for line in out.splitlines()], err

    return call

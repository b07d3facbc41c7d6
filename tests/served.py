"""A real `flashdiff serve` in a process of its own, on a tiny model, and requests to it."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tiny import save_tiny_model


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def image(self):
        return np.asarray(Image.open(io.BytesIO(self.body)))


@dataclass
class Served:
    """A server that runs."""

    address: str
    model: Path
    process: subprocess.Popen
    folder: Path

    def get(self, path, **headers):
        return ask(urllib.request.Request(self.address + path, headers=headers))

    def restore(self, picture, name="a.png", files=None, headers=None, **fields):
        """POST a picture, and files by name, to the API."""
        edge = uuid.uuid4().hex
        parts = [_part(edge, f'name="{key}"', str(value).encode()) for key, value in fields.items()]
        for key, data in ({"picture": picture} | (files or {})).items():
            parts.append(_part(edge, f'name="{key}"; filename="{name}"', data))
        body = b"".join(parts) + f"--{edge}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={edge}"} | (headers or {})
        return ask(urllib.request.Request(self.address + "api/restore", body, headers))


def _part(edge, said, data):
    return f"--{edge}\r\nContent-Disposition: form-data; {said}\r\n\r\n".encode() + data + b"\r\n"


def ask(request, seconds=240):
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return Answer(answer.status, _lower(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, _lower(error.headers), error.read())


def _lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def start(folder, *options):
    """The process of a server with these options; what it says is in the file `stderr`."""
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "flashdiff_cli", "serve", "--offline", *options]
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "stderr").open("w") as said:
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said, env=environment)


def ended(folder, process):
    """Exit code and stderr of a server that ends by itself."""
    code = process.wait(240)
    return code, (folder / "stderr").read_text()


@contextlib.contextmanager
def server(folder, *options):
    """A server at a free port, until the end of the block."""
    model = save_tiny_model(folder / "model", defaults={"solver": "ldps", "steps": 40, "eta": 0.0})
    process = start(folder, "--port", "0", "--model", str(model), *options)
    try:
        said, end = "", time.monotonic() + 240
        while "\n" not in said and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
            said = (folder / "stderr").read_text()
        assert "listening at http://127.0.0.1:" in said, said
        yield Served(said.split()[3], model, process, folder)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()

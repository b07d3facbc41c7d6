"""The container's files say what the repository has and the program takes; where an engine is at hand, more is tried by hand."""

import fnmatch
import json
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import typer
import yaml

from flashdiff_cli.commands.program import app

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def instructions(name):
    return re.findall(rf"^{name} +(.+)$", DOCKERFILE, re.MULTILINE)


def parses(words):
    command = typer.main.get_command(app).commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params


def test_what_is_copied_is_there_and_reaches_the_builder():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    assert lines[0] == "*", "only what is named goes in"
    sources = [source for line in instructions("COPY") for source in line.split()[:-1] if not source.startswith("--")]
    assert {"pyproject.toml", "flashdiff_cli", "weights", "constraints-web.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists() and any(fnmatch.fnmatch(f"!{source}", line) for line in lines), source


def test_it_runs_as_a_user_without_rights_and_serves():
    assert instructions("USER") == ["flashdiff"]
    after = DOCKERFILE[DOCKERFILE.index("\nUSER ") :]
    assert "RUN" not in after
    words = [*json.loads(instructions("ENTRYPOINT")[0]), *json.loads(instructions("CMD")[0])]
    assert words[:2] == ["flashdiff", "serve"]
    asked = parses(words[1:])
    assert asked["host"] == "0.0.0.0" and asked["offline"] is True and str(asked["port"]) in instructions("EXPOSE")
    assert asked["names"] == ["localhost"], "no other site's name may be pointed at it"


class Healthy(BaseHTTPRequestHandler):
    answer = 200

    def do_GET(self):
        self.send_response(self.answer if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("answer", "code"), [(200, 0), (500, 1), (None, 1)])
def test_the_health_check_tells_a_server_that_works_from_others(answer, code):
    found = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    words = json.loads(found[1])
    server = HTTPServer(("127.0.0.1", 0), type("Answers", (Healthy,), {"answer": answer}))
    if answer is None:
        server.server_close()
    else:
        Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, *(word.replace("7860", str(server.server_address[1])) for word in words[1:])]
    try:
        assert min(subprocess.run(command, capture_output=True, timeout=60).returncode, 1) == code
    finally:
        if answer is not None:
            server.shutdown()
            server.server_close()


def test_compose_opens_the_page_to_this_machine_alone_and_takes_rights_away():
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "/tmp" in service["tmpfs"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        build = service["build"]
        assert set(build.get("args", {}) if isinstance(build, dict) else {}) <= arguments
    restore = COMPOSE["services"]["restore"]
    assert restore["entrypoint"] == ["flashdiff", "restore"]
    parses(["restore", "holiday/", "-r", "-o", "restored/"])

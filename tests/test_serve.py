"""`flashdiff serve` as a client sees it: a real server in its own process, its API, its limits, its end."""

import base64
import http.client
import io
import json
import re
import shlex
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from picture_files import png
from PIL import Image
from served import ended, server, start

pytest.importorskip("gradio", reason="needs the extra [web]")

BLUR = {"operator": "gaussian-blur", "blur_std": 1.0, "fast": "true"}
WAITING = 4


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    limits = ("--max-megabytes", "0.5", "--max-megapixels", "0.1", "--max-waiting", str(WAITING), "--max-seconds", "200")
    with server(tmp_path_factory.mktemp("served"), *limits) as found:
        yield found


def test_a_picture_in_a_picture_and_its_record_out(served, cli, tmp_path, monkeypatch):
    """The same bytes as the command line that the answer names."""
    (tmp_path / "a.png").write_bytes(png())
    answer = served.restore(png(), **BLUR)
    record = json.loads(answer.headers["x-flashdiff-record"])
    assert answer.status == 200 and answer.headers["content-type"] == "image/png" and "a-restored.png" in answer.headers["content-disposition"]
    assert record["status"] == "done" and record["operator"] == {"name": "gaussian-blur", "blur_std": 1.0, "estimated": False}
    both = served.restore(png(), headers={"Accept": "application/json"}, severity_map="true", **BLUR).json
    assert base64.b64decode(both["picture"]) == answer.body and both["record"]["severity"] == record["severity"]
    assert Image.open(io.BytesIO(base64.b64decode(both["severity_map"]))).format == "PNG"
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*shlex.split(both["command"])[1:])
    assert code == 0, err
    assert (tmp_path / "a-restored.png").read_bytes() == answer.body


def test_the_documents_own_client_restores_a_picture(served, tmp_path):
    page = (Path(__file__).resolve().parents[1] / "docs" / "page.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    known = {}
    exec(code, known)
    (tmp_path / "a.png").write_bytes(png())
    assert Image.open(io.BytesIO(known["restore"](tmp_path / "a.png", f"{served.address}api/restore"))).size == Image.open(tmp_path / "a.png").size


def test_a_mask_another_format_and_a_larger_result(served):
    mask = io.BytesIO()
    Image.fromarray(np.where(np.arange(24) < 5, 0, 255).astype(np.uint8)[None].repeat(16, 0)).save(mask, "PNG")
    masked = served.restore(png(), files={"mask": mask.getvalue()}, fast="true")
    assert masked.status == 200 and json.loads(masked.headers["x-flashdiff-record"])["operator"]["name"] == "mask-inpainting"
    larger = served.restore(png(), scale="2", fast="true", format="jpg")
    assert larger.headers["content-type"] == "image/jpeg" and larger.image.shape == (32, 48, 3)


def test_what_may_be_asked_for_is_said(served):
    choices = served.get("api/choices").json
    blur = {option["name"]: option for option in choices["operators"]["gaussian-blur"]}
    assert blur["blur_std"]["minimum"] == 0.05 and choices["numbers"]["scale"] == {"type": "int", "minimum": 2, "maximum": 4}
    described = served.get("openapi.json").json["paths"]["/api/restore"]["post"]
    assert "picture" in described["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    health = served.get("api/health").json
    assert health["status"] == "ok" and health["waiting"] == health["running"] == 0


@pytest.mark.parametrize(
    ("picture", "fields", "headers", "status", "said"),
    [
        (b"no picture", {}, {}, 422, "a.png: not a picture"),
        (png((400, 300)), {}, {}, 422, "more pixels"),
        (bytes(700_000), {}, {}, 413, "`picture` is larger than"),
        (bytes(3_000_000), {}, {}, 413, "larger than"),
        (png(), {"scale": "7"}, {}, 400, "scale"),
        (png(), {"operator": "nonlinear-blur"}, {}, 400, "not offered"),
        (png(), {"mask_file": "/etc/passwd"}, {}, 400, "mask_file"),
        (png(), {}, {"Sec-Fetch-Site": "cross-site"}, 403, "other sites"),
        (png(), {}, {"Host": "evil.example"}, 400, "host"),
    ],
)
def test_what_is_refused_is_said_in_one_line(served, picture, fields, headers, status, said):
    answer = served.restore(picture, headers=headers, **fields)
    assert answer.status == status and said in answer.body.decode()
    assert served.restore(png(), **BLUR).status == 200, "and nobody else is hurt"


def test_a_form_without_a_picture_and_no_form_at_all(served):
    for kind, body in (("multipart/form-data; boundary=x", b"--x--\r\n"), ("multipart/form-data", b"junk"), ("application/json", b"{}")):
        connection = http.client.HTTPConnection(served.address.split("/")[2], timeout=60)
        connection.request("POST", "/api/restore", body, {"Content-Type": kind})
        answer = connection.getresponse()
        assert answer.status == 400 and "error" in json.loads(answer.read())


def test_a_body_of_unsaid_length_is_cut_off(served):
    """Chunked: what comes is counted."""

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    connection = http.client.HTTPConnection(served.address.split("/")[2], timeout=60)
    try:
        connection.request("POST", "/api/restore", chunks(), {"Content-Type": "multipart/form-data; boundary=x"}, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has hung up while more was being sent
    assert served.get("api/health").status == 200


def test_fifty_at_once_are_all_answered_and_the_queue_has_an_end(served):
    with ThreadPoolExecutor(50) as many:
        answers = list(many.map(lambda seed: served.restore(png(seed=seed), **BLUR), range(50)))
    done = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 503]
    assert len(done) + len(refused) == 50 and len(done) > WAITING
    assert all("wait already" in answer.json["error"] and int(answer.headers["retry-after"]) > 0 for answer in refused)
    same = served.restore(png(seed=3), **BLUR)
    assert same.status == 200 and served.get("api/health").json["waiting"] == 0


def test_who_hangs_up_leaves_the_queue(served):
    """Sent while another is in hand; the connection is closed at once, and the picture is not restored."""
    before = served.get("api/health").json
    connections = []
    for _ in range(3):
        connection = http.client.HTTPConnection(served.address.split("/")[2], timeout=60)
        body = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n' + png((250, 250)) + b"\r\n--x--\r\n"
        connection.request("POST", "/api/restore", body, {"Content-Type": "multipart/form-data; boundary=x"})
        connections.append(connection)
    for connection in connections:
        connection.close()
    end = time.monotonic() + 120
    while (now := served.get("api/health").json)["waiting"] + now["running"] and time.monotonic() < end:
        time.sleep(0.2)
    assert now["waiting"] == now["running"] == 0 and now["done"] - before["done"] <= 3


def test_the_page_names_no_other_place(served):
    page = served.get("").body.decode()
    assert "flashdiff" in page
    config = served.get("config").json
    assert config["analytics_enabled"] is False
    assert "fonts.googleapis.com" not in json.dumps(config) and "https://fonts" not in page


@pytest.mark.parametrize("path", ["/etc/passwd", "stderr", "../stderr", "model/model_index.json"])
def test_files_of_the_machine_are_not_served(served, path):
    (served.folder / "tmp" / "secret").write_text("secret")
    for name in (path, served.folder / path, served.folder / "tmp" / "secret"):
        answer = served.get(f"gradio_api/file={name}")
        assert answer.status in (403, 404) and b"root:" not in answer.body and answer.body != b"secret"
    (served.folder / "tmp" / "secret").unlink()


def test_only_this_machine_is_listened_to(served):
    port = int(served.address.rstrip("/").rsplit(":", 1)[1])
    others = {where[4][0] for where in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in (other for other in others if not other.startswith("127.")):
        with pytest.raises((ConnectionError, TimeoutError)):
            socket.create_connection((address, port), timeout=2)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [(("--model", "nowhere/at-all-here"), 1, "nowhere"), (("--host", "no such host"), 2, "--host"), (("--max-waiting", "-1"), 2, "--max-waiting")],
)
def test_what_cannot_be_served_is_said_at_once(tmp_path, options, code, said):
    found, err = ended(tmp_path, start(tmp_path, "--port", "0", *options))
    assert found == code and said in err and "Traceback" not in err


def test_a_port_that_is_taken_is_said(served, tmp_path):
    code, err = ended(tmp_path, start(tmp_path, "--port", served.address.rstrip("/").rsplit(":", 1)[1], "--model", str(served.model)))
    assert code == 1 and "--port" in err and len(err.splitlines()) == 1


def test_sigterm_ends_it_and_leaves_nothing(served):
    """The last test of the file: who waits is told, workers are gone, and what visitors sent is removed."""
    with ThreadPoolExecutor(3) as many:
        waiting = [many.submit(served.restore, png((250, 250), seed), operator="gaussian-blur", blur_std=3.0) for seed in range(3)]
        end = time.monotonic() + 60
        while served.get("api/health").json["running"] == 0 and time.monotonic() < end:
            time.sleep(0.05)
        served.process.send_signal(signal.SIGTERM)
        assert all(one.result(60).status in (200, 500, 503) for one in waiting)
    assert served.process.wait(60) == 143
    assert "Traceback" not in (served.folder / "stderr").read_text()
    assert list((served.folder / "tmp").iterdir()) == []

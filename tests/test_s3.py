"""Pictures in a bucket, on a server of this machine that speaks S3, and on a web server of this machine."""

import functools
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from picture_files import png
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.inputs import find
from flashdiff_cli.runs.remote_entries import FOLDER
from flashdiff_cli.storage.upload import send
from flashdiff_cli.storage.url import Url, forget

pytest.importorskip("s3fs", reason="needs the extra [s3]")
server_of = pytest.importorskip("moto.server", reason="needs moto[server]")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0})


@pytest.fixture(scope="module")
def server():
    running = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A client, and two empty buckets; whatever reads the usual variables finds the server."""
    import boto3

    values = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    forget()
    client = boto3.client("s3", endpoint_url=server)
    for bucket in ("scans-in", "scans-out"):
        client.create_bucket(Bucket=bucket)
    yield client
    for bucket in ("scans-in", "scans-out"):
        for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
            client.delete_object(Bucket=bucket, Key=item["Key"])
        client.delete_bucket(Bucket=bucket)
    forget()


def keys(s3, bucket="scans-out"):
    found = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return sorted(key for key in found if FOLDER not in key.split("/"))


def content(s3, key, bucket="scans-out"):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_a_bucket_is_restored_as_a_folder_is(run, s3, tmp_path):
    for i, name in enumerate(("a.png", "b c.png", "below/d+e.png")):
        s3.put_object(Bucket="scans-in", Key=f"scans/{name}", Body=png(seed=i))
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(png(seed=i))
    s3.put_object(Bucket="scans-in", Key="scans/", Body=b"")  # as some programs mark a folder
    assert run(tmp_path / "scans", "-r", "-o", tmp_path / "here")[0] == 0
    code, records, err = run("s3://scans-in/scans", "-r", "-o", "s3://scans-out/all")
    assert code == 0, err
    assert keys(s3) == ["all/a.png", "all/b c.png", "all/below/d+e.png"]
    for key in keys(s3):
        assert content(s3, key) == (tmp_path / "here" / key.removeprefix("all/")).read_bytes()
    before = {key: s3.head_object(Bucket="scans-out", Key=key)["LastModified"] for key in keys(s3)}
    code, again, _ = run("s3://scans-in/scans", "-r", "-o", "s3://scans-out/all")
    assert code == 0 and [r["status"] for r in again] == ["skipped"] * 3
    assert before == {key: s3.head_object(Bucket="scans-out", Key=key)["LastModified"] for key in keys(s3)}
    s3.put_object(Bucket="scans-in", Key="scans/a.png", Body=png(seed=9))
    s3.put_object(Bucket="scans-out", Key="all/b c.png", Body=b"somebody's")
    code, records, err = run("s3://scans-in/scans", "-r", "-o", "s3://scans-out/all")
    assert code == 1 and [r["status"] for r in records].count("done") == 1 and "not flashdiff's" in err
    assert content(s3, "all/b c.png") == b"somebody's"


def test_what_is_done_is_known_without_reading_it(run, s3, monkeypatch):
    """Skipping costs lists, and no picture: neither sources nor results are fetched."""
    for i in range(4):
        s3.put_object(Bucket="scans-in", Key=f"{i}.png", Body=png(seed=i))
    assert run("s3://scans-in", "-o", "s3://scans-out")[0] == 0
    read, fetched = Url.read, []
    monkeypatch.setattr(Url, "read", lambda self, *rest: fetched.append(str(self)) or read(self, *rest))
    assert [r["status"] for r in run("s3://scans-in", "-o", "s3://scans-out")[1]] == ["skipped"] * 4
    assert [name for name in fetched if FOLDER not in name] == []


def test_two_that_write_one_name_do_not_replace_each_other(s3):
    send(Url("s3://scans-out/a.png"), b"first", replace=False)
    with pytest.raises(FlashdiffError, match="exists already"):
        send(Url("s3://scans-out/a.png"), b"second", replace=False)
    assert content(s3, "a.png") == b"first"
    send(Url("s3://scans-out/a.png"), b"third")
    assert content(s3, "a.png") == b"third"


def test_a_bucket_that_is_not_there_and_a_key_that_is_wrong_are_one_line(run, s3):
    s3.put_object(Bucket="scans-in", Key="a.png", Body=png())
    code, _, err = run("s3://scans-in/a.png", "-o", "s3://nowhere/")
    assert code == 1 and "no such bucket" in err and "s3://nowhere/" in err
    code, _, err = run("s3://nowhere/", "-o", "s3://scans-out/")
    assert code == 1 and "s3://nowhere/" in err and err.count("\n") == 1


def test_a_run_that_is_killed_goes_on_and_shows_no_part(model, s3, tmp_path):
    for i in range(12):
        s3.put_object(Bucket="scans-in", Key=f"{i:02}.png", Body=png(seed=i))
    command = [
        sys.executable,
        "-m",
        "flashdiff_cli.commands.app",
        "restore",
        "s3://scans-in",
        "-o",
        "s3://scans-out",
        "--json",
        "--model",
        str(model),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ) as killed:
        assert killed.stdout is not None
        for _ in range(3):
            killed.stdout.readline()
        killed.kill()
    first = {key: content(s3, key) for key in keys(s3)}
    assert 3 <= len(first) < 12
    for data in first.values():
        Image.open(io.BytesIO(data)).load()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(statuses) == 12 and statuses.count("skipped") == len(first)
    assert len(keys(s3)) == 12 and all(content(s3, key) == data for key, data in first.items())


@pytest.fixture
def web(tmp_path):
    """A folder on a web server of this machine, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *rest):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_pages_of_a_web_server_are_read(run, web, tmp_path):
    folder, address = web
    for i, name in enumerate(("a.png", "b c.png", "below/d.png", "notes.txt")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(seed=i))
    (folder / "evil.html").write_text("no picture")
    assert run(folder, "-r", "-o", tmp_path / "here")[0] == 0
    code, records, err = run(f"{address}/", "-r", "-o", tmp_path / "there")
    assert code == 0 and len(records) == 3 and ".txt" in err
    for name in ("a.png", "b c.png", "below/d.png"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert [r["status"] for r in run(f"{address}/", "-r", "-o", tmp_path / "there")[1]] == ["skipped"] * 3
    code, records, err = run(f"{address}/a.png", f"{address}/none.png", "-o", tmp_path / "two")
    assert code == 1 and [r["status"] for r in records] == ["done", "failed"] and f"{address}/none.png: no such file" in err
    code, _, err = run(f"{address}/a.png")
    assert code == 2 and "only read" in err


def test_a_page_cannot_lead_out_of_the_output(web):
    folder, address = web
    (folder / "good.png").write_bytes(png())
    links = ("good.png", "..%2f..%2fup.png", "%2e%2e/x.png", "//example.org/other.png", "https://example.org/a.png", "/root.png")
    (folder / "index.html").write_text("".join(f'<a href="{link}">x</a>' for link in links))
    assert [str(job.below) for job in find([f"{address}/"], recursive=False)] in (["good.png"], ["good.png", "root.png"])


def test_a_picture_that_is_too_large_is_not_taken_into_memory(web, run, tmp_path, monkeypatch):
    folder, address = web
    with open(folder / "huge.png", "wb") as file:
        file.truncate(3 << 30)
    monkeypatch.setenv("FLASHDIFF_MAX_MEGAPIXELS", "1")

    code, _, err = run(f"{address}/huge.png", "-o", tmp_path / "out")
    assert code == 1 and "more than the" in err and "FLASHDIFF_MAX_MEGAPIXELS" in err
    assert not list(Path(tmp_path).glob("out/*.png"))

"""What the page's server refuses, and what it keeps for how long: the application itself, before a queue that has not been started."""

import json
import os
import time
from concurrent.futures import Future

import pytest
from picture_files import png

gr = pytest.importorskip("gradio", reason="needs the extra [web]")

from starlette.testclient import TestClient

from flashdiff_cli.pictures.formats import FORMATS
from flashdiff_cli.serve import page as pages
from flashdiff_cli.serve.api import TYPES, error_of
from flashdiff_cli.serve.choices import Choices
from flashdiff_cli.serve.limits import Limits
from flashdiff_cli.serve.results import KEPT, Results
from flashdiff_cli.serve.service import Ending, Job, Service
from flashdiff_cli.serve.site import EVENT_BYTES, FORM_BYTES, build
from flashdiff_cli.serve.worker import Answer

NAME = "flashdiff.test"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    limits = Limits(megabytes=0.5, waiting=0, batch=2)
    uploads = folder / "uploads"
    uploads.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        (folder / "results").mkdir()
        service = Service(waiting=0)
        with TestClient(build(service, folder / "results", limits, [NAME]), f"http://{NAME}") as found:
            yield found
        service.close()


def event(client, file, elem_id="load-mask"):
    """What the page is told of an event with a file in it."""
    config = client.get("/config").json()
    button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == elem_id)
    number = next(d["id"] for d in config["dependencies"] if [button, "click"] in [list(target) for target in d["targets"]])
    sent = {"data": [[file]], "fn_index": number, "session_hash": os.urandom(4).hex(), "trigger_id": button}
    answer = client.post("/gradio_api/queue/join", json=sent)
    assert answer.status_code == 200, answer.text
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={sent['session_hash']}") as lines:
        for line in lines.iter_lines():
            if line.startswith("data:") and (told := json.loads(line[5:]))["msg"] == "process_completed":
                return told
    raise AssertionError("the event has no end")


def payload(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def uploaded(client, name, data):
    answer = client.post("/gradio_api/upload", files={"files": (name, data)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def test_a_file_that_was_uploaded_is_read(client):
    """With no place in the queue, too: the controls of the page work."""
    told = event(client, payload(uploaded(client, "a.png", png((30, 20)))))
    assert told["success"] and "background" in str(told["output"])


@pytest.mark.parametrize("name", ["secret.png", "secret.svg"])
def test_a_file_that_was_not_uploaded_is_not_read(client, tmp_path, name):
    (tmp_path / name).write_bytes(png())
    told = event(client, payload(tmp_path / name))
    assert not told["success"] and "not uploaded" in str(told["output"])


def test_an_address_in_an_event_is_not_fetched(client, monkeypatch):
    async def fetched(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetched)
    for address in ("http://192.0.2.1/a.png", "https://192.0.2.1/a.png"):
        told = event(client, payload(address))
        assert not told["success"] and "fetches no other addresses" in str(told["output"])


@pytest.mark.parametrize(
    "path",
    [
        "file=https://192.0.2.1/a.png",
        "file=http%3A%2F%2F192.0.2.1/a.png",
        "file=%2568ttps%253A//192.0.2.1/a.png",
        "file/https://192.0.2.1/a.png",
        "file%3Dhttps://192.0.2.1/a",
        "proxy=https://192.0.2.1/a.png",
        "proxy%3Dhttps://192.0.2.1/a.png",
    ],
)
def test_no_other_address_is_fetched(client, path):
    for method in ("GET", "HEAD"):
        assert client.request(method, f"/gradio_api/{path}").status_code == 403


def test_files_of_visitors_are_still_given(client):
    data = png()
    path = uploaded(client, "100% https a.png", data)
    answer = client.get(f"/gradio_api/file={path}")
    assert answer.status_code == 200 and answer.content == data


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload", "/api/restore", "/login"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://{NAME}:1"},
    ],
)
def test_pages_of_other_sites_are_refused_everywhere(client, path, headers):
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, path, headers=headers).status_code == 403


def test_the_own_page_and_links_to_it_are_not_refused(client):
    own = {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{NAME}"}
    assert client.post("/gradio_api/upload", files={"files": ("a.png", png())}, headers=own).status_code == 200
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_an_upload_of_many_files_is_bounded(client):
    most = 2 * 2**19 + FORM_BYTES
    files = [("files", (f"{i}.png", bytes(2**19 - 1))) for i in range(5)]
    assert client.post("/gradio_api/upload", files=files).status_code == 413

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(most // 2**16 + 2):
            yield bytes(2**16)

    answer = client.post("/gradio_api/upload", content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert client.post("/gradio_api/upload", files=files[:2]).status_code == 200


def test_an_event_is_bounded(client):
    for path in ("/gradio_api/queue/join", "/gradio_api/run/restore"):
        assert client.post(path, content=bytes(EVENT_BYTES + 1), headers={"Content-Type": "application/json"}).status_code == 413
        assert client.post(path, content=iter([bytes(2**20)] * 17), headers={"Content-Type": "application/json"}).status_code == 413


def answer(name="a-restored.png", severity_map=b"map"):
    return Answer(
        name,
        b"data",
        {"output": name, "seconds": {}, "width": 24, "height": 16},
        "flashdiff restore",
        severity_map,
        png(kind="JPEG"),
        png(kind="JPEG"),
    )


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "uploads").mkdir()
    return Results(tmp_path / "results", tmp_path / "uploads")


def age(*paths, seconds=KEPT + 60):
    for path in paths:
        os.utime(path, (time.time() - seconds,) * 2)


def test_results_stay_while_their_visitor_waits_and_go_afterwards(results):
    with results.visit() as done:
        age(done.folder)
        results.sweep()
        assert done.folder.is_dir()
    results.sweep()
    assert done.folder.is_dir(), "the hour begins with the end of the visit"
    age(done.folder)
    results.sweep()
    assert not done.folder.exists()


def test_what_was_sent_is_removed_after_an_hour(results, monkeypatch):
    (results.uploads / "a").mkdir()
    (results.uploads / "a" / "a.png").write_bytes(b"a")
    results.sweep()
    assert (results.uploads / "a" / "a.png").exists()
    now = time.time()
    monkeypatch.setattr("flashdiff_cli.serve.results.time.time", lambda: now + KEPT + 60)
    results.sweep()
    assert not (results.uploads / "a" / "a.png").exists()


def test_maps_of_equal_stems_are_all_kept(results):
    with results.visit() as done:
        done.keep(answer("a-restored.png", b"first"))
        done.keep(answer("a-restored.jpg", b"second"))
        done.keep(answer("a-restored.png", b"third"))
    assert len(set(done.files)) == 6 and {path.read_bytes() for path in done.files} == {b"data", b"first", b"second", b"third"}
    assert done.last.severity_map == b"third" and len(done.records) == 3


class Given:
    """A page's service, which has done everything it is given at once."""

    def __init__(self):
        self.names = []

    def submit(self, task, step):
        self.names.append(task.name)
        future = Future()
        future.set_result(answer(f"{task.name}-restored.png", None))
        return Job(task, step, future)

    def before(self, job):
        return 0


def test_an_upload_that_has_gone_is_one_failure(results, tmp_path):
    """And one that goes while its visitor waits is there when it is its turn."""
    paths = [tmp_path / name for name in ("a.png", "gone.png", "b.png")]
    for path in (paths[0], paths[2]):
        path.write_bytes(png())
    page = pages.Page(Given(), results, 3, 1)
    with results.visit() as done:
        outputs = page._restored(done, [str(path) for path in paths], Choices(), None, lambda *_, **__: None)
        next(outputs)
        paths[2].unlink()
        assert len(list(outputs)) == 2
    assert page.service.names == ["a.png", "b.png"] and len(done.failed) == 1 and "gone.png" in done.failed[0] and "hour" in done.failed[0]
    assert not (done.folder / "given").exists()


def test_the_picture_to_paint_on_is_decoded_within_the_bounds(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png((60, 40)))
    shown, size = pages.ground([str(tmp_path / "a.png")])
    assert size == (60, 40) and shown["value"]["background"].size == (60, 40)
    monkeypatch.setenv("FLASHDIFF_MAX_MEGAPIXELS", "0.001")
    with pytest.raises(gr.Error, match="cannot be shown"):
        pages.ground([str(tmp_path / "a.png")])
    monkeypatch.delenv("FLASHDIFF_MAX_MEGAPIXELS")
    monkeypatch.setenv("FLASHDIFF_MAX_SECONDS", "0.1")
    monkeypatch.setattr(pages, "open_image_file", lambda path: time.sleep(5))
    with pytest.raises(gr.Error, match="cannot be shown"):
        pages.ground([str(tmp_path / "a.png")])


def test_who_waits_for_a_picture_keeps_no_other_from_the_page(tmp_path):
    """As many threads as visitors may wait, and those of all else besides."""
    (tmp_path / "results").mkdir()
    service = Service(waiting=100, workers=3)
    app = build(service, tmp_path / "results", Limits(waiting=100, workers=3), [NAME])
    with TestClient(app, f"http://{NAME}") as found:
        assert found.get("/config").status_code == 200
        blocks = app.routes[-1].app.get_blocks()
        assert blocks.limiter.total_tokens == len(blocks._queue.active_jobs) == 143
    service.close()


def test_every_format_of_a_result_has_its_media_type():
    assert set(FORMATS.values()) == set(TYPES)


def test_the_end_of_the_server_is_told_as_such():
    assert error_of(Ending("the server is ending")).status_code == 503

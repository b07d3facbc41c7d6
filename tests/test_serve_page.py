"""The page of `flashdiff serve` in a real browser (Chromium, headless), on a computer's width and on a phone's."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from picture_files import png
from PIL import Image
from served import server

pytest.importorskip("gradio", reason="needs the extra [web]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)
PATIENCE = 120_000
USERS = 20 if os.environ.get("FLASHDIFF_LONG") else 4


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with server(tmp_path_factory.mktemp("served"), "--max-megabytes", "0.5", "--max-batch", "3", "--max-waiting", "40") as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(served, chromium):
    """Open the page at a width; at the end nothing may have been asked of another place, and no error been logged."""
    troubles, contexts = [], []

    def go(width=1200, expected=()):
        context = chromium.new_context(viewport={"width": width, "height": 844}, is_mobile=width < 600, has_touch=width < 600)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)

        def logged(message):
            if message.type == "error" and not any(word in message.text for word in expected):
                troubles.append(message.text)

        page.on("console", logged)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: request.url.startswith((served.address, "data:", "blob:")) or troubles.append(request.url))
        page.goto(served.address)
        page.wait_for_selector("#restore")
        return page

    yield go
    for context in contexts:
        context.close()
    assert troubles == []


def drop(page, *pictures):
    page.set_input_files("#pictures input[type=file]", [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in pictures])
    page.wait_for_function(f"document.querySelectorAll('#pictures tbody tr').length == {len(pictures)}")


def settings(page, *ticked):
    page.click("#settings button")
    for label in ticked:
        page.check(f"#settings label:has-text('{label}') input")


def restore(page):
    page.click("#restore")
    page.wait_for_selector("#command textarea")


def downloaded(page, name):
    """The bytes of one of the results."""
    with page.expect_download() as waiting:
        page.click(f"#results a[download='{name}']")
    return waiting.value.path().read_bytes()


def test_a_picture_is_dropped_restored_compared_and_downloaded(visit, served):
    page = visit()
    drop(page, ("my <i>photo.png", png((96, 64))))
    settings(page, "Fast", "Map of where")
    restore(page)
    assert page.input_value("#command textarea").startswith("flashdiff restore 'my iphoto.png' --fast --severity-map")
    assert page.locator("#said b").count() >= 1 and "severity" in page.inner_text("#said").lower()
    assert page.locator("#map img").is_visible()
    names = ["".join(name.split()) for name in page.locator("#results tbody tr").all_inner_texts()]
    assert len(names) == 3 and any("restored.zip" in name for name in names)
    # The slider's handle moves, and with it what is seen of the result.
    box = page.locator("#slider img").first.bounding_box()
    before = page.locator("#slider").screenshot()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    assert page.locator("#slider").screenshot() != before


def test_what_is_painted_is_filled_at_a_phones_width(visit):
    """The mask that comes back is black where the finger was; nothing has to be scrolled sideways."""
    page = visit(390)
    drop(page, ("a.png", png((120, 120))))
    page.click("#mask button")
    page.click("#load-mask")
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(1500)
    page.locator("#editor canvas").first.scroll_into_view_if_needed()
    box = page.locator("#editor canvas").first.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(middle[0] - 20, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 20, middle[1], steps=10)
    page.mouse.up()
    page.wait_for_timeout(500)
    restore(page)
    assert "--mask mask.png" in page.input_value("#command textarea")
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "restored.zip"))) as archive:
        mask = np.asarray(Image.open(io.BytesIO(archive.read("mask.png"))))
        assert json.loads(archive.read("records.jsonl"))["operator"]["name"] == "mask-inpainting"
    assert mask.shape == (120, 120) and mask[60, 60] == 0 and mask[5, 5] == 255 and 0.005 < (mask == 0).mean() < 0.5
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_batch_comes_back_as_one_archive_and_a_hostile_file_hurts_no_other(visit):
    page = visit()
    drop(page, ("a.png", png(seed=1)), ("hostile.png", png()[:50] + b"\xff" * 99), ("b.png", png(seed=2)))
    settings(page, "Fast")
    page.click("#restore")
    page.wait_for_selector("#results a[download='restored.zip']")
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "restored.zip"))) as archive:
        assert sorted(archive.namelist()) == ["a-restored.png", "b-restored.png", "failed.txt", "records.jsonl"]
        assert len(archive.read("records.jsonl").splitlines()) == 2 and b"hostile.png" in archive.read("failed.txt")
    assert "hostile.png" in page.inner_text("#said") and page.locator("#gallery img").count() >= 2


def test_what_cannot_be_done_is_said_on_the_page(visit):
    page = visit()
    page.click("#restore")
    page.wait_for_selector("text=Drop a picture first")
    drop(page, ("hostile.png", b"no picture at all"))
    page.click("#restore")
    page.wait_for_selector("text=hostile.png: not a picture")


def test_many_at_once_are_all_served(visit):
    pages = [visit() for _ in range(USERS)]
    for number, page in enumerate(pages):
        drop(page, (f"{number}.png", png(seed=number)))
    for page in pages:
        page.click("#restore")
    for number, page in enumerate(pages):
        page.wait_for_selector("#command textarea")
        assert page.input_value("#command textarea").startswith(f"flashdiff restore {number}.png ")

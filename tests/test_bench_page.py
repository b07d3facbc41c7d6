"""The page of a bench and its published Markdown: what they hold, that they escape it, and that the page works in a browser."""

import html
import json
import re
import shutil
import subprocess
from urllib.parse import unquote

import pandas as pd
import pytest
from bench_records import bench, keep_images, record
from markupsafe import escape

from flashdiff_cli.bench.figures import draw_all
from flashdiff_cli.bench.page import arm_table, condition_table, describe, facts, make_page
from flashdiff_cli.bench.results import results_markdown
from flashdiff_cli.bench.tables import Block
from flashdiff_cli.errors import FlashdiffError, UsageError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROTOCOL = {
    "protocol": {
        "name": "try",
        "title": "A trial of <everything>",
        "size": 128,
        "seed": 7,
        "dataset": {"rule": "every\nsecond picture"},
        "condition": [
            {"name": "blur", "operator": "gaussian-blur", "options": {"blur_std": [0.3, 3.0]}, "noise_std": 0.05, "assumed": None},
            {"name": "told", "operator": "gaussian-blur", "noise_std": 0.1, "assumed": {"operator": None, "noise_std": 0.05}},
            {"name": "not-run", "operator": "identity"},
        ],
        "arm": [
            {"name": "input", "baseline": "input", "settings": {}},
            {"name": "flash-ldps", "solver": "ldps", "start": "flash", "steps": 250, "eta": 0.0, "blind": False} | {"settings": {"dc_step": 2.4}},
        ],
    },
    "arms_run": ["input", "flash-ldps"],
    "conditions_run": ["blur", "told"],
    "model": "photos",
    "pictures": 4,
    "command": "flashdiff bench 'my pictures' --protocol try -o out",
    "date": "2025-11-24T10:00:00+00:00",
    "commit": "abc1234",
    "machine": {"cpu": "A CPU", "cores": 2, "torch_threads": 1, "device": "cpu"},
    "versions": {"flashdiff": "0.1.0", "torch": "2.13"},
    "measures": {"usable": ["psnr"], "missing": ["lpips_vgg: no weights"]},
}
TABLE = pd.DataFrame([["flash-ldps", 4, "30.12 [29.00, 31.00]"], ["<b>tv</b>", 0, None]], columns=["arm", "n", "PSNR"], dtype=object)
BLOCKS = [Block("blur", [TABLE], ["Rank correlation 0.93 & more."]), Block("told", [], [])]
SUMMARY = "# try\n\nA trial of <everything>\n\nMeans over n pictures.\n\n## blur\n\n| arm | n |\n| --- | ---: |\n| flash-ldps | 4 |\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a bench")
    records = bench(4, fixed=(0, 20), sweep=3) + bench(2, "told", drop=1.0)
    records.append(record("tv", "set/000.png", status="failed", error="<script>alert(1)</script> & no memory"))
    keep_images([r for r in records if r["status"] == "done"], folder)
    (folder / "protocol.json").write_text(json.dumps(PROTOCOL))
    (folder / "summary.md").write_text(SUMMARY)
    draw_all(records, folder)
    return records, folder


def test_the_page_holds_tables_figures_pictures_and_facts_and_needs_no_other_file(whole):
    records, folder = whole
    page = make_page(folder, BLOCKS, records)
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "@import" not in page and "url(" not in page and "<script" not in page
    assert "30.12 [29.00, 31.00]" in page and "Rank correlation 0.93 &amp; more." in page and "<td></td>" in page
    assert "A trial of &lt;everything&gt;" in page and "&lt;b&gt;tv&lt;/b&gt;" in page
    assert "set/000.png, blur, tv: &lt;script&gt;alert(1)&lt;/script&gt; &amp; no memory" in page
    for words in ("abc1234", "flashdiff bench &#39;my pictures&#39;", "blur std 0.3 to 3", "every second picture"):
        assert words in page
    assert "lpips_vgg: no weights" in page
    assert "<b>4</b>pictures" in page and "<b>2</b>conditions" in page and "<b>1</b>failed" in page
    index = json.loads((folder / "figures" / "figures.json").read_text())
    shown = [entry for entry in index if not entry["name"].startswith("before-after.")]
    assert all(str(escape(entry["caption"])) in page for entry in shown) and "image/svg+xml" in page and "image/jpeg" in page
    # Pictures: each with input, wiener, decoded, full, flash and clean, without the fixed starts.
    assert page.count('<div class="row">') == 4 + 2 and page.count('alt="set/000.png, ') == 2 * 6
    assert 'alt="set/000.png, fixed-20"' not in page
    assert page == make_page(folder, BLOCKS, records)


def test_a_folder_with_nothing_but_records_has_a_page_too(tmp_path):
    page = make_page(tmp_path / "empty", [], bench(2))
    assert "<h1>empty</h1>" in page and "<img" not in page and "How this was made" not in page
    assert "<h1>empty</h1>" in make_page(tmp_path / "empty", [], [])


def test_the_page_tells_how_many_conditions_have_figures(tmp_path):
    records = [r for i in range(6) for r in bench(1, f"c{i}") if r["arm"] == "decoded"]
    assert "conditions have figures" not in make_page(tmp_path, [], records)
    draw_all(records, tmp_path)
    assert "The first 4 of 6 conditions have figures of their own." in make_page(tmp_path, [], records)


def test_facts_are_words_and_only_of_what_was_run():
    assert describe({"blur_std": [0.3, 3.0], "none": None, "on": True}) == "blur std 0.3 to 3, on yes"
    rows = condition_table(PROTOCOL).to_numpy().tolist()
    assert [r[0] for r in rows] == ["blur", "told"]
    assert rows[0][2:] == ["blur std 0.3 to 3", "0.05", "the truth"] and rows[1][4] == "noise std 0.05"
    rows = arm_table(PROTOCOL).to_numpy().tolist()
    assert rows[1] == ["flash-ldps", "ldps", "flash", "steps 250, eta 0, settings dc step 2.4"] and rows[0][3] == ""
    assert facts({}) == [] and condition_table({}).empty and arm_table({}).empty


def test_a_damaged_protocol_is_an_error_in_one_line(tmp_path):
    for text in ("{", "[1]"):
        (tmp_path / "protocol.json").write_text(text)
        with pytest.raises(FlashdiffError, match="protocol.json"):
            make_page(tmp_path, [], [])


def test_the_markdown_has_facts_tables_and_links_to_figures_that_are_there(whole, tmp_path):
    _, folder = whole
    found = results_markdown(folder)
    assert found == results_markdown([folder]) and found.endswith("\n")
    assert found.startswith("# Results\n\n## A trial of \\<everything\\>\n\n- protocol: try\n- model: photos\n")
    assert "- commit: abc1234" in found and "```sh\nflashdiff bench 'my pictures' --protocol try -o out\n```" in found
    # The summary's own title is not repeated, and its headings stand below this section's.
    assert "\n### blur\n" in found and "\n# try" not in found and "\nA trial of <everything>" not in found and "| flash-ldps | 4 |" in found
    links = re.findall(r"\]\(([^)]+)\)", found)
    index = json.loads((folder / "figures" / "figures.json").read_text())
    assert len(links) == 2 * len(index) > 10 and all((folder / unquote(link)).is_file() for link in links)
    away = results_markdown(folder, base=tmp_path)
    links = re.findall(r"\]\(([^)]+)\)", away)
    assert " " not in "".join(links) and all((tmp_path / unquote(link)).is_file() for link in links)


def test_several_folders_follow_in_the_order_given(whole, tmp_path):
    _, _folder = whole
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.md").write_text(f"# {name}\n\nTable of {name}.\n")
    found = results_markdown([tmp_path / "two", tmp_path / "one"])
    assert found == "# Results\n\n## two\n\nTable of two.\n\n## one\n\nTable of one.\n"
    with pytest.raises(UsageError, match="no bench folder"):
        results_markdown(tmp_path)


PROBE = """
<script>
const wrong = [];
addEventListener('error', event => wrong.push(event.message || 'a file could not be had: ' + event.target.src), true);
console.error = console.warn = text => wrong.push(String(text));
addEventListener('load', () => {
  const scrolled = document.scrollingElement.scrollWidth, room = document.documentElement.clientWidth;
  const broken = [...document.images].filter(i => !i.naturalWidth).map(i => i.alt);
  const out = [...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, pre') && e.getBoundingClientRect().right > room + 1);
  const found = {scrolled, room, broken, wrong, out: out.map(e => e.tagName), images: document.images.length};
  parent.postMessage(JSON.stringify(found), '*');
});
</script>
"""
FRAME = """<!doctype html><title>nothing came</title><script>onmessage = event => { document.title = event.data; };</script>
<iframe src="page.html" style="width: %dpx; height: 800px; border: 0"></iframe>"""
"""A frame, because the browser makes no window as narrow as a phone."""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_is_broken_and_nothing_scrolls_sideways(whole, tmp_path, width):
    records, folder = whole
    page = make_page(folder, BLOCKS, records).replace("<head>", "<head>" + PROBE, 1)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME % width, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "frame.html").as_uri()
    command = [CHROMIUM, *flags, "--window-size=1400,900", "--virtual-time-budget=6000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S)[1]))
    assert found["wrong"] == [] and found["broken"] == [] and "CONSOLE" not in done.stderr
    # A scroll bar at the side takes some.
    assert found["images"] > 30 and width - 20 <= found["room"] <= width
    assert found["scrolled"] <= found["room"] and found["out"] == []

"""The report page: what it holds, that it escapes what it shows, and that it works in a browser."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.report import SHOWN, _ticks, make_report, saved

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def record(folder, name, severity=0.3, steps=10, **more):
    before, after = folder / name, folder / f"out-{name}"
    for index, path in enumerate((before, after)):
        Image.fromarray(np.full((30, 40, 3), 60 + 100 * index, np.uint8)).save(path)
    values = {"width": 40, "height": 30, "severity": severity, "start_step": steps, "schedule_steps": 100, "steps": steps}
    values |= {"network_evaluations": steps, "seconds": {"solve": 2.0, "total": 3.0}, "model": "photos"}
    values["operator"] = {"name": "gaussian-blur", "blur_std": 1.5, "estimated": True}
    return Record(str(before), str(after), **(values | more))


def test_time_saved_is_what_the_other_steps_would_have_taken():
    done = Record("a", steps=10, schedule_steps=100, seconds={"solve": 2.0})
    assert saved(done) == pytest.approx(18.0)
    assert saved(Record("a", status="failed")) == saved(Record("a", steps=0, schedule_steps=9)) == 0.0


def test_what_names_and_errors_say_is_shown_and_not_run(tmp_path):
    records = [
        record(tmp_path, "a&b.png"),
        Record("<script>alert(1)</script>.png", status="failed", error="<img src=x onerror=alert(2)>: no"),
    ]
    page = make_report(records, "<b>title</b>")
    assert "a&amp;b.png" in page and "<b>title" not in page and "alert(1)</script>" not in page and "<img src=x" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_of_many_pictures_those_spread_over_severity_are_shown(tmp_path):
    records = [record(tmp_path, f"{i}.png", severity=i / 100) for i in range(SHOWN + 20)]
    page = make_report(records)
    assert page.count('type="range"') == SHOWN and f"{SHOWN} of {SHOWN + 20}" in page
    assert page.count("<tr class=") == SHOWN + 20
    assert "0.png, before" in page and f"{SHOWN + 19}.png, before" in page


def test_pictures_that_are_gone_or_were_restored_in_place(tmp_path):
    gone, same = record(tmp_path, "gone.png"), record(tmp_path, "same.png")
    (tmp_path / "out-gone.png").unlink()
    same.output = same.input
    page = make_report([gone, same])
    assert page.count("<figure>") == 1 and 'type="range"' not in page
    assert make_report([]).count("<tr class=") == 0


def test_captions_say_what_was_found_and_noted(tmp_path):
    page = make_report([record(tmp_path, "a.png", noise_std=0.0512, notes=["first of 3 frames"])])
    assert "found: gaussian-blur, blur_std 1.5, noise 0.0512<br>first of 3 frames" in page


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(42, [0, 10, 20, 30, 40, 50]), (0.316, [0, 0.1, 0.2, 0.3, 0.4]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (250, [0, 50, 100, 150, 200, 250])],
)
def test_axes_have_round_numbers(largest, expected):
    assert _ticks(largest) == pytest.approx(expected)


@pytest.mark.parametrize("largest", [1e-4, 0.03, 0.999, 7, 99, 1000, 12345])
def test_axes_reach_the_largest_value_and_no_further_than_needed(largest):
    ticks = _ticks(largest)
    assert ticks[-2] < largest <= ticks[-1] * (1 + 1e-9) and 3 <= len(ticks) <= 6


PROBE = """
<script>
const wrong = [];
addEventListener('error', event => wrong.push(event.message));
addEventListener('load', () => {
  const pair = document.querySelector('.pair'), slider = pair.querySelector('input');
  slider.value = 20;
  slider.dispatchEvent(new Event('input'));
  const clip = getComputedStyle(pair.querySelector('.before')).clipPath;
  const column = () => [...document.querySelectorAll('tbody tr')].map(row => row.cells[2].textContent);
  const button = document.querySelectorAll('th button')[2];
  button.click(); const up = column();
  button.click(); const down = column();
  const wide = document.documentElement.scrollWidth <= innerWidth;
  document.title = JSON.stringify({clip, up, down, wide, wrong, images: [...document.images].every(i => i.naturalWidth > 0)});
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_the_slider_moves_and_the_table_sorts(tmp_path, width):
    records = [record(tmp_path, f"{i}.png", severity=s) for i, s in enumerate((0.25, 0.1, 0.9))]
    records.append(Record("bad.png", status="failed", error="bad.png: not a picture"))
    page = tmp_path / "report.html"
    page.write_text(make_report(records).replace("<head>", "<head>" + PROBE, 1), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *flags, f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    import html
    import json

    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", shown, re.S)[1]))
    assert found["clip"].replace("0px", "0").startswith("inset(0 80%")
    assert found["up"] == ["0.100", "0.250", "0.900", ""] and found["down"] == ["0.900", "0.250", "0.100", ""]
    assert found["wide"] and found["images"] and found["wrong"] == []

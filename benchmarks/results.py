"""Everything on docs/results.md: run the benches, and write the page.

    python benchmarks/results.py FACES PHOTOGRAPHS -o docs/results          # all of it: hours on a CPU, on a GPU minutes
    python benchmarks/results.py FACES PHOTOGRAPHS -o out --only examples   # one section

Each section is one `flashdiff bench`, from fixed seeds, so that the same pictures give the same numbers; a run that was stopped goes on
where it was. The page is written anew from all sections whose records are there. FACES and PHOTOGRAPHS are folders of clean pictures
that the model was not trained on; the section `examples` needs neither. Run it in the repository's folder: `examples/` is named from there.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flashdiff_cli.bench.records import NAME, read
from flashdiff_cli.bench.results import results_markdown
from flashdiff_cli.bench.tables import DIGITS, TITLES, arrow, markdown_table, number
from flashdiff_cli.pages import write_text

EXAMPLES = tuple(f"examples/{name}-clean.png" for name in ("blurry", "heavy", "light"))
FACES, PHOTOGRAPHS = "FACES", "PHOTOGRAPHS"
MEASURES = ("psnr", "ssim", "gmsd", "haarpsi")
KEPT = ("protocol.json", "records.jsonl", "summary.json", "summary.md", "figures")
"""Of a bench folder, what is published."""
LARGEST_DRAWING = 300_000
"""Bytes of an SVG."""

CLASSICAL_BLUR, CLASSICAL_MISSING = "wiener,richardson-lucy,tv", "tv,biharmonic"
BLUR_LDPS = f"input,decoded,{CLASSICAL_BLUR},full-ldps,flash-ddpm-ldps,flash-ldps,flash-fast-ldps,come-closer-ldps,blind-ldps,severity"
GUIDED = "input,decoded,full-gml-dps,flash-gml-dps,full-psld,flash-psld"
RESAMPLE = "input,decoded,full-resample,flash-resample"


@dataclass(frozen=True)
class Section:
    """One bench of the page."""

    name: str
    protocol: str
    pictures: tuple[str, ...]
    limit: int
    arms: str | None = None
    size: int = 128
    fidelity: bool | None = None
    shown: int = 0
    """Pictures that figures may show: none of data that may not be passed on."""

    def arguments(self, folders: dict[str, str], output: Path, batch: int) -> list[str]:
        """Of `flashdiff bench`."""
        found = ["bench", *(folders.get(p, p) for p in self.pictures), "--protocol", self.protocol]
        found += ["--limit", str(self.limit), "--size", str(self.size), "--batch", str(batch)]
        found += ["--arms", self.arms] if self.arms else []
        found += [] if self.fidelity is None else ["--fidelity" if self.fidelity else "--no-fidelity"]
        return [*found, "--save-images", str(self.shown), "-o", (output / self.name).as_posix()]


# Solvers against themselves: without the correction in pixels, which comes after every solver and makes them more alike.
SECTIONS = (
    Section("gblur-faces", "gblur-varying", (FACES,), 20, BLUR_LDPS, fidelity=False),
    Section("gblur-photographs", "gblur-varying", (PHOTOGRAPHS,), 6, BLUR_LDPS, fidelity=False),
    Section("gblur-guided", "gblur-varying", (FACES,), 8, GUIDED, fidelity=False),
    Section("gblur-resample", "gblur-varying", (FACES,), 20, RESAMPLE, fidelity=False),
    Section("start-search", "start-search", (FACES,), 24),
    Section("start-search-photographs", "start-search", (PHOTOGRAPHS,), 12),
    Section("robustness", "robustness", (FACES,), 8),
    Section("random-inpainting", "random-inpainting", (FACES,), 12, f"input,decoded,{CLASSICAL_MISSING},flash-ldps,flash-fast-ldps,severity"),
    Section("box-inpainting", "box-inpainting", (FACES,), 12, f"input,decoded,{CLASSICAL_MISSING},flash-ldps,flash-fast-ldps,severity"),
    Section("motion-blur", "motion-blur", (FACES,), 12, f"input,decoded,{CLASSICAL_BLUR},flash-ldps,flash-fast-ldps,severity"),
    Section("examples", "gblur-varying", EXAMPLES, 3, "input,decoded,tv,flash-ldps,flash-fast-ldps,severity", shown=3),
)


def run(section: Section, folders: dict[str, str], output: Path, batch: int) -> None:
    """One bench; a killed one goes on where it was."""
    command = [sys.executable, "-m", "flashdiff_cli", *section.arguments(folders, output, batch)]
    print("flashdiff " + " ".join(command[3:]), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def in_short(folders: list[Path]) -> str:
    """One table of every arm that is compared with another: cost, and what it costs in quality."""
    head = ["section", "arm", "compared with", "n", "evaluations", "times fewer", *(TITLES[m] + arrow(m) for m in MEASURES)]
    rows = []
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        for block in summary["conditions"].values():
            for name, arm in block["arms"].items():
                found = arm.get("difference")
                if not found or not found["evaluations_ratio"] or not found["to"].startswith("full"):
                    continue
                cells = [number(found["measures"][m], DIGITS[m], signed=True) for m in MEASURES]
                spent = number(arm["measures"]["network_evaluations"], 1, interval=False)
                rows.append([folder.name, name, found["to"], str(arm["n"]), spent, f"{found['evaluations_ratio']:.0f}", *cells])
    return "\n".join(markdown_table(pd.DataFrame(rows, columns=head), left=3))


INTRODUCTION = """\
The default model, `photos`, on pictures that it was not trained on. Every section below says what was run, on what, when and at which
commit; its records lie beside its figures. All of it is made by one command, from fixed seeds:

```sh
python benchmarks/results.py FACES PHOTOGRAPHS -o docs/results
```

The arms are explained in [bench.md](bench.md). Pictures are centre crops of 128 x 128 pixels.

## In short

Matched starts against the same solver from pure noise with all its steps (1000 DDPM steps; ReSample 500), on the same measurements.
`flash-ddpm` keeps the full grid and begins at the matched step; `flash` has the model's own grid; `flash-fast` one of 100 steps. Paired
differences with 95 % bootstrap intervals; for GMSD less is better.
"""


def write_page(output: Path, page: Path) -> None:
    """The page of all sections that have been run, as links and tables."""
    folders = [output / s.name for s in SECTIONS if (output / s.name / "summary.json").exists()]
    whole = results_markdown(folders, base=page.parent)
    title, rest = whole.split("\n\n", 1)
    write_text(f"{title}\n\n{INTRODUCTION}\n{in_short(folders)}\n\n{rest}", page)


def keep_what_is_published(folder: Path) -> None:
    """Leave out images, pages, drawings full of pictures, which are large and can be made again, and records that later ones replaced."""
    write_text("".join(record.to_json() + "\n" for record in read(folder)), folder / NAME)
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.glob("figures/*.svg"):
        if path.stat().st_size > LARGEST_DRAWING:
            path.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", nargs="?", default=FACES)
    parser.add_argument("photographs", nargs="?", default=PHOTOGRAPHS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="the page to write (default: OUTPUT.md, beside the folder)")
    parser.add_argument("--only", help="sections: a,b")
    parser.add_argument("--batch", type=int, default=10, help="pictures at once")
    parser.add_argument("--publish", action="store_true", help="leave only what is published in the folders")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else [s.name for s in SECTIONS]
    if unknown := set(wanted) - {s.name for s in SECTIONS}:
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(s.name for s in SECTIONS)}")
    chosen = [s for s in SECTIONS if s.name in wanted]
    folders = {FACES: arguments.faces, PHOTOGRAPHS: arguments.photographs}
    if missing := [p for s in chosen for p in s.pictures if p in folders and folders[p] == p]:
        parser.error(f"give the folders of {missing[0].lower()}, or --only examples")
    for section in chosen:
        run(section, folders, arguments.output, arguments.batch)
        if arguments.publish:
            keep_what_is_published(arguments.output / section.name)
    write_page(arguments.output, arguments.page or arguments.output.with_suffix(".md"))


if __name__ == "__main__":
    main()

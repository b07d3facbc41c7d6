"""Records as tables: means with bootstrap intervals, paired differences, severity against the truth."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashdiff_cli.bench.metrics import FOLDER, LOWER_IS_BETTER, MEASURES
from flashdiff_cli.bench.protocol import SEVERITY, Protocol
from flashdiff_cli.bench.records import BenchRecord
from flashdiff_cli.bench.starts import start_search
from flashdiff_cli.stats import mean_interval, ordering_accuracy, pearson, spearman

COSTS = ("network_evaluations", "seconds", "start_step")
DIGITS = {"psnr": 2, "ssim": 3, "ms_ssim": 3, "gmsd": 4, "haarpsi": 3, "gradient": 2, "lpips_vgg": 3, "lpips_alex": 3}
DIGITS |= {"fid": 1, "kid": 4, "network_evaluations": 1, "seconds": 1, "start_step": 1}
TITLES = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "gmsd": "GMSD", "haarpsi": "HaarPSI", "gradient": "gradient"}
TITLES |= {"lpips_vgg": "LPIPS VGG", "lpips_alex": "LPIPS Alex", "fid": "FID", "kid": "KID"}
TITLES |= {"network_evaluations": "evaluations", "seconds": "seconds", "start_step": "start"}


def value(record: BenchRecord, measure: str) -> float | None:
    """A measure or cost of a record; None where it has none."""
    found = record.seconds.get("total") if measure == "seconds" else getattr(record, measure, None)
    return None if found is None or not math.isfinite(found) else float(found)


def _values(records: dict[str, BenchRecord], measure: str) -> dict[str, float]:
    pairs = ((image, value(record, measure)) for image, record in records.items())
    return {image: v for image, v in pairs if v is not None}


def _ordered(wanted: Sequence[str], present: Sequence[str]) -> list[str]:
    """Names of the protocol first, in its order; then those that only the records have."""
    return [n for n in wanted if n in present] + [n for n in dict.fromkeys(present) if n not in wanted]


def summarise(
    records: Sequence[BenchRecord], protocol: Protocol, folder_scores: dict[tuple[str, str], dict] | None = None
) -> dict[str, Any]:
    """Everything that the tables show.

    Args:
        records: the latest of each measurement and arm.
        protocol: names the order, the measures and what is compared.
        folder_scores: FID and KID by (condition, arm).

    Returns:
        `protocol`, `measures`, and `conditions`: by name `arms` (by name `n`, `skipped`, `failed`, `reason`, `measures` with mean,
        low, high and n of each measure and cost, `difference` to another arm), `start_search` (`starts.start_search`) and `severity`.
    """
    measures = [m for m in protocol.metrics if m in (*MEASURES, "lpips_vgg", "lpips_alex")]
    own = {arm.name: arm for arm in protocol.arm}
    conditions = {}
    for condition in _ordered([c.name for c in protocol.condition], [r.condition for r in records]):
        here = [r for r in records if r.condition == condition]
        by_arm: dict[str, dict[str, BenchRecord]] = {}
        for record in here:
            if record.arm != SEVERITY:
                by_arm.setdefault(record.arm, {})[record.image] = record
        done = {arm: {k: r for k, r in found.items() if r.status == "done"} for arm, found in by_arm.items()}
        arms = {}
        for name in _ordered(list(own), list(by_arm)):
            statuses = [r.status for r in by_arm[name].values()]
            row: dict[str, Any] = {"n": statuses.count("done"), "skipped": statuses.count("skipped"), "failed": statuses.count("failed")}
            row["reason"] = next((r.error for r in by_arm[name].values() if r.status != "done"), None)
            row["measures"] = {m: mean_interval(list(_values(done[name], m).values())) for m in (*measures, *COSTS)}
            for measure, score in ((folder_scores or {}).get((condition, name)) or {}).items():
                row["measures"][measure] = {"n": row["n"], "mean": score, "low": None, "high": None}
            other = protocol.against(own[name], [arm for arm, found in done.items() if found]) if name in own else None
            if other and row["n"]:
                row["difference"] = _difference(done[name], done[other], other, measures)
            if (worse := _share_worse(done[name], done.get("input", {}))) is not None:
                row["worse_than_input"] = worse
            if kinds := Counter(r.assumed["kind"] for r in done[name].values() if r.assumed and "kind" in r.assumed):
                row["kinds"] = dict(kinds.most_common())
            arms[name] = row
        # As the lines of records.jsonl are read by the figures.
        plain = {arm: {image: vars(r) for image, r in found.items()} for arm, found in done.items()}
        search = start_search(plain, measures)
        conditions[condition] = {"arms": arms, "start_search": search, "severity": severity_figures(here)}
    shown = [*measures, *(m for m in protocol.metrics if m in FOLDER)]
    return {"protocol": protocol.name, "title": protocol.title, "measures": shown, "conditions": conditions}


def _share_worse(mine: dict[str, BenchRecord], inputs: dict[str, BenchRecord]) -> float | None:
    """Share of the pictures whose PSNR is below that of their measurement; None without any.

    A measurement that is the clean picture itself, whose PSNR is no number, has nothing that could get better: it does not count.
    """
    common = [k for k in mine if k in inputs and mine[k] is not inputs[k] and inputs[k].psnr is not None]
    if not common:
        return None
    return sum(mine[k].psnr is not None and mine[k].psnr < inputs[k].psnr for k in common) / len(common)


def _difference(mine: dict[str, BenchRecord], others: dict[str, BenchRecord], name: str, measures: Sequence[str]) -> dict[str, Any]:
    """Paired differences (this arm minus the other), over the pictures that both have, and how many times fewer evaluations."""
    found: dict[str, Any] = {"to": name, "measures": {}}
    for measure in measures:
        a, b = _values(mine, measure), _values(others, measure)
        found["measures"][measure] = mean_interval([a[image] - b[image] for image in a if image in b])
    a, b = _values(mine, "network_evaluations"), _values(others, "network_evaluations")
    common = [image for image in a if image in b]
    spent = sum(a[image] for image in common)
    found["evaluations_ratio"] = sum(b[image] for image in common) / spent if spent else None
    return found


def severity_figures(records: Sequence[BenchRecord]) -> dict[str, Any] | None:
    """Estimated against true error variance over the pictures, and the order of levels in a sweep; None without either."""
    single: dict[str, BenchRecord] = {}
    for record in records:
        if record.arm != SEVERITY and record.status == "done" and record.error_variance and record.variance:
            single.setdefault(record.image, record)
    sweep = [r for r in records if r.arm == SEVERITY and r.status == "done"]
    if sweep:
        sweep = [r for r in sweep if r.settings == sweep[-1].settings]
    found: dict[str, Any] = {}
    points = list(single.values()) or sweep
    if len(points) > 2:
        true, estimated = (np.array([getattr(r, key) for r in points]) for key in ("error_variance", "variance"))
        found |= {"n": len(points), "spearman": spearman(true, estimated), "pearson": pearson(true, estimated)}
        found["pearson_log"] = pearson(np.log(true), np.log(estimated))
    if sweep:
        levels = sorted({r.level for r in sweep})
        rows: dict[str, dict[float, BenchRecord]] = {}
        for record in sweep:
            rows.setdefault(record.image, {})[record.level] = record
        whole = [[row[t] for t in levels] for row in rows.values() if len(row) == len(levels)]
        if whole:
            variances = np.array([[r.variance for r in row] for row in whole])
            found |= {"sweep_pictures": len(whole), "levels": levels, "ordering_accuracy": ordering_accuracy(variances)}
            found["mean_severity_by_level"] = np.sqrt(variances).mean(0).tolist()
            found["mean_start_by_level"] = np.mean([[r.start_step for r in row] for row in whole], axis=0).tolist()
    return found or None


def number(figures: dict[str, Any], digits: int, signed: bool = False, interval: bool = True) -> str:
    """"mean [low, high]", or "-" where there is none."""
    if figures["mean"] is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{figures['mean']:{sign}.{digits}f}"
    if not interval or figures["low"] is None:
        return text
    return f"{text} [{figures['low']:{sign}.{digits}f}, {figures['high']:{sign}.{digits}f}]"


def arrow(measure: str) -> str:
    """Which way is better, for a heading; none for what has no better way."""
    if measure in LOWER_IS_BETTER:
        return " ↓"
    return " ↑" if measure in ("psnr", "ssim", "ms_ssim", "haarpsi") else ""


def _measure_rows(block: dict[str, Any], measures: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    columns = [*measures, *COSTS]
    head = ["arm", "n", *(TITLES[m] + arrow(m) for m in columns)]
    rows = []
    for name, arm in block["arms"].items():
        if not arm["n"]:
            rows.append([name, "0", f"{'failed' if arm['failed'] else 'skipped'}: {arm['reason']}", *[""] * (len(columns) - 1)])
            continue
        empty = {"mean": None, "low": None}
        cells = [number(arm["measures"].get(m, empty), DIGITS[m], interval=m not in COSTS) for m in columns]
        rows.append([name, str(arm["n"]) + (f" ({arm['failed']} failed)" if arm["failed"] else ""), *cells])
    return head, rows


def _difference_rows(block: dict[str, Any], measures: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    shown = [m for m in measures if m not in FOLDER]
    rows = []
    for name, arm in block["arms"].items():
        if not (found := arm.get("difference")):
            continue
        ratio = found["evaluations_ratio"]
        cells = [number(found["measures"][m], DIGITS[m], signed=True) for m in shown]
        n = max((found["measures"][m]["n"] for m in shown), default=0)
        rows.append([name, found["to"], str(n), *cells, "-" if ratio is None else f"{ratio:.1f}"])
    return ["arm", "minus", "n", *(TITLES[m] + arrow(m) for m in shown), "times fewer evaluations"], rows


def _start_rows(found: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The start search: a row for each matched arm, class of severity and measure."""
    rows = []
    for search in found:
        for part in search["classes"]:
            low, high = part["severity"]
            start = f"{part['start_step']:.1f} of {search['schedule_steps']}"
            what = [search["arm"], part["name"], str(part["n"]), f"{low:.3f} to {high:.3f}", start]
            for measure, of in part["measures"].items():
                digits, percent = DIGITS[measure], "-" if of["percent"] is None else f"{of['percent']:+.1f}"
                means = [f"{of['best_mean']:.{digits}f}", f"{of['matched_mean']:.{digits}f}"]
                difference = number(of["difference"], digits, signed=True)
                rows.append([*what, TITLES[measure] + arrow(measure), str(of["best_start"]), *means, difference, percent])
    head = ["arm", "class", "n", "severity", "matched start", "measure", "best fixed start", "its mean", "matched", "difference", "%"]
    return head, rows


def start_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """What the best fixed start was chosen from, and how, as sentences."""
    return [
        f"{search['arm']} against fixed starts at steps {', '.join(map(str, search['fixed']))}: the best one is chosen for each class of "
        "severity and measure on the same pictures, in its favour; the difference is the matched start minus the best fixed one, "
        "paired, and % its share of the best one's mean."
        for search in found
    ]


def severity_lines(found: dict[str, Any] | None) -> list[str]:
    """The severity figures as sentences."""
    lines = []
    if found and "spearman" in found:
        lines.append(
            f"Estimated against true error variance ({found['n']} measurements): rank correlation {found['spearman']:.2f}, "
            f"Pearson {found['pearson']:.2f}, of the logarithms {found['pearson_log']:.2f}."
        )
    if found and "ordering_accuracy" in found:
        starts = ", ".join(f"{v:.0f}" for v in found["mean_start_by_level"])
        lines.append(
            f"{len(found['levels'])} levels of {found['sweep_pictures']} pictures: {found['ordering_accuracy']:.1%} of the pairs "
            f"in the right order; mean start step by level {starts}."
        )
    return lines


def arm_lines(arms: dict[str, dict[str, Any]]) -> list[str]:
    """Which arms make pictures worse than they came, and what the blind ones took the degradation for, as sentences."""
    shares = [f"{name} {row['worse_than_input']:.1%}" for name, row in arms.items() if row.get("worse_than_input") is not None]
    lines = [f"Share of the pictures with less PSNR than their input: {', '.join(shares)}."] if shares else []
    for name, row in arms.items():
        if kinds := row.get("kinds"):
            lines.append(f"{name} took it for: {', '.join(f'{kind} {count}' for kind, count in kinds.items())}.")
    return lines


def blocks(summary: dict[str, Any]):
    for name, block in summary["conditions"].items():
        tables = [_measure_rows(block, summary["measures"])]
        if (difference := _difference_rows(block, summary["measures"]))[1]:
            tables.append(difference)
        if search := block["start_search"]:
            tables.append(_start_rows(search))
        yield name, tables, start_lines(search) + severity_lines(block["severity"]) + arm_lines(block["arms"])


NOTE = (
    "Means over n pictures with 95 % bootstrap intervals; differences are paired, over the pictures that both arms have. "
    "MS-SSIM has a window of 11 pixels, below 176 pixels the largest that fits (7 at 128). Seconds are per picture."
)


def to_markdown(summary: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [f"# {summary['protocol']}", "", *([summary["title"], ""] if summary["title"] else []), NOTE, ""]
    lines += [part for sentence in summary.get("missing", []) for part in (sentence + ".", "")]
    for name, tables, sentences in blocks(summary):
        lines += [f"## {name}", ""]
        for head, rows in tables:
            cell: Callable[[str], str] = lambda text: text.replace("|", "\\|")
            lines += ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
            lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows] + [""]
        lines += [part for sentence in sentences for part in (sentence, "")]
    return "\n".join(lines)


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#1a1a1a;background:#fff}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}"
)


def to_html(summary: dict[str, Any]) -> str:
    """The tables as a page of its own that needs no other file."""
    text = html.escape
    parts = ['<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">']
    parts += [f"<title>{text(summary['protocol'])}</title><style>{STYLE}</style><h1>{text(summary['protocol'])}</h1>"]
    parts += [f"<p>{text(summary['title'])}</p>" if summary["title"] else "", f"<p>{text(NOTE)}</p>"]
    parts += [f"<p>{text(sentence)}.</p>" for sentence in summary.get("missing", [])]
    for name, tables, sentences in blocks(summary):
        parts.append(f"<h2>{text(name)}</h2>")
        for head, rows in tables:
            top = "".join(f"<th>{text(c)}</th>" for c in head)
            body = "".join("<tr>" + "".join(f"<td>{text(c)}</td>" for c in row) + "</tr>" for row in rows)
            parts.append(f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>')
        parts += [f"<p>{text(sentence)}</p>" for sentence in sentences]
    return "\n".join(parts) + "</html>\n"


def scores_of_folders(bench: Any, records: Sequence[BenchRecord]) -> dict[tuple[str, str], dict[str, float]]:
    """FID and KID of each condition and arm, from the saved images; at least two pictures are needed.

    Args:
        bench: a `runner.Bench` whose images are all saved.
        records: the latest of each measurement and arm.
    """
    from flashdiff_cli.bench.records import image_path

    names = [m for m in bench.measures.usable if m in FOLDER]
    found: dict[tuple[str, str], dict[str, float]] = {}
    pairs: dict[tuple[str, str], list[tuple[Path, Path]]] = {}
    for r in records if names else ():
        path, clean = (image_path(bench.folder, r.condition, r.image, arm) for arm in (r.arm, "clean"))
        if r.status == "done" and r.arm != SEVERITY and path.exists() and clean.exists():
            pairs.setdefault((r.condition, r.arm), []).append((path, clean))
    for key, files in pairs.items():
        if len(files) > 1:
            found[key] = {name: bench.measures.of_folder(name, files) for name in names}
    return found

"""Records as tables: means with bootstrap intervals, paired differences, severity against the truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flashdiff_cli.bench.metrics import FOLDER, LOWER_IS_BETTER, MEASURES
from flashdiff_cli.bench.protocol import SEVERITY, Protocol
from flashdiff_cli.bench.records import BenchRecord
from flashdiff_cli.bench.starts import start_search
from flashdiff_cli.pages import render
from flashdiff_cli.stats import mean_interval, ordering_accuracy, pearson, spearman

SCORES = (*MEASURES, "lpips_vgg", "lpips_alex")
COSTS = ("network_evaluations", "seconds", "start_step")
DIGITS = {"psnr": 2, "ssim": 3, "ms_ssim": 3, "gmsd": 4, "haarpsi": 3, "gradient": 2, "lpips_vgg": 3, "lpips_alex": 3}
DIGITS |= {"fid": 1, "kid": 4, "network_evaluations": 1, "seconds": 1, "start_step": 1}
TITLES = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "gmsd": "GMSD", "haarpsi": "HaarPSI", "gradient": "gradient"}
TITLES |= {"lpips_vgg": "LPIPS VGG", "lpips_alex": "LPIPS Alex", "fid": "FID", "kid": "KID"}
TITLES |= {"network_evaluations": "evaluations", "seconds": "seconds", "start_step": "start"}


class Block(NamedTuple):
    """What is shown of one condition.

    Attributes:
        tables: cells are text or numbers, None is an empty one.
        sentences: below the tables.
    """

    name: str
    tables: list[pd.DataFrame]
    sentences: list[str]


def frame(records: Sequence[BenchRecord]) -> pd.DataFrame:
    """Return records as a table, a row each in their order; a number that is missing or not finite is NaN."""
    data = pd.DataFrame([vars(r) for r in records], columns=[f.name for f in fields(BenchRecord)])
    data["seconds"] = [r.seconds.get("total") for r in records]
    numbers = [*SCORES, *COSTS, "level", "severity", "variance", "error_variance"]
    data[numbers] = data[numbers].astype(float).replace([math.inf, -math.inf], math.nan)
    return data


def _ordered(wanted: Sequence[str], present: Sequence[str]) -> list[str]:
    """Return the names of the protocol in its order, then those that only the records have."""
    return [n for n in wanted if n in present] + [n for n in dict.fromkeys(present) if n not in wanted]


def summarise(records: Sequence[BenchRecord], protocol: Protocol, folder_scores: dict[tuple[str, str], dict] | None = None) -> dict[str, Any]:
    """Return everything that the tables show.

    Args:
        records: the latest of each measurement and arm.
        protocol: names the order, the measures and what is compared.
        folder_scores: FID and KID by (condition, arm).

    Returns:
        `protocol`, `measures`, and `conditions`: by name `arms` (by name `n`, `skipped`, `failed`, `reason`, `measures` with mean,
        low, high and n of each measure and cost, `difference` to another arm), `start_search` (`starts.start_search`) and `severity`.
    """
    measures = [m for m in protocol.metrics if m in SCORES]
    data = frame(records)
    conditions = {}
    for condition in _ordered([c.name for c in protocol.condition], [r.condition for r in records]):
        here = data[data["condition"] == condition]
        arms = _arm_figures(here, protocol, measures)
        for (where, name), scores in (folder_scores or {}).items():
            if where == condition and name in arms:
                for measure, score in scores.items():
                    arms[name]["measures"][measure] = {"n": arms[name]["n"], "mean": score, "low": None, "high": None}
        # As the lines of records.jsonl are read by the figures.
        plain: dict[str, dict[str, Any]] = {}
        for r in records:
            if (r.condition, r.status) == (condition, "done") and r.arm != SEVERITY:
                plain.setdefault(r.arm, {})[r.image] = vars(r)
        search = start_search({arm: plain.get(arm, {}) for arm in arms}, measures)
        conditions[condition] = {"arms": arms, "start_search": search, "severity": severity_figures(here)}
    shown = [*measures, *(m for m in protocol.metrics if m in FOLDER)]
    return {"protocol": protocol.name, "title": protocol.title, "measures": shown, "conditions": conditions}


def _arm_figures(here: pd.DataFrame, protocol: Protocol, measures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return, for each arm of one condition, its counts, means, and differences to the arm that it is compared with."""
    own = {arm.name: arm for arm in protocol.arm}
    restored = here[here["arm"] != SEVERITY].drop_duplicates(["arm", "image"], keep="last")
    found = {str(arm): part.set_index("image") for arm, part in restored.groupby("arm", sort=False)}
    done = {arm: part[part["status"] == "done"] for arm, part in found.items()}
    with_results = [arm for arm, part in done.items() if len(part)]
    rows = {}
    for name in _ordered(list(own), list(found)):
        mine, statuses = done[name], found[name]["status"]
        errors = found[name].loc[statuses != "done", "error"]
        row: dict[str, Any] = {"n": len(mine), "skipped": int((statuses == "skipped").sum()), "failed": int((statuses == "failed").sum())}
        row["reason"] = None if errors.empty else errors.iloc[0]
        row["measures"] = {m: mean_interval(mine[m].dropna()) for m in (*measures, *COSTS)}
        other = protocol.against(own[name], with_results) if name in own else None
        if other and len(mine):
            row["difference"] = _difference(mine, done[other], other, measures)
        if name != "input" and "input" in done and (worse := _share_worse(mine["psnr"], done["input"]["psnr"])) is not None:
            row["worse_than_input"] = worse
        if kinds := Counter(assumed["kind"] for assumed in mine["assumed"] if assumed and "kind" in assumed):
            row["kinds"] = dict(kinds.most_common())
        rows[name] = row
    return rows


def _share_worse(mine: pd.Series, inputs: pd.Series) -> float | None:
    """Return the share of the pictures whose PSNR is below that of their measurement; None without any.

    A measurement that is the clean picture itself, whose PSNR is no number, has nothing that could get better: it does not count.
    """
    mine, inputs = mine.align(inputs.dropna(), join="inner")
    return float((mine < inputs).mean()) if len(mine) else None


def _difference(mine: pd.DataFrame, others: pd.DataFrame, name: str, measures: Sequence[str]) -> dict[str, Any]:
    """Return paired differences (this arm minus the other), over the pictures that both have, and how many times fewer evaluations."""
    others = others.reindex(mine.index)
    found = {m: mean_interval((mine[m] - others[m]).dropna()) for m in measures}
    spent = pd.DataFrame({"mine": mine["network_evaluations"], "others": others["network_evaluations"]}).dropna().sum()
    ratio = float(spent["others"] / spent["mine"]) if spent["mine"] else None
    return {"to": name, "measures": found, "evaluations_ratio": ratio}


def severity_figures(records: pd.DataFrame) -> dict[str, Any] | None:
    """Return estimated against true error variance over the pictures, and the order of levels in a sweep; None without either.

    Args:
        records: of one condition (`frame`).
    """
    done = records[records["status"] == "done"]
    swept = done["arm"] == SEVERITY
    known = (done["error_variance"] > 0) & (done["variance"] > 0)
    single, sweep = done[~swept & known].drop_duplicates("image"), done[swept]
    if len(sweep):
        current = sweep["settings"].iloc[-1]
        sweep = sweep[sweep["settings"].isna() if current is None else sweep["settings"] == current]
    found: dict[str, Any] = {}
    points = single if len(single) else sweep
    if len(points) > 2:
        true, estimated = points["error_variance"].to_numpy(), points["variance"].to_numpy()
        found |= {"n": len(points), "spearman": spearman(true, estimated), "pearson": pearson(true, estimated)}
        found["pearson_log"] = pearson(np.log(true), np.log(estimated))
    by_level = {key: sweep.pivot_table(index="image", columns="level", values=key, aggfunc="last", sort=False) for key in ("variance", "start_step")}
    variances = by_level["variance"].sort_index(axis="columns").dropna()
    if len(variances):
        starts = by_level["start_step"].loc[variances.index, variances.columns]
        found |= {"sweep_pictures": len(variances), "levels": variances.columns.tolist(), "ordering_accuracy": ordering_accuracy(variances)}
        found["mean_severity_by_level"] = np.sqrt(variances).mean().tolist()
        found["mean_start_by_level"] = starts.mean().tolist()
    return found or None


def number(figures: dict[str, Any], digits: int, signed: bool = False, interval: bool = True) -> str:
    """Return "mean [low, high]", or "-" where there is none."""
    if figures["mean"] is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{figures['mean']:{sign}.{digits}f}"
    if not interval or figures["low"] is None:
        return text
    return f"{text} [{figures['low']:{sign}.{digits}f}, {figures['high']:{sign}.{digits}f}]"


def arrow(measure: str) -> str:
    """Return which way is better, for a heading; nothing for what has no better way."""
    if measure in LOWER_IS_BETTER:
        return " ↓"
    return " ↑" if measure in ("psnr", "ssim", "ms_ssim", "haarpsi") else ""


def _measure_table(block: dict[str, Any], measures: Sequence[str]) -> pd.DataFrame:
    columns = [*measures, *COSTS]
    rows = []
    for name, arm in block["arms"].items():
        if not arm["n"]:
            rows.append([name, "0", f"{'failed' if arm['failed'] else 'skipped'}: {arm['reason']}", *[""] * (len(columns) - 1)])
            continue
        empty = {"mean": None, "low": None}
        cells = [number(arm["measures"].get(m, empty), DIGITS[m], interval=m not in COSTS) for m in columns]
        rows.append([name, str(arm["n"]) + (f" ({arm['failed']} failed)" if arm["failed"] else ""), *cells])
    return pd.DataFrame(rows, columns=["arm", "n", *(TITLES[m] + arrow(m) for m in columns)])


def _difference_table(block: dict[str, Any], measures: Sequence[str]) -> pd.DataFrame:
    shown = [m for m in measures if m not in FOLDER]
    rows = []
    for name, arm in block["arms"].items():
        if not (found := arm.get("difference")):
            continue
        ratio = found["evaluations_ratio"]
        cells = [number(found["measures"][m], DIGITS[m], signed=True) for m in shown]
        n = max((found["measures"][m]["n"] for m in shown), default=0)
        rows.append([name, found["to"], str(n), *cells, "-" if ratio is None else f"{ratio:.1f}"])
    return pd.DataFrame(rows, columns=["arm", "minus", "n", *(TITLES[m] + arrow(m) for m in shown), "times fewer evaluations"])


STARTS = ("arm", "class", "n", "severity", "matched start", "measure", "best fixed start", "its mean", "matched", "difference", "%")


def _start_table(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the start search: a row for each matched arm, class of severity and measure."""
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
    return pd.DataFrame(rows, columns=list(STARTS))


def start_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the best fixed start was chosen from, and how, as sentences."""
    return [
        f"{search['arm']} against fixed starts at steps {', '.join(map(str, search['fixed']))}: the best one is chosen for each class of "
        "severity and measure on the same pictures, in its favour; the difference is the matched start minus the best fixed one, "
        "paired, and % its share of the best one's mean."
        for search in found
    ]


def severity_lines(found: dict[str, Any] | None) -> list[str]:
    """Return the severity figures as sentences."""
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
    """Return which arms make pictures worse than they came, and what the blind ones took the degradation for, as sentences."""
    shares = [f"{name} {row['worse_than_input']:.1%}" for name, row in arms.items() if row.get("worse_than_input") is not None]
    lines = [f"Share of the pictures with less PSNR than their input: {', '.join(shares)}."] if shares else []
    for name, row in arms.items():
        if kinds := row.get("kinds"):
            lines.append(f"{name} took it for: {', '.join(f'{kind} {count}' for kind, count in kinds.items())}.")
    return lines


def blocks(summary: dict[str, Any]) -> list[Block]:
    """Return what is shown of each condition."""
    found = []
    for name, block in summary["conditions"].items():
        tables = [_measure_table(block, summary["measures"]), _difference_table(block, summary["measures"]), _start_table(block["start_search"])]
        sentences = start_lines(block["start_search"]) + severity_lines(block["severity"]) + arm_lines(block["arms"])
        found.append(Block(name, [table for table in tables if len(table)], sentences))
    return found


NOTE = (
    "Means over n pictures with 95 % bootstrap intervals; differences are paired, over the pictures that both arms have. "
    "MS-SSIM has a window of 11 pixels, below 176 pixels the largest that fits (7 at 128). Seconds are per picture."
)


def markdown_table(table: pd.DataFrame, left: int = 1) -> list[str]:
    """Return the lines of a table of text in Markdown; `left` columns are words, the others numbers."""
    rule = "| " + " | ".join(["---"] * left + ["---:"] * (table.shape[1] - left)) + " |"
    rows = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.to_numpy())
    return ["| " + " | ".join(table.columns) + " |", rule, *(f"| {row} |" for row in rows)]


def to_markdown(summary: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [f"# {summary['protocol']}", "", *([summary["title"], ""] if summary["title"] else []), NOTE, ""]
    lines += [part for sentence in summary.get("missing", []) for part in (sentence + ".", "")]
    for name, tables, sentences in blocks(summary):
        lines += [f"## {name}", ""]
        for table in tables:
            lines += [*markdown_table(table), ""]
        lines += [part for sentence in sentences for part in (sentence, "")]
    return "\n".join(lines)


def to_html(summary: dict[str, Any]) -> str:
    """Return the tables as a page of its own that needs no other file."""
    return render("summary.html", summary=summary, note=NOTE, blocks=blocks(summary))


def scores_of_folders(bench: Any, records: Sequence[BenchRecord]) -> dict[tuple[str, str], dict[str, float]]:
    """Return FID and KID of each condition and arm, from the saved images; at least two pictures are needed.

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

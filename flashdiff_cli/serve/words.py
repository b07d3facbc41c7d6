"""What a page says of an answer, in plain words."""

from __future__ import annotations

from html import escape
from typing import Any

from flashdiff_cli.serve.worker import Answer

KINDS = {
    "none": "nothing wrong",
    "gaussian-blur": "blurred",
    "motion-blur": "shaken",
    "noise": "noise",
    "jpeg": "JPEG compression",
    "downsampling": "small, and enlarged",
}
"""Plain words for what the classifier tells apart."""
OPERATORS = {
    "mask-inpainting": "damaged where it was painted",
    "downsampling": "sharp but small",
    "gaussian-blur": "blurred",
    "jpeg": "compressed as a JPEG",
    "enlargement": "small, and enlarged",
    "identity": "noisy",
}
"""Plain words for what a visitor may have said of a picture."""


def describe(answer: Answer) -> str:
    """Return what was found and done, as HTML for people."""
    record, words = answer.record, []
    found = record.get("degradation") or {}
    operator = record.get("operator") or {}
    if found.get("kind") == "none":
        words.append("<b>Nothing wrong was found</b>, so the picture was left as it was.")
    elif found.get("kind"):
        sure = f", {found['confidence']:.0%} sure" if "confidence" in found else ""
        words.append(f"Found: <b>{KINDS.get(found['kind'], escape(found['kind']))}</b>{sure}.")
    else:
        name = str(operator.get("name", ""))
        words.append(f"Treated as <b>{escape(OPERATORS.get(name, name))}</b>, as you chose.")
    values = [
        f"{escape(name.replace('_', ' '))} {_number(value)}"
        for name, value in operator.items()
        if name not in ("name", "estimated", "mask_file", "filter")
    ]
    values += [] if record.get("noise_std") is None else [f"noise {record['noise_std']:.3f}"]
    if values and found.get("kind") != "none":
        words.append(f"({', '.join(values)})")
    if record.get("severity") is not None:
        words.append(f"<br>Severity {record['severity']:.3f}: {record['steps']} of {record['schedule_steps']} steps")
    words.append(f"in {record['seconds'].get('total', 0):.1f} s, {record['width']} x {record['height']} pixels.")
    words += [f"<br>{escape(note)}." for note in record.get("notes") or []]
    return f"<p>{' '.join(words)}</p>"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def sureness(answer: Answer) -> dict[str, float] | None:
    """Return the probability of each kind in plain words; None where nothing was to be found out."""
    found = (answer.record.get("degradation") or {}).get("probabilities")
    return {KINDS.get(str(name), str(name)): float(value) for name, value in found.items()} if found else None

"""What runs and benches are recognised by: fingerprints in people's folders must stay what they are.

A hash that changes here makes every output of that kind be done again: change one only together with what the outputs depend on.
"""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import tiny_pipeline

from flashdiff_cli.bench.arms import Identities, plan
from flashdiff_cli.bench.protocol import from_dict
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.runs.journal import fingerprint
from flashdiff_cli.runs.settings import Settings

GIVEN = {
    "operator": "gaussian-blur",
    "operator_options": {"blur_std": 2.0},
    "noise_std": 0.05,
    "solver": "ldps",
    "solver_options": {"dc_step": 2.4},
    "steps": 250,
    "eta": 0.0,
    "start": "inversion",
    "start_step": 3,
    "noise_correction": 0.6,
    "variance_multiplier": 2.2,
    "encoder": "severity",
    "fidelity": True,
    "seed": 7,
    "tile": 0,
}
RUNS = [
    ({}, "d12633127b5847ff"),
    (GIVEN, "7e66d366766e7020"),
    ({"mask": Path("hole.png")}, "d275234c0c029eca"),
    ({"kernel": "path.npy", "tile": 512}, "1d67d9ba8f6ada6f"),
]

DEFAULTS = {
    "solver": "ldps",
    "steps": 4,
    "eta": 0.0,
    "noise_rule": "level",
    "noise_correction": 0.6,
    "variance_multiplier": 2.2,
    "fidelity": True,
    "denoiser_gain": [[1, 1.0], [3, 0.5]],
    "solver_settings": {"ldps": {"guidance": "bayes", "dc_step": 2.4}},
    "tuned": {"resample": {"*": {"steps": 2, "settings": {"every": 5}}}},
    "of_encoder": {"severity": {"variance_multiplier": 1.5}},
}
CONDITIONS = [
    {"name": "blur", "operator": "gaussian-blur", "options": {"blur_std": [0.3, 3.0]}},
    {
        "name": "told",
        "operator": "motion-blur+jpeg",
        "options": {"blur_length": 9.0, "jpeg_quality": 30.0},
        "noise_std": [0.0, 0.1],
        "stored": True,
        "draws": "one",
    }
    | {"assumed": {"operator": "gaussian-blur", "options": {"blur_std": 2.0}, "noise_std": 0.02}},
]
ARMS = [
    {"name": "input", "baseline": "input"},
    {"name": "decoded", "baseline": "decoded"},
    {"name": "wiener", "baseline": "wiener"},
    {"name": "flash", "solver": "ldps", "start": "flash"},
    {"name": "own", "solver": "psld", "noise_correction": 1.0, "eta": 1.0, "fidelity": False, "settings": {"ae_weight": 0.5}},
    {"name": "hard", "solver": "resample", "start": "flash"},
    {"name": "fixed", "solver": "ldps", "start": 3},
    {"name": "closer", "solver": "gml-dps", "start": "come-closer", "start_step": 2},
    {"name": "full", "solver": "unguided", "start": "full"},
    {"name": "full-resample", "solver": "resample", "start": "full"},
    {"name": "blind", "solver": "ldps", "start": "flash", "blind": True},
]
BENCHES = {
    "blur": {
        "input": "344d01034509d0c0",
        "decoded": "a213fc59535e630a",
        "wiener": "cba433576935d1c3",
        "flash": "1cfb56406ae73619",
        "own": "c5cedc789ff80130",
        "hard": "458352f081d61ab3",
        "fixed": "6eda5a1905cdedea",
        "closer": "2316a1a69f877e40",
        "full": "a34d4e7707bd385a",
        "full-resample": "451b4020b0eaa81e",
        "blind": "13740a9bcf4d15cf",
        "severity": "dacd33e6fffe7c56",
    },
    "told": {
        "input": "9de847f456ffecd0",
        "decoded": "b8c20e559c1a2201",
        "wiener": "37a2a40c01378fc2",
        "flash": "cdd3557b67d8ed41",
        "own": "bc4b99b3c12508bc",
        "hard": "f3e2d7200d3c4bf7",
        "fixed": "cf3f9d9d0a8acde4",
        "closer": "60ed057d10856baf",
        "full": "c8be56ddaf6ad430",
        "full-resample": "c68e5dff6650afbc",
        "blind": "b8cd0ee8d71b5865",
        "severity": "e81fc09df7ad444a",
    },
}


@pytest.mark.parametrize(("given", "expected"), RUNS)
def test_a_run_of_today_is_known_by_the_name_it_had(given, expected):
    assert fingerprint(**Settings(**given).identity()) == expected


def test_every_setting_of_a_run_is_in_its_identity():
    plain = Settings()
    other = {k: v for k, v in GIVEN.items() if k not in ("operator", "operator_options")}
    other |= {"operator": "jpeg", "operator_options": {"jpeg_quality": 30.0}, "scale": 2}
    names = {field.name for field in fields(Settings)} - {"mask", "kernel", "invert_mask"}
    assert names == set(other)
    for name, value in other.items():
        assert Settings(**{name: value}).identity() != plain.identity(), name
    assert Settings(mask="a.png").identity() != Settings(mask="b.png").identity()
    assert Settings(kernel="a.png").identity() != Settings(kernel="b.png").identity()
    assert Settings(mask="a.png", invert_mask=True).identity() != Settings(mask="a.png").identity()


def exact_pipeline() -> FlashDiffusionPipeline:
    """A tiny model whose schedule is made of powers of two, so that no machine rounds it otherwise."""
    parts = tiny_pipeline().components
    return FlashDiffusionPipeline(**(parts | {"scheduler": DDIMScheduler(trained_betas=[0.5] * 4)}), defaults=DEFAULTS)


def test_a_learned_last_step_makes_other_records_where_it_is_used(monkeypatch):
    monkeypatch.setattr(Identities, "weights", lambda self, role: f"weights of {role}")
    with_step = FlashDiffusionPipeline(**(exact_pipeline().components | {"last_step": LastStep((4, 4), (1, 1))}), defaults=DEFAULTS)
    protocol = from_dict({"name": "p", "condition": CONDITIONS, "arm": ARMS, "seed": 3})
    condition = protocol.condition[0]
    names = []
    for pipe in (exact_pipeline(), with_step):
        plans = [plan(arm, protocol, pipe, "tiny", condition.assumption[0], condition.most_noise) for arm in protocol.arm]
        names.append({p.arm.name: Identities(pipe).settings(p, condition, protocol) for p in plans})
    changed = {name for name in names[0] if names[0][name] != names[1][name]}
    assert changed == {arm["name"] for arm in ARMS if "solver" in arm} - {"own"}, "without fidelity there is no last step"


@pytest.mark.parametrize("name", BENCHES)
def test_published_records_are_known_by_the_names_they_have(name, monkeypatch):
    monkeypatch.setattr(Identities, "weights", lambda self, role: f"weights of {role}")
    pipe = exact_pipeline()
    assert torch.equal(pipe.scheduler.alphas_cumprod, torch.tensor([0.5, 0.25, 0.125, 0.0625]))
    protocol = from_dict({"name": "p", "condition": CONDITIONS, "arm": ARMS, "seed": 3, "levels": 5})
    condition = next(c for c in protocol.condition if c.name == name)
    plans = [plan(arm, protocol, pipe, "tiny", condition.assumption[0], condition.most_noise) for arm in protocol.arm]
    found = {p.arm.name: Identities(pipe).settings(p, condition, protocol) for p in plans}
    assert found | {"severity": Identities(pipe).sweep(condition, protocol)} == BENCHES[name]

"""flashdiff: restore degraded photographs and spend on each just the steps that it needs.

Names are imported when they are first used, so that `flashdiff --help` needs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Analysis": "diagnosis",
    "FlashDiffusionPipeline": "pipeline",
    "ModelDefaults": "plan",
    "Restoration": "restoration",
    "SamplingPlan": "plan",
    "SamplingRequest": "plan",
    "Diagnosis": "diagnosis",
    "DegradationClassifier": "classifier",
    "FlashdiffError": "errors",
    "UsageError": "errors",
    "OPERATORS": "operators",
    "Operator": "operators",
    "SOLVERS": "solvers",
    "Solver": "solvers",
    "Problem": "solvers",
    "SeverityEncoder": "severity",
    "SeverityEstimate": "severity",
    "Picture": "pictures.files",
    "read_picture": "pictures.files",
    "write_picture": "pictures.files",
    "Record": "runs.record",
    "Restorer": "runs.restorer",
    "Settings": "runs.settings",
    "restore": "runs.restorer",
    "convert_ldm": "hub.convert",
    "convert_severity": "hub.convert",
    "convert_nonlinear_blur": "hub.convert",
    "known_models": "hub.registry",
    "resolve_model": "hub.resolve",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

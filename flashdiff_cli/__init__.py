"""flashdiff: restore degraded photographs and spend on each just the steps that it needs.

Names are imported when they are first used, so that `flashdiff --help` needs no torch; editors and type checkers see them all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flashdiff_cli.version import __version__

if TYPE_CHECKING:
    from flashdiff_cli.classifier import DegradationClassifier
    from flashdiff_cli.diagnosis import Analysis, Diagnosis
    from flashdiff_cli.errors import FlashdiffError, UsageError
    from flashdiff_cli.hub.registry import known_models
    from flashdiff_cli.models.convert import convert_ldm, convert_nonlinear_blur, convert_severity
    from flashdiff_cli.models.resolve import resolve_model
    from flashdiff_cli.operators import OPERATORS, Operator
    from flashdiff_cli.pictures.files import Picture, read_picture, write_picture
    from flashdiff_cli.pipeline import FlashDiffusionPipeline
    from flashdiff_cli.plan import ModelDefaults, SamplingPlan, SamplingRequest
    from flashdiff_cli.prompt import PromptEmbeddings
    from flashdiff_cli.registry import Option
    from flashdiff_cli.restoration import Restoration
    from flashdiff_cli.runs.library import restore, restore_many
    from flashdiff_cli.runs.record import Record
    from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.settings import Settings
    from flashdiff_cli.severity import SeverityEncoder, SeverityEstimate
    from flashdiff_cli.solvers import SOLVERS, Problem, Solver

_HOMES = {
    "DegradationClassifier": "classifier",
    "Analysis": "diagnosis",
    "Diagnosis": "diagnosis",
    "FlashdiffError": "errors",
    "UsageError": "errors",
    "convert_ldm": "models.convert",
    "convert_nonlinear_blur": "models.convert",
    "convert_severity": "models.convert",
    "known_models": "hub.registry",
    "resolve_model": "models.resolve",
    "OPERATORS": "operators",
    "Operator": "operators",
    "Picture": "pictures.files",
    "read_picture": "pictures.files",
    "write_picture": "pictures.files",
    "FlashDiffusionPipeline": "pipeline",
    "ModelDefaults": "plan",
    "SamplingPlan": "plan",
    "SamplingRequest": "plan",
    "PromptEmbeddings": "prompt",
    "Option": "registry",
    "Restoration": "restoration",
    "restore": "runs.library",
    "restore_many": "runs.library",
    "Record": "runs.record",
    "Restorer": "runs.restorer",
    "Settings": "runs.settings",
    "SeverityEncoder": "severity",
    "SeverityEstimate": "severity",
    "Problem": "solvers",
    "SOLVERS": "solvers",
    "Solver": "solvers",
}

__all__ = [
    "OPERATORS",
    "SOLVERS",
    "Analysis",
    "DegradationClassifier",
    "Diagnosis",
    "FlashDiffusionPipeline",
    "FlashdiffError",
    "ModelDefaults",
    "Operator",
    "Option",
    "Picture",
    "Problem",
    "PromptEmbeddings",
    "Record",
    "Restoration",
    "Restorer",
    "SamplingPlan",
    "SamplingRequest",
    "Settings",
    "SeverityEncoder",
    "SeverityEstimate",
    "Solver",
    "UsageError",
    "__version__",
    "convert_ldm",
    "convert_nonlinear_blur",
    "convert_severity",
    "known_models",
    "read_picture",
    "resolve_model",
    "restore",
    "restore_many",
    "write_picture",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

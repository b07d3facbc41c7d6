"""Degradations: one file an operator."""

from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.operators.downsampling import Downsampling
from flashdiff_cli.operators.enlargement import Enlargement
from flashdiff_cli.operators.gaussian_blur import GaussianBlur
from flashdiff_cli.operators.identity import Identity
from flashdiff_cli.operators.inpainting import (
    BoxInpainting,
    GaussianInpainting,
    MaskInpainting,
    RandomBoxInpainting,
    RandomInpainting,
)
from flashdiff_cli.operators.jpeg import Jpeg
from flashdiff_cli.operators.motion_blur import MotionBlur
from flashdiff_cli.operators.nonlinear_blur import NonlinearBlur
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.registry import Option

__all__ = [
    "OPERATORS",
    "BoxInpainting",
    "Composition",
    "Downsampling",
    "Enlargement",
    "GaussianBlur",
    "GaussianInpainting",
    "Identity",
    "Jpeg",
    "MaskInpainting",
    "MotionBlur",
    "NonlinearBlur",
    "Operator",
    "Option",
    "RandomBoxInpainting",
    "RandomInpainting",
]

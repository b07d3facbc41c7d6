"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

PARITY_VARIABLE = "FLASHDIFF_PARITY"


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of reference results; skipped where it is not at hand, an error in CI."""
    value = os.environ.get(PARITY_VARIABLE)
    if not value:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{PARITY_VARIABLE} must name the folder of reference results in CI")
        pytest.skip(f"{PARITY_VARIABLE} is not set: no reference results to compare with")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{PARITY_VARIABLE}={value} is no folder")
    return folder

"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with recorded reference values and pictures: LACE_SHARED, or `shared` beside the checkout."""
    folder = Path(os.environ.get("LACE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"recorded reference values are absent ({folder}): set LACE_SHARED to their folder")
    return folder

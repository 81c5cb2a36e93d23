"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# Files that take longest, by processor time: workers of pytest-xdist take whole files in this order and end together.
LONGEST_FIRST = (
    "test_cli.py",
    "test_docs.py",
    "test_kernels.py",
    "test_cli_paper.py",
    "test_cli_models.py",
    "test_two_processes.py",
    "test_cli_trainings.py",
    "test_cli_start.py",
    "test_score.py",
    "test_package.py",
    "test_cli_faces.py",
    "test_record.py",
    "test_stopping.py",
    "test_cli_messages.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the files that take longest first."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _listens_to_interrupts() -> None:
    """Let started processes have SIGINT: the background of a shell ignores it, and what is ignored is inherited."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


CHROMIUM_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium: the program LACE_CHROMIUM, or the one of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("LACE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("Chromium is not installed (or set LACE_CHROMIUM to its program)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS.split())
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with recorded reference values and pictures: LACE_SHARED, or `shared` beside the checkout."""
    folder = Path(os.environ.get("LACE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"recorded reference values are absent ({folder}): set LACE_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def cli_cache(tmp_path_factory) -> Path:
    """The cache of the tests of commands, which all of them share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli_folder(tmp_path: Path, monkeypatch, cli_cache: Path) -> None:
    """An empty current folder for a command, with the shared cache."""
    from lace_lightning.report import sweeps

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(cli_cache))
    monkeypatch.delenv("LACE_TRACEBACK", raising=False)
    sweeps.OUTCOMES.clear()


@pytest.fixture(scope="session")
def tiny_generator():
    """An untrained StyleGAN2 with pictures of 8x8."""
    from lace_lightning.generators import StyleGAN2Generator, StyleGAN2Network

    torch.manual_seed(0)
    network = StyleGAN2Network(
        8,
        12,
        img_resolution=8,
        mapping_kwargs={"num_layers": 2, "lr_multiplier": 1.0},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8},
    )
    return StyleGAN2Generator(network)


@pytest.fixture(scope="session")
def tiny_labeler(tiny_generator):
    """An untrained image classifier of four classes that divides the tiny generator's pictures about evenly."""
    from lace_lightning.classifiers import AttributeClassifier
    from lace_lightning.labelers import Labeler
    from lace_lightning.schema import Attribute, Schema

    torch.manual_seed(0)
    schema = Schema("tiny", (Attribute("label", "discrete", 4, ("a", "b", "c", "d")),))
    classifier = AttributeClassifier(schema, "x", "resnet9", {"width": 4}).eval().requires_grad_(False)
    logits = classifier(tiny_generator(tiny_generator.prior(200, seed=99)))
    classifier.network.head.weight.div_(logits.std(0)[:, None])
    classifier.network.head.bias.sub_(logits.mean(0)).div_(logits.std(0))
    return Labeler(classifier, precision="float32")

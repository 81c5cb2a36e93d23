"""The roots of torchmetrics are imported when they are needed, and whole."""

from __future__ import annotations

import subprocess
import sys

PARTS = """
import sys
import lace_lightning.run
heavy = {"torchvision", "scipy", "torch_fidelity", "torchmetrics.functional.audio", "torchmetrics.text"}
print(sorted(heavy & set(sys.modules)))
import torchmetrics
from torchmetrics import Metric
from torchmetrics.metric import Metric as defined
print(Metric is defined, "Accuracy" in dir(torchmetrics))
print(torchmetrics.functional.accuracy.__module__)
print(issubclass(torchmetrics.Accuracy, Metric), torchmetrics.Metric is Metric, "SumMetric" in dir(torchmetrics))
from torchmetrics import *
print(MeanSquaredError is torchmetrics.MeanSquaredError, PearsonCorrCoef.__name__)
try:
    torchmetrics.NoSuchMetric
except AttributeError as error:
    print(error)
"""
OTHER_VERSION = """
import lace_lightning
from lace_lightning import deferred
deferred.PARTS["Metric"] = "torchmetrics.moved"
from torchmetrics import Metric
import torchmetrics
print(Metric is torchmetrics.Metric, issubclass(torchmetrics.Accuracy, Metric))
"""


def _printed(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_run_needs_parts_and_others_receive_the_whole() -> None:
    assert _printed(PARTS) == [
        "[]",
        "True False",
        "torchmetrics.functional.classification.accuracy",
        "True True True",
        "True PearsonCorrCoef",
        "module 'torchmetrics' has no attribute 'NoSuchMetric'",
    ]


def test_another_version_is_imported_as_usual() -> None:
    assert _printed(OTHER_VERSION) == ["True True"]

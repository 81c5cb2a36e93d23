"""Names of figures: every figure that the package gives has an entry, and a figure of one's own needs none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lace_lightning.metrics import (
    BranchShares,
    ConditionalAccuracy,
    EditStrength,
    SamplerDiagnosis,
    fid_name,
    figure_of,
)
from lace_lightning.metrics.names import FIGURES, PLACES, depth, frechet_name, in_order, main_figures
from lace_lightning.query import parse
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.diagnostics import AVERAGED

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SCHEMA = Schema("s", (Attribute("kind", "discrete", 3, ("a", "b", "c/d")), Attribute("age", "continuous")))


def _given_by_metrics() -> set[str]:
    """Return the names that the package's metrics give."""
    judged = Labels(SCHEMA, torch.tensor([[0.0, 0.5], [2.0, float("nan")], [1.0, 0.5]]))
    accuracy, one = ConditionalAccuracy(SCHEMA), ConditionalAccuracy(SCHEMA)
    query = parse("kind == a or age > 0.2", SCHEMA)
    accuracy.update(judged, Labels.constant(SCHEMA, 3, kind=2.0, age=0.5), query.holds(judged))
    one.update(judged, Labels.constant(SCHEMA, 3, kind=2.0))
    branches, strength, diagnosis = BranchShares(query), EditStrength(SCHEMA), SamplerDiagnosis(2)
    branches.update(judged)
    strength.update(judged, judged, Labels.constant(SCHEMA, 3, age=0.5))
    zeros, group = torch.zeros(50), torch.zeros(50, dtype=torch.long)
    diagnosis.update(torch.randn(50, 2), zeros, group, zeros, zeros)
    diagnosis.update_start(torch.randn(50, 2), zeros, zeros, group)
    given = {**accuracy.compute(), **one.compute(), **branches.compute(), **strength.compute(), **diagnosis.compute()}
    assert {"unknown", "acc/kind/c/d", "branch/several", "des", "spread/reference", "predicted"} <= set(given)
    names = {*given, *AVERAGED, *map(fid_name, (50_000, 1000, 300)), "fd_judge", "fid_1k/unconditional", "forward"}
    names |= {f"prior/{name}" for name in names if name.startswith("branch/")} | {"prior/holds", "own/acc", "own/holds"}
    return names | {f"edit2/{name}" for name in ("acc", "des", "id", "fid")} | {"tau2.5/probability", "tau1e-05/holds"}


def test_every_figure_of_the_package_has_an_entry() -> None:
    assert [name for name in _given_by_metrics() if not figure_of(name).known] == []


def test_every_recorded_figure_has_an_entry() -> None:
    names = set()
    for path in EXPERIMENTS.glob("*/results.json"):
        for result in json.loads(path.read_text()):
            names |= set(result["metrics"] if isinstance(result, dict) else ())
    assert len(names) > 100
    assert [name for name in names if not figure_of(name).known] == []


def test_entries_fit_together() -> None:
    assert {entry.place for entry in FIGURES} <= set(PLACES)
    names = [entry.name for entry in FIGURES]
    assert len(set(names)) == len(names)
    for entry in FIGURES:
        assert all(other in ("", *names) for other in (entry.under, entry.unless, entry.unless_equal))
    columns = [entry.column for entry in FIGURES if entry.place != "file"]
    assert len(set(columns)) == len(columns)


def test_parts_of_a_name_are_parts_of_its_titles() -> None:
    figure = figure_of("prior/branch/glasses == yes and yaw == 0.5")
    assert figure.column == "of these glasses == yes and yaw == 0.5 (generator alone)"
    assert (figure.under, depth(figure)) == ("branch/glasses == yes and yaw == 0.5", 2)
    assert figure_of("acc/kind/c/d").title == "ACC c/d"
    assert figure_of("tau20/probability").column == "probability at τ = 20"
    assert figure_of("tau20/holds").title == "query true at τ = 20"
    assert figure_of("edit3/fid_1k").title == "FID, 1k samples after edit 3"


def test_the_paper_s_figure_beside_a_distance_is_of_the_same_number_of_samples_or_marked() -> None:
    paper = {"fid": 4.5, "fid_1k": 20.25, "seconds": 3}
    assert figure_of("fid").beside(paper) == "4.5"
    assert figure_of("fid_1k").beside(paper) == "20.25"
    assert figure_of("fid_10k").beside(paper) == "4.5 (FID)"
    assert figure_of("fd_judge").beside(paper) == "4.5 (FID)"
    assert figure_of("seconds/sampling_per_64").beside(paper) == "3"
    assert figure_of("holds").beside(paper) is None


def test_order_of_tables() -> None:
    names = [
        "mine",
        "minutes/training",
        "fd_x/unconditional",
        "fd_x",
        "prior/branch/b",
        "branch/a",
        "branch/b",
        "acc/k",
    ]
    assert [f.name for f in in_order([*names, "holds", "acc/k/1", "acc"])] == [
        "acc",
        "holds",
        "branch/a",
        "branch/b",
        "prior/branch/b",
        "acc/k/1",
        "fd_x",
        "fd_x/unconditional",
        "minutes/training",
        "mine",
    ]
    assert main_figures(["fd_x", "mine", "acc/l", "acc/k", "acc"]) == ["acc", "acc/l", "acc/k", "fd_x"]
    assert frechet_name(["acc", "fd/val", "fid_1k"]) == "fid_1k"


@pytest.mark.parametrize("name", ["brightness", "edit/x", "tau/holds", "a/b", "accuracy"])
def test_an_unknown_name_is_its_own_title(name: str) -> None:
    figure = figure_of(name)
    assert (figure.known, figure.title, figure.column, figure.place) == (False, name, name, "run")

"""The workspace of W&B as code, the paper's figures as runs, and pictures of panels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lace_lightning import cli
from lace_lightning.errors import LaceError
from lace_lightning.report.panels import importance, paper_points, read_results, settings_of
from lace_lightning.report.paper import paper_entries

GRIDS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def workspaces() -> Any:
    """The library, skipped where the extra is not installed."""
    return pytest.importorskip("wandb_workspaces.workspaces", reason="the extra dashboard is not installed")


def _panels(path: Path) -> dict[str, list[dict[str, Any]]]:
    spec = json.loads(path.read_text(encoding="utf-8"))["spec"]["section"]["panelBankConfig"]["sections"]
    return {part["name"]: part["panels"] for part in spec}


def test_the_workspace_has_all_panels_offline(tmp_path: Path, workspaces: Any, capsys) -> None:
    out = tmp_path / "space.json"
    cli.main(["dashboard", "--out", str(out), "--distance", "fid"])
    assert "panels in" in capsys.readouterr().out
    panels = _panels(out)
    kinds = {panel["viewType"] for part in panels.values() for panel in part}
    assert {
        "Scatter Plot",
        "Parallel Coordinates Plot",
        "Parameter Importance",
        "Run Comparer",
        "Media Browser",
        "Run History Line Plot",
    } <= kinds
    scatter = panels["Control"][0]["config"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:sampling/fid", "summary:sampling/acc")
    ode, langevin = ([column["accessor"] for column in p["config"]["columns"]] for p in panels["Grids"])
    assert ode == [
        "config:sampler.value.atol",
        "config:sampler.value.rtol",
        "summary:sampling/evaluations",
        "summary:sampling/seconds/sampling_per_64",
        "summary:sampling/acc",
        "summary:sampling/fid",
    ]
    assert langevin[:3] == [f"config:sampler.value.{name}" for name in ("num_steps", "step_size", "noise_std")]
    logs = {column["accessor"]: column["log"] for panel in panels["Grids"] for column in panel["config"]["columns"]}
    assert logs["config:sampler.value.atol"]
    assert logs["config:sampler.value.step_size"]
    # A logarithm of no noise does not exist.
    assert not logs["config:sampler.value.noise_std"]
    assert panels["Training"][0]["config"]["xAxis"] == "training/step"


class Api:
    """Stub of W&B's API."""

    default_entity = "me"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.client = SimpleNamespace(app_url="https://wandb.test", api_url="https://wandb.test")
        self.settings = {"base_url": "https://wandb.test"}
        self.made: list[str] = []

    def projects(self, entity: str) -> list[Any]:
        """Return no project."""
        return []

    def create_project(self, name: str, entity: str) -> None:
        """Take a project."""
        self.made.append(f"{entity}/{name}")


def test_online_the_workspace_and_a_report_are_saved(tmp_path: Path, workspaces: Any, monkeypatch, capsys) -> None:
    import wandb
    import wandb_workspaces.reports.v2.interface as reports
    import wandb_workspaces.workspaces.internal as internal

    api, sent = Api(), []

    def execute(_: Any, query: Any, variables: dict[str, Any]) -> dict[str, Any]:
        if "name" not in variables:
            return {"project": {"internalId": "1"}}
        sent.append(variables)
        return {
            "upsertView": {
                "view": {
                    "id": "Vmlldzo1",
                    "name": variables["name"],
                    "displayName": variables["displayName"],
                    "description": variables["description"],
                    "project": {"name": "p", "entityName": "me"},
                    "createdAt": "2024-01-01",
                    "updatedAt": "2024-01-01",
                    "spec": variables["spec"],
                },
                "inserted": True,
            }
        }

    monkeypatch.setattr(wandb, "Api", lambda *a, **k: api)
    monkeypatch.setattr(internal, "execute_graphql", execute)
    monkeypatch.setattr(reports, "execute_graphql", execute)
    for module in (reports, workspaces.interface):
        monkeypatch.setattr(module, "get_app_url", lambda _: "https://wandb.test", raising=False)
    monkeypatch.chdir(tmp_path)
    cli.main(["dashboard", "--entity", "me", "--project", "p", "--report"])
    printed = capsys.readouterr().out
    assert "workspace: https://wandb.test/me/p" in printed
    assert "report: https://wandb.test/me/p" in printed
    assert [(v["entityName"], v["projectName"], v["type"]) for v in sent] == [
        ("me", "p", "project-view"),
        ("me", "p", "runs"),
    ]
    assert api.made == ["me/p"]
    grids = [block for block in json.loads(sent[1]["spec"])["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == len(_sections(sent[0]["spec"]))
    assert not (tmp_path / "dashboard.json").exists()


def _sections(spec: str) -> list[Any]:
    return list(json.loads(spec)["section"]["panelBankConfig"]["sections"])


def test_a_login_that_is_missing_is_said(workspaces: Any, monkeypatch, capsys) -> None:
    import wandb

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("no API key")

    monkeypatch.setattr(wandb, "Api", refuse)
    with pytest.raises(SystemExit):
        cli.main(["dashboard", "--entity", "me"])
    assert "run wandb login" in capsys.readouterr().err


def test_a_missing_library_and_options_that_do_not_fit_are_refused(monkeypatch) -> None:
    from lace_lightning import dashboard

    given = {"out": "o", "entity": None, "project": None, "distance": "fid", "paper": False, "domain": "cifar10"}
    rest = {"report": False, "pictures": None, "results": ()}
    with pytest.raises(LaceError, match="need --entity"):
        dashboard.dashboard_command(**{**given, **rest, "report": True})
    with pytest.raises(LaceError, match="--pictures FOLDER and --results SWEEP go together"):
        dashboard.dashboard_command(**{**given, **rest, "pictures": "folder"})
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(LaceError, match=r"lace_lightning\[dashboard\]"):
        dashboard.dashboard_command(**{**given, **rest})


def test_the_paper_s_figures_become_runs(tmp_path: Path, monkeypatch) -> None:
    import wandb

    from lace_lightning.dashboard import log_paper

    made = []

    class Run:
        def __init__(self, **options: Any) -> None:
            self.options, self.summary = options, {}
            made.append(self)

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *_: Any) -> None:
            """End the run."""

    monkeypatch.setattr(wandb, "init", Run)
    count = log_paper("cifar10", "fd_judge", None, "p")
    assert count == len(made) == sum(entry["name"].startswith("cifar10 ") for entry in paper_entries())
    ode = next(run for run in made if run.options["name"] == "paper: cifar10 LACE-ODE")
    assert ode.summary["sampling/fd_judge"] == ode.summary["paper/fid"] == 6.63
    assert ode.options["config"]["method"] == "ODE"
    assert {run.options["mode"] for run in made} == {"offline"}
    assert len({run.options["id"] for run in made}) == count
    with pytest.raises(LaceError, match="choose one of"):
        log_paper("nowhere", "fid", None, "p")


def test_pictures_of_the_panels_are_drawn_from_a_record(tmp_path: Path, capsys) -> None:
    names = ["cifar10_ode_grid", "cifar10_ld_grid"]
    results = [word for name in names for word in ("--results", str(GRIDS / name))]
    cli.main(["dashboard", "--pictures", str(tmp_path), *results])
    files = {path.name: path for path in tmp_path.iterdir()}
    assert set(files) == {
        "scatter.png",
        *(f"{kind}_{name}.png" for kind in ("parallel", "importance") for name in names),
    }
    for path in files.values():
        assert path.stat().st_size < 300_000
        with Image.open(path) as image:
            assert image.width > 700
    rows = read_results(GRIDS / names[1])
    assert len(rows) == 104
    assert settings_of(rows) == ["sampler.num_steps", "sampler.step_size", "sampler.noise_std"]
    shares = importance(rows, settings_of(rows), "acc")
    # The grid is balanced: the shares of its settings add up to at most the whole.
    assert 0 < sum(shares.values()) <= 1
    assert max(shares, key=shares.__getitem__) == "sampler.step_size"


def test_wrong_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(LaceError, match="give the folder of a sweep"):
        read_results(tmp_path)
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LaceError, match="has no column 'state'"):
        read_results(tmp_path)


def test_points_of_the_paper_are_those_with_both_figures() -> None:
    names = [name for name, _, _ in paper_points("cifar10")]
    assert "LACE-LD" in names
    assert "gender, smile and age, LACE" not in [name for name, _, _ in paper_points("faces")]

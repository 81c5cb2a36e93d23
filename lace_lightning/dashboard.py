"""The workspace of W&B as code: panels for runs and sweeps, to a file or to a project; the paper's figures as runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .artifacts import atomic_path, digest
from .errors import LaceError
from .metrics.names import figure_of
from .report.panels import draw_panels, read_results
from .report.paper import paper_entries

PROJECT = "lace_lightning"
TITLE = "LACE"
# Settings of the two grids of samplers, with whether their axis is logarithmic. A noise may be 0.
TOLERANCES = (("sampler.atol", True), ("sampler.rtol", True))
LANGEVIN = (("sampler.num_steps", False), ("sampler.step_size", True), ("sampler.noise_std", False))
TABLES = ("samples", "strips", "results", "by_class", "best", "seeds")
PICTURES = ("samples", "sweep/acc_against_fid", "sweep/curves", "sweep/together", "sweep/side_by_side")


def dashboard_command(
    out: str,
    entity: str | None,
    project: str | None,
    distance: str,
    paper: bool,
    domain: str,
    report: bool,
    pictures: str | None,
    results: Sequence[str],
) -> None:
    """Make the workspace, and whatever else was asked for, and say where it is.

    Args:
        out: file of the workspace without `entity`.
        entity: user or team of W&B; None makes a file.
        project: project of W&B; None for lace_lightning.
        distance: name of the Fréchet distance.
        paper: whether the paper's figures are logged as runs.
        domain: domain of the paper's figures.
        report: whether a report is saved.
        pictures: folder of pictures of panels; None draws none, and with it nothing else is made.
        results: sweeps of these pictures.

    Raises:
        LaceError: for options that do not fit together, without the extra, and where W&B refuses.
    """
    if pictures is not None or results:
        if pictures is None or not results:
            raise LaceError("--pictures FOLDER and --results SWEEP go together, received one of them: give both.")
        for path in draw_panels({_sweep(name): read_results(Path(name)) for name in results}, Path(pictures)):
            print(path)
        return
    if entity is None and (report or project is not None):
        raise LaceError(
            "--project and --report need --entity NAME, your user or team of W&B: give it, or leave them out."
        )
    require_workspaces()
    panels = sections(distance)
    if entity is None:
        with atomic_path(out) as temporary:
            temporary.write_text(workspace_json(workspace("", "", panels)), encoding="utf-8")
        print(f"{out}: {sum(len(part) for part in panels.values())} panels in {len(panels)} sections")
    else:
        _online(entity, project or PROJECT, panels, report)
    if paper:
        count = log_paper(domain, distance, entity, project or PROJECT)
        place = (
            "wandb/offline-run-*: upload them with wandb sync" if entity is None else f"{entity}/{project or PROJECT}"
        )
        print(f"{count} rows of the paper as runs of the group 'paper' in {place}")


def _sweep(name: str) -> str:
    path = Path(name)
    return path.name if path.is_dir() else path.parent.name


def require_workspaces() -> None:
    """Refuse to go on without the library that makes workspaces.

    Raises:
        LaceError: with the command that installs it.
    """
    if find_spec("wandb_workspaces") is None:
        raise LaceError('A workspace needs the package wandb-workspaces: pip install "lace_lightning[dashboard]".')


def _library(name: str) -> Any:
    """Return a module of wandb-workspaces, which an extra installs."""
    return import_module(f"wandb_workspaces.{name}")


def sections(distance: str = "fd_judge") -> dict[str, list[Any]]:
    """Return the panels of the workspace by section.

    Args:
        distance: name of the Fréchet distance in metrics.json.
    """
    wr = _library("reports.v2")

    acc, far = wr.SummaryMetric("sampling/acc"), wr.SummaryMetric(f"sampling/{distance}")
    words = figure_of(distance).title
    cost = [("sampling/evaluations", True), ("sampling/seconds/sampling_per_64", True)]
    quality = [("sampling/acc", False), (f"sampling/{distance}", False)]

    def parallel(title: str, settings: Sequence[tuple[str, bool]], figures: Sequence[tuple[str, bool]]) -> Any:
        axes = [(wr.Config(name), name, log) for name, log in settings]
        axes += [(wr.SummaryMetric(name), name, log) for name, log in figures]
        columns = [
            wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=name.removeprefix("sampling/"), log=log)
            for metric, name, log in axes
        ]
        return _wide(wr.ParallelCoordinatesPlot(title=title, columns=columns))

    return {
        "Control": [
            _wide(wr.ScatterPlot(title=f"ACC against the {words}", x=far, y=acc, log_x=True)),
            wr.BarPlot(title="ACC", metrics=["sampling/acc"]),
            wr.BarPlot(title="ACC of the paper", metrics=["paper/acc"]),
        ],
        "Grids": [
            parallel("LACE-ODE: tolerances", TOLERANCES, [*cost, *quality]),
            parallel("LACE-LD: steps, step size, noise", LANGEVIN, [cost[1], *quality]),
        ],
        "Importance of settings": [
            wr.ParameterImportancePlot(with_respect_to="sampling/acc"),
            wr.ParameterImportancePlot(with_respect_to=f"sampling/{distance}"),
            wr.RunComparer(diff_only=True),
        ],
        "Pictures": [_wide(wr.MediaBrowser(media_keys=list(PICTURES), num_columns=4))],
        "Tables": [wr.WeavePanelSummaryTable(table_name=f"tables/{name}") for name in TABLES],
        "Training": [
            wr.LinePlot(title=title, x="training/step", metric_regex=pattern)
            for title, pattern in (
                ("losses", r"training/.*(loss|nll|energy).*"),
                ("accuracy", r"training/.*accuracy.*"),
            )
        ],
        "Editing": [
            wr.LinePlot(title=title, x="editing/step", y=[f"editing/{name}"])
            for title, name in (("ACC", "acc"), ("DES", "des"), ("ID", "id"))
        ],
    }


def _wide(panel: Any) -> Any:
    wr = _library("reports.v2")

    panel.layout = wr.Layout(w=24, h=10)
    return panel


def workspace(entity: str, project: str, panels: dict[str, list[Any]]) -> Any:
    """Return the workspace.

    Args:
        entity: user or team of W&B.
        project: project of W&B.
        panels: panels by section.
    """
    ws = _library("workspaces")

    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name=name, panels=part, is_open=True) for name, part in panels.items()],
        # The larger grid has 104 runs; W&B shows 10 without it.
        settings=ws.WorkspaceSettings(max_runs=250),
        auto_generate_panels=False,
    )


def workspace_json(space: Any) -> str:
    """Return a workspace as JSON, in the form in which W&B keeps it.

    Args:
        space: the workspace.
    """
    text = space._to_model().model_dump_json(by_alias=True, exclude_none=True)
    return json.dumps(json.loads(text), indent=1) + "\n"


def _online(entity: str, project: str, panels: dict[str, list[Any]], report: bool) -> None:
    """Save the workspace, and the report if asked for. Raises LaceError where W&B refuses."""
    try:
        saved = workspace(entity, project, panels).save()
        print(f"workspace: {saved.url}")
        if report:
            print(f"report: {report_of(entity, project, panels).save().url}")
    except Exception as error:
        raise LaceError(
            f"W&B did not take the workspace for {entity}/{project} ({' '.join(str(error).split())[:300]}): run wandb "
            "login, check the names, and give the command again."
        ) from error


def report_of(entity: str, project: str, panels: dict[str, list[Any]]) -> Any:
    """Return a report with the panels of a workspace; it needs a login.

    Args:
        entity: user or team of W&B.
        project: project of W&B.
        panels: panels by section.
    """
    wr = _library("reports.v2")

    blocks: list[Any] = []
    for name, part in panels.items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[wr.Runset(entity=entity, project=project)], panels=part)]
    return wr.Report(entity=entity, project=project, title=TITLE, description="Control by attribute", blocks=blocks)


def log_paper(domain: str, distance: str, entity: str | None, project: str) -> int:
    """Log each row of the paper as a run of the group `paper`, so that panels show it beside other runs.

    The paper's FID stands under the name of the distance, with the tag `FID`.

    Args:
        domain: first word of the names of entries in conf/paper.yaml.
        distance: name of the Fréchet distance.
        entity: user or team of W&B; None logs offline, into the folder wandb.
        project: project of W&B.

    Returns:
        The number of runs.

    Raises:
        LaceError: for a domain without an entry.
    """
    import wandb

    entries = [entry for entry in paper_entries() if entry["name"].split()[0] == domain]
    if not entries:
        known = dict.fromkeys(entry["name"].split()[0] for entry in paper_entries())
        raise LaceError(f"conf/paper.yaml has no figures of '{domain}': choose one of {', '.join(known)}.")
    names = {"fid": distance, "seconds": "seconds/sampling_per_64"}
    for entry in entries:
        figures = {key: value for key, value in entry.items() if key not in ("name", "of", "when")}
        method = (entry.get("of") or {}).get("sampler") or (entry.get("of") or {}).get("system")
        with wandb.init(
            entity=entity,
            project=project,
            mode="offline" if entity is None else "online",
            # The same id each time: a second call writes the same runs.
            id=f"paper-{digest({'entry': entry['name']})[:8]}",
            resume=None if entity is None else "allow",
            name=f"paper: {entry['name']}",
            group="paper",
            job_type="paper",
            tags=["paper", "FID", f"domain={domain}", f"method={method}"],
            config={"method": method, **(entry.get("when") or {})},
            settings=wandb.Settings(silent=True, console="off"),
        ) as run:
            run.summary.update({f"sampling/{names.get(key, key)}": value for key, value in figures.items()})
            run.summary.update({f"paper/{key}": value for key, value in figures.items()})
    return len(entries)

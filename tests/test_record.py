"""The record of experiments: figures over seeds, beside the paper's, between the marks of a README."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from lace_lightning.report.paper import paper_entries
from lace_lightning.report.sweeps import register_resolvers
from lace_lightning.run import check

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def _program(name: str, tmp_path: Path, monkeypatch) -> ModuleType:
    """Return a module of lace_lightning.report that writes below `tmp_path`."""
    module = importlib.import_module(f"lace_lightning.report.{name}")
    monkeypatch.setattr(module, "HERE", tmp_path / "experiments")
    (tmp_path / "experiments").mkdir()
    return module


@pytest.fixture
def record(tmp_path: Path, monkeypatch) -> ModuleType:
    return _program("record", tmp_path, monkeypatch)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch) -> ModuleType:
    return _program("tables", tmp_path, monkeypatch)


def _result(folder: Path, config: dict, metrics: dict, paper: dict | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "metrics.json").write_text(
        json.dumps(
            {
                "metrics": metrics,
                "paper": paper or {},
                "protocol": {},
                "command": "c",
                "date": "2026-01-02",
                "versions": {},
            }
        )
    )
    Image.new("RGB", (9, 9)).save(folder / "samples.png")


def test_a_sweep_becomes_a_table_over_seeds_beside_the_paper(record: ModuleType, tmp_path: Path) -> None:
    for text, base in (("a == 1", 0.5), ("b == 1", 0.7)):
        for seed in (1, 2, 3):
            _result(
                tmp_path / "outputs" / "sweeps" / "portraits_logic" / f"{text}{seed}",
                {
                    "query": {"text": text},
                    "seed": seed,
                    "metrics": {"seed": seed},
                    "editing": {"name": text[0], "layers": {"smile": seed} if text[0] == "a" else None},
                },
                {"acc": base + 0.1 * seed, "fd_judge": 2.0, "fd_judge/unconditional": 1.0, "branch/x": 0.25},
                {"acc": 0.9, "fid": 20.5} if text == "a == 1" else None,
            )
    folder = tmp_path / "experiments" / "portraits_logic"
    folder.mkdir()
    (folder / "README.md").write_text(f"# Logic\n\nOwn words.\n\n{record.BEGIN}\nold\n{record.END}\n\nMore of them.\n")
    record.record("portraits_logic", tmp_path / "outputs")
    text = (folder / "README.md").read_text()
    assert text.startswith("# Logic\n\nOwn words.")
    assert text.endswith("\n\nMore of them.\n")
    assert "old" not in text
    assert (
        "| setting | ACC | *paper* | distance | *FID, paper* | distance of the generator alone | of these x |" in text
    )
    assert (
        "| `a == 1`, editing a | 0.700 ± 0.100 | 0.9 | 2.000 ± 0.000 | 20.5 | 1.000 ± 0.000 | 0.250 ± 0.000 |" in text
    )
    assert "| `b == 1`, editing b | 0.900 ± 0.100 |  | 2.000 ± 0.000 |  |" in text
    assert {"samples_1.png", "samples_2.png", "results.json"} <= {path.name for path in folder.iterdir()}
    assert len(json.loads((folder / "results.json").read_text())) == 6


def test_a_single_run_is_the_latest_and_a_new_readme_says_how(record: ModuleType, tmp_path: Path) -> None:
    for day, acc in (("2026-01-01_00-00-00", 0.1), ("2026-01-02_00-00-00", 0.2)):
        _result(tmp_path / "outputs" / "cifar10_heun" / day, {"seed": 0}, {"acc": acc, "evaluations": 1234.5})
    record.record("cifar10_heun", tmp_path / "outputs")
    text = (tmp_path / "experiments" / "cifar10_heun" / "README.md").read_text()
    assert "python -m lace_lightning +experiment=cifar10_heun" in text
    assert "| 0.200 | 1234.5 |" in text
    with pytest.raises(SystemExit, match="run the experiment first"):
        record.record("cifar10_ode", tmp_path / "outputs")
    (tmp_path / "experiments" / "cifar10_heun" / "README.md").write_text("no marks")
    with pytest.raises(SystemExit, match="must have the marks"):
        record.record("cifar10_heun", tmp_path / "outputs")


def test_figures_of_two_names_become_rows_and_columns(record: ModuleType, tmp_path: Path) -> None:
    for name, metrics, lines in (
        (
            "portraits_check",
            {"labeler/smile": 1.0, "labeler/age": 0.9, "judge/age": 0.8},
            ["|  | labeler | judge |", "| --- | --- | --- |", "| smile | 1.000 |  |", "| age | 0.900 | 0.800 |"],
        ),
        (
            "portraits_sheet",
            {"portraits": 140, "a/b": 0.5},
            ["| figure | value |", "| portraits | 140.0 |", "| a/b | 0.500 |"],
        ),
    ):
        _result(tmp_path / "outputs" / name / "2026-01-01_00-00-00", {"seed": 0}, metrics)
        record.record(name, tmp_path / "outputs")
        text = (tmp_path / "experiments" / name / "README.md").read_text()
        assert all(line in text for line in lines)


TABLE = """
common: [metrics.num_samples=5]
seeds: [seed=0 metrics.seed=1, seed=1 metrics.seed=2]
paper: [acc, fid, seconds]
rows:
  - {part: glasses, row: "Old, η = 0.1", run: [+experiment=old], paper: cifar10 JEM,
     trained: a minute, seeds: 1}
  - {part: glasses, row: New, run: [+experiment=new, a=b]}
  - {part: glasses, row: Never, run: [+experiment=never]}
  - {part: hats, row: New, run: [+experiment=new, "query.text=hat == 1"]}
"""


def test_a_table_has_all_its_rows_beside_the_paper_and_says_what_is_missing(tables: ModuleType, tmp_path: Path) -> None:
    folder, outputs = tmp_path / "experiments" / "table", tmp_path / "outputs"
    folder.mkdir()
    (folder / "table.yaml").write_text(TABLE)
    assert tables.commands("table")[0] == [
        "metrics.num_samples=5",
        "+experiment=old",
        "seed=0",
        "metrics.seed=1",
        "hydra.mode=MULTIRUN",
        "hydra.sweep.dir=outputs/sweeps/table/glasses_old_0_1",
    ]
    assert len(tables.commands("table")) == 1 + 2 + 2 + 2
    (folder / "old.png").touch()
    with pytest.raises(SystemExit, match="run the table first"):
        tables.write("table", outputs)
    assert (folder / "old.png").is_file()
    sweeps = outputs / "sweeps" / "table"
    _result(sweeps / "glasses_old_0_1" / "seed=0", {}, {"acc": 0.25, "fd_judge": 2.0, "seconds/sampling_per_64": 7.0})
    for row, acc in (("glasses_new", 0.5), ("hats_new", 0.75)):
        for seed in (0, 1):
            _result(
                sweeps / row / f"seed={seed}",
                {},
                {"acc": acc + 0.1 * seed, "fd_judge": 1.0, "seconds/sampling_per_64": 1.0},
            )
    tables.write("table", outputs)
    text = (folder / "README.md").read_text()
    assert "| setting | ACC | *paper* | distance | *FID, paper* | s per 64 | *paper* | seeds | trained here |" in text
    assert "| Old, η = 0.1 | 0.250 | 0.645 | 2.000 | 52.35 | 7.000 | 135 | 1 | a minute |" in text
    assert "| New | 0.550 ± 0.071 |  | 1.000 ± 0.000 |  | 1.000 ± 0.000 |  | 2 |  |" in text
    assert "| New | 0.800 ± 0.071 | 1.000 ± 0.000 | 2 |" in text.partition("### hats")[2]
    assert "Not made yet: Never." in text
    assert {"glasses_old_0_1.png", "glasses_new.png", "hats_new.png", "results.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert [entry["row"] for entry in json.loads((folder / "results.json").read_text())] == [
        "Old, η = 0.1",
        *["New"] * 4,
    ]
    # On another machine a row is made again; the others keep what is recorded.
    shutil.rmtree(outputs)
    _result(sweeps / "hats_new" / "seed=0", {}, {"acc": 0.25})
    (folder / "glasses_new.png").write_bytes(b"kept")
    tables.write("table", outputs)
    again = (folder / "README.md").read_text()
    assert again.partition("### hats")[0] == text.partition("### hats")[0]
    assert "| New | 0.250 | 1 |" in again.partition("### hats")[2]
    assert (folder / "glasses_new.png").read_bytes() == b"kept"
    assert len(json.loads((folder / "results.json").read_text())) == 1 + 2 + 1


@pytest.mark.parametrize(
    ("given", "wrong", "sentence"),
    [
        ("cifar10 JEM", "cifar10 JME", "no entry 'cifar10 JME' in conf/paper.yaml. Did you mean 'cifar10 JEM'?"),
        ("cifar10 JEM", "{acc: 0.5}", "There is no entry '{'acc': 0.5}' in conf/paper.yaml. Choose one of cifar10"),
        ("[acc, fid,", "[acc, fdi,", "No entry of conf/paper.yaml has a figure 'fdi'. Did you mean 'fid'?"),
    ],
)
def test_a_table_refuses_names_that_the_paper_has_not(
    given: str, wrong: str, sentence: str, tables: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "experiments" / "table"
    folder.mkdir()
    (folder / "table.yaml").write_text(TABLE.replace(given, wrong))
    with pytest.raises(SystemExit) as refusal:
        tables.commands("table")
    assert sentence in str(refusal.value)
    assert "table.yaml, row 'Old, η = 0.1'" in str(refusal.value)


def test_the_entries_of_the_paper_have_names_of_their_own() -> None:
    names = [entry["name"] for entry in paper_entries()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXPERIMENTS.glob("*/table.yaml")))
def test_every_row_of_the_tables_is_a_run_that_can_be_made(name: str, monkeypatch) -> None:
    tables = importlib.import_module("lace_lightning.report.tables")
    monkeypatch.setattr(tables, "HERE", EXPERIMENTS)
    register_resolvers()
    lines = tables.commands(name)
    # The runs of a row differ by their seeds alone: all of the first row are composed, and one of each other.
    first = _without_seeds(lines[0])
    composed = {tuple(w for w in _without_seeds(line) if not w.startswith("hydra.")): line for line in lines}
    chosen = [line for line in lines if _without_seeds(line) == first or line in composed.values()]
    assert len({tuple(line) for line in lines}) == len(lines)
    settings = set()
    with initialize_config_dir(str(EXPERIMENTS.parent / "conf"), version_base=None):
        for line in chosen:
            cfg = compose(
                "config", overrides=[*(t for t in line if not t.startswith("hydra.")), "~logger", "paths.output=o"]
            )
            settings.add(check(cfg).digest)
    assert len(settings) == len(chosen)


def _without_seeds(line: list[str]) -> list[str]:
    """Return a command without its seeds."""
    return [word for word in line if not word.startswith(("seed=", "metrics.seed="))]

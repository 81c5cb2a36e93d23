"""Reports: pages of one file each that say what the files of a run or a sweep say, and escape all of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lace_lightning import cli
from lace_lightning.errors import LaceError
from lace_lightning.report import index
from lace_lightning.report.charts import Axis, Job, parallel, scatter
from lace_lightning.report.diagnoses import accuracy_findings, sampler_findings
from lace_lightning.report.html import BYTES, embedded
from lace_lightning.report.index import rebuild, report_on, update_index, whereabouts
from lace_lightning.report.run_report import logged, write_run_report
from lace_lightning.report.sweep_report import write_sweep_report

from .folders import make_run, make_sweep

EVIL = "<script>alert('x')</script>\"'&"


class Page(HTMLParser):
    """Tags, attributes and text of a page; open tags have to be closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += f"{data} "

    def values(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]


def test_a_run_is_told_from_its_files_alone(tmp_path: Path) -> None:
    page = Page(write_run_report(make_run(tmp_path / "run")))
    for said in ("hat == 1", "ODE(atol=0.1)", "+experiment=mine", "torch 2.9", "0.97", "31.5", "6.63 (FID)", "1.5"):
        assert said in page.text
    assert "classifier and judge disagree" in page.text
    assert "they agree" in page.text
    # Nothing but files beside the page and data inside of it.
    outside = [value for name in ("src", "href") for value in page.values(name) if ":" in value]
    assert outside
    assert all(value.startswith("data:image/") for value in outside)
    assert all((tmp_path / "run" / value).exists() for value in page.values("href"))


def test_every_text_of_a_user_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "outputs" / "run", name=EVIL, query=f'name == "{EVIL}"')
    make_sweep(tmp_path / "outputs" / "sweeps" / "grid", name=EVIL)
    paths = [run / "report.html", *rebuild(tmp_path / "outputs")]
    for path in paths:
        page = Page(path)
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert EVIL in page.text
        # Without escaping a quote would end an attribute and begin another.
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_curves_are_those_of_the_training(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    points = logged(folder / "csv" / "metrics.csv")
    assert points == {"train/loss": [(0, 2.0), (50, 1.0), (100, 0.5)], "val/loss": [(50, 1.5), (100, 1.2)]}
    labels = [label for label in Page(write_run_report(folder)).values("aria-label") if "over the steps" in label]
    assert labels == ["loss over the steps of the training: train ends at 0.5; val ends at 1.2"]


@pytest.mark.parametrize("lost", ["metrics.json", "config.yaml", "csv/metrics.csv", "samples.png"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00{"])
def test_missing_and_damaged_files_leave_a_report(tmp_path: Path, lost: str, content: bytes | None) -> None:
    folder = make_run(tmp_path)
    (folder / lost).unlink() if content is None else (folder / lost).write_bytes(content)
    page = Page(write_run_report(folder))
    assert ("unfinished" in page.text) == (lost == "metrics.json")


def test_a_report_that_cannot_be_made_takes_nothing_away(tmp_path: Path, monkeypatch) -> None:
    folder = make_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (folder / "report.html").mkdir()
    (folder / "report.html" / "x").touch()
    with pytest.warns(UserWarning, match="could not be written .*; the results are there"):
        assert report_on(folder) is None
    assert all(path.read_bytes() == content for path, content in before.items())


def test_large_pictures_become_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "samples.png")
    picture = embedded(tmp_path / "samples.png", "noise", tmp_path, side=400, limit=20_000)
    assert len(picture.uri) < 20_000 * 4 / 3 + 100
    assert max(picture.width, picture.height) < 400
    assert abs(picture.width / picture.height - 500 / 300) < 0.01
    same = embedded(tmp_path / "samples.png", "noise", tmp_path)
    assert (same.width, same.uri[:15]) == (500, "data:image/png;")
    assert (tmp_path / "samples.png").stat().st_size < BYTES


def test_a_sweep_has_all_jobs_in_table_and_charts(tmp_path: Path) -> None:
    page = Page(write_sweep_report(make_sweep(tmp_path / "grid")))
    assert "1 failed, 8 done" in page.text
    assert "grid did not arrive" in page.text
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-job" in attributes]
    assert [row["data-job"] for row in rows] == [str(number) for number in range(9)]
    charts = [attributes for tag, attributes in page.tags if tag == "g"]
    # The failed job, the first in the order of the settings, has no figures: no point and no line.
    assert sorted(chart["data-job"] for chart in charts) == sorted(2 * [str(number) for number in range(1, 9)])
    told = next(chart["data-tip"] for chart in charts if chart["data-job"] == "8")
    assert "sampler.atol = 0.1\nsampler.rtol = 0.1" in told
    best = next(row for row in rows if row.get("class") == "best")
    assert best["data-job"] == "1"


def test_axes_hold_their_values() -> None:
    for values in ([1.0, 2.0, 4.0], [1e-5, 1e-3, 0.1], ["ode", "heun"], [3.0, 3.0], [0.0, 1e-3, 1.0], [-2, 5], [7]):
        axis = Axis(values)
        places = [axis.place(value) for value in values]
        assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
        assert axis.ticks()
        assert all(-0.01 <= place <= 1.01 for place, _ in axis.ticks())
    assert Axis([1e-5, 0.1]).is_log
    assert not Axis([0.5, 0.9]).is_log
    logarithmic = Axis([1e-4, 1e-3, 1e-2])
    assert logarithmic.place(1e-3) == pytest.approx(0.5)


def test_charts_take_gaps_and_equal_values() -> None:
    jobs = [Job(0, ("a", 1.0), "", ""), Job(1, ("b", 1.0), "", "")]
    assert (
        scatter([Job(0, (1.0, 0.5), "", ""), Job(1, (1.0, 0.5), "", "")], ("FID", "ACC"), ["x", "x"], "").count("<g")
        == 2
    )
    gap = [*jobs, Job(2, ("a", None), "", "")]
    assert parallel(gap, ["sampler", "ACC"], [0.0, 0.5, 1.0]).count("<g") == 3


def _levels(findings) -> dict[str, str]:
    return {finding.level: finding.text for finding in findings}


@pytest.mark.parametrize(
    ("metrics", "protocol", "level", "said"),
    [
        ({"confidence": 0.6, "predicted": 0.7}, {}, "caution", "stops short"),
        ({"confidence": 0.8, "predicted": 0.7}, {}, "caution", "not those of the target"),
        ({"confidence": 0.8, "predicted": 0.7}, {"outlook": "target: none, a flow"}, "note", "no target"),
        ({"spread": 8.0, "spread/reference": 10.0}, {}, "caution", "80%"),
        ({"spread": 10.0, "spread/reference": 10.0}, {}, "good", "100%"),
        ({"posterior_distance": 1.1, "posterior_distance/floor": 1.0}, {}, "good", "1.1 times"),
        ({"ess": 0.01}, {}, "problem", "1.0% effective"),
        ({"acceptance": 0.001}, {}, "problem", "stuck"),
        ({"rhat": 1.5}, {"chains": "Chains disagree."}, "problem", "disagree"),
        ({"rhat": 1.0}, {"chains": "Chains agree."}, "good", "agree"),
        ({"log_p": -9.0}, {}, "caution", "probability of 0.00012"),
    ],
)
def test_what_is_said_of_samplers(metrics, protocol, level: str, said: str) -> None:
    assert said in _levels(sampler_findings(metrics, protocol))[level]


@pytest.mark.parametrize(
    ("metrics", "protocol", "said"),
    [
        ({"acc": 0.99, "own/acc": 0.99}, {}, "agree"),
        ({"acc": 0.8, "own/acc": 0.8, "confidence": 0.7, "predicted": 0.9}, {}, "does not reach its target"),
        ({"acc": 0.8, "own/acc": 0.8}, {}, "query.weight, 2.0 here"),
        ({"acc": 0.8, "acc/hat": 0.9, "acc/age": 0.7}, {}, "attribute of lowest ACC is age"),
        ({"acc": 0.8, "acc/hat": 0.8, "acc/hat/0": 0.95, "acc/hat/1": 0.65}, {}, "class of lowest ACC is hat/1"),
        ({"acc": 0.5}, {"num_samples": 100}, "standard error is about 0.050"),
        ({"acc": 0.5}, {"judged_by": "labeler"}, "measured by the labeler"),
        ({"acc": 0.5}, {"partial": "one epoch"}, "partial"),
        ({"acc": 0.5, "log_p": -5.0}, {}, "about 7 examples"),
        ({"fid": 10.0}, {"frechet": {"network": "Inception, 2048 features", "samples": 500}}, "biased upwards"),
    ],
)
def test_what_is_said_of_accuracy(metrics, protocol, said: str) -> None:
    config = {"query": {"weight": 2.0}, "pairs": {"count": 1000}}
    assert said in " ".join(finding.text for finding in accuracy_findings(metrics, protocol, config))


def test_the_page_over_all_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "outputs" / "mine" / "today")
    sweep = make_sweep(tmp_path / "outputs" / "sweeps" / "grid")
    assert report_on(run) == run / "report.html"
    report_on(sweep, since=0.0)
    page = Page(tmp_path / "outputs" / "index.html")
    assert "1 sweeps and 1 runs" in page.text
    assert "1 failed" in page.text
    links = page.values("href") + page.values("src")
    assert "mine/today/report.html" in links
    assert "sweeps/grid/report.html" in links
    assert all((tmp_path / "outputs" / link).is_file() for link in links)
    # A job of a sweep leaves the page as it is, and so does a run elsewhere.
    (tmp_path / "outputs" / "index.html").unlink()
    report_on(next(path for path in sweep.iterdir() if path.is_dir()))
    assert update_index(make_run(tmp_path / "elsewhere")) is None
    assert not (tmp_path / "outputs" / "index.html").exists()


def test_the_command_rebuilds_what_there_is(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = make_sweep(tmp_path / "outputs" / "sweeps" / "grid")
    make_run(tmp_path / "outputs" / "mine" / "today")
    cli.main(["report"])
    assert capsys.readouterr().out.splitlines() == [
        str(Path("outputs/mine/today/report.html")),
        str(Path("outputs/sweeps/grid/report.html")),
        str(Path("outputs/index.html")),
    ]
    assert all((path / "report.html").is_file() for path in sweep.iterdir() if path.is_dir())
    for wrong in ("nothing", str(tmp_path / "empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(LaceError, match=r"needs a folder of runs|has no run in it"):
            rebuild(Path(wrong))


def test_the_end_of_a_run_names_its_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write_run_report(folder)
    assert whereabouts(folder) == f"results in {folder}: report.html, samples.png, metrics.json, csv/metrics.csv"
    assert set(index.SHOWN) >= {"report.html", "results.csv"}


def test_reports_are_fast_and_need_no_torch(tmp_path: Path) -> None:
    for number in range(9):
        make_sweep(tmp_path / "grid" / str(number))
    many = tmp_path / "many"
    make_sweep(many)
    for number in range(9):
        for job in sorted((tmp_path / "grid" / str(number)).iterdir()):
            if job.is_dir():
                job.rename(many / f"{number}-{job.name}")
    begin = time.process_time()
    write_sweep_report(many)
    assert time.process_time() - begin < 5
    program = (
        "import sys, time; from pathlib import Path; begin = time.process_time();"
        "from lace_lightning.report.run_report import write_run_report; write_run_report(Path(sys.argv[1]));"
        "print(int('torch' in sys.modules), time.process_time() - begin)"
    )
    run = make_run(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True)
    loaded, seconds = done.stdout.split()
    assert loaded == "0"
    assert float(seconds) < 1


def test_results_of_other_tasks_have_a_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    content = json.loads((folder / "metrics.json").read_text()) | {
        "metrics": {"labeler/age": 0.9, "judge/age": 0.8},
        "protocol": {},
        "paper": {},
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    page = Page(write_run_report(folder))
    assert "labeler right, age" in page.text
    assert "Diagnoses" not in page.text


def test_edits_have_a_table(tmp_path: Path) -> None:
    folder = make_run(tmp_path, metrics={"edit1/acc": 0.9, "edit1/des": 0.7, "edit2/acc": 0.8, "edit2/des": 0.6})
    text = re.sub(r"\s+", " ", Page(write_run_report(folder)).text)
    assert "Edit by edit" in text
    assert "0.9 0.7" in text

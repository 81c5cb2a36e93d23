"""Drawing by number, from Python and from the command line, and the samples that a run keeps."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning import cli
from lace_lightning.callbacks import ConditionalSampling, Drawing, SequentialEditing, TemperatureStrips
from lace_lightning.callbacks.drawing import blocks_of
from lace_lightning.commands import run_command
from lace_lightning.errors import LaceError
from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
from lace_lightning.query import parse
from lace_lightning.samplers import ODE
from lace_lightning.seeds import range_text, seed_ranges
from lace_lightning.systems.editing import EditOptions
from lace_lightning.systems.lace import LACE


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "samples.csv").read_text())))


def tiny(sampler: object = None) -> LACE:
    torch.manual_seed(0)
    lace = tiny_lace()
    lace.sampler = sampler or lace.sampler
    return lace


def draw(folder: Path, lace: LACE, seeds: str, query: str = "hat == 1", **settings: object) -> Drawing:
    torch.manual_seed(1)
    drawing = Drawing(
        tiny_labeler(),
        parse(query, tiny_schema()),
        folder,
        seed_ranges(seeds),
        {"query.text": query, "task.seeds": seeds},
        **{"batch_size": 8, "progress": False, **settings},  # type: ignore[arg-type]
    )
    drawing.evaluation = drawing.evaluate(lace)
    return drawing


@pytest.mark.parametrize(
    ("seeds", "ranges"),
    [
        ("0-99,250", [range(100), range(250, 251)]),
        (" 7 , 3 - 5 ", [range(7, 8), range(3, 6)]),
        (4, [range(4, 5)]),
        ([3, 4, 5, 1], [range(3, 6), range(1, 2)]),
        (range(2, 9), [range(2, 9)]),
        (range(1, 6, 2), [range(1, 2), range(3, 4), range(5, 6)]),
        (str(2**32 - 1), [range(2**32 - 1, 2**32)]),
    ],
)
def test_seeds_are_numbers_and_ranges(seeds, ranges) -> None:
    assert seed_ranges(seeds) == ranges
    assert seed_ranges(range_text(ranges)) == ranges


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("", "Seeds must be one or more numbers, received none: write for example 0-99,250."),
        ([], "Seeds must be one or more numbers, received none: write for example 0-99,250."),
        ("-5", "Seeds must be from 0 to 2**32 - 1, received -5: write for example 0-99,250."),
        ([3, -1], "Seeds must be from 0 to 2**32 - 1, received -1: write for example 0-99,250."),
        (str(2**32), f"Seeds must be from 0 to 2**32 - 1, received {2**32}: write for example 0-99,250."),
        ("9-3", "A range of seeds must go upwards, received 9-3: write 3-9."),
        ("0-99,50", "Seeds must be named once, and 0-99 and 50 both name 50: leave one out."),
        ([3, 4, 3], "Seeds must be named once, and 3-4 and 3 both name 3: leave one out."),
        ("1,two", "Seeds must be whole numbers and ranges, received 'two' in '1,two': write for example 0-99,250."),
        ("1,,2", "Seeds must be whole numbers and ranges, received '' in '1,,2': write for example 0-99,250."),
    ],
)
def test_what_is_no_seed_is_refused(seeds, message: str) -> None:
    with pytest.raises(LaceError) as error:
        seed_ranges(seeds)
    assert str(error.value) == message


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_blocks_have_every_sample_once_at_its_position(size: int) -> None:
    seeds = [range(5, 20), range(0, 3), range(40, 41), range(22, 30)]
    found = {}
    for block, pieces in blocks_of(seeds, size):
        assert block % size == 0
        for piece in pieces:
            for row in range(piece.count):
                assert block <= piece.number + row < block + size
                assert piece.position + row not in found
                found[piece.position + row] = piece.number + row
    assert [found[position] for position in range(len(found))] == [number for part in seeds for number in part]


@pytest.mark.parametrize("sampler", [None, ODE(atol=0.1, rtol=0.1)])
def test_a_sample_depends_on_its_number_alone(tmp_path: Path, sampler) -> None:
    lace = tiny(sampler)
    draw(tmp_path / "all", lace, "0-39")
    draw(tmp_path / "one", lace, "27")
    draw(tmp_path / "some", lace, "30-31,3,27-28")
    whole, with_one, with_some = (read(tmp_path / name) for name in ("all", "one", "some"))
    assert with_one["0000.png"] == whole["0027.png"]
    for position, number in enumerate((30, 31, 3, 27, 28)):
        assert with_some[f"{position:04}.png"] == whole[f"{number:04}.png"]
    rows = {row["seed"]: row for row in table(tmp_path / "all")}
    for row in table(tmp_path / "some"):
        assert {**row, "file": ""} == {**rows[row["seed"]], "file": ""}
    latents = [np.load(tmp_path / name / "latents.npz")["z"] for name in ("all", "some")]
    assert (latents[0][[30, 31, 3, 27, 28]] == latents[1]).all()


def test_files_say_what_was_drawn(tmp_path: Path) -> None:
    lace = tiny()
    drawing = draw(tmp_path, lace, "4-9", "hat == *")
    rows = table(tmp_path)
    assert [row["asked"] for row in rows] == ["hat == 0", "hat == 1"] * 3
    assert all((row["holds"] == "true") == (row["asked"][-1] == row["judge_hat"]) for row in rows)
    with np.load(tmp_path / "latents.npz") as stored:
        z = torch.from_numpy(stored["z"])
    free = drawing.draw(lace, drawing.query, 0, torch.device("cpu"))[1]
    assert free is not None
    # p(c|w) is that of the classifier, and the picture that of the latent.
    p = lace.classifier(z).softmax(1)[torch.arange(6), free.column("hat")[[4, 5, 6, 7, 0, 1]].long()]
    assert np.allclose([float(row["p"]) for row in rows], p.detach(), atol=1e-4)
    with Image.open(tmp_path / "0002.png") as image:
        picture = torch.from_numpy(np.array(image)).permute(2, 0, 1).int()
    assert (lace.generator.pictures(z)[2].int() - picture).abs().max() <= 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["query"], report["seeds"], report["count"]) == ("hat == *", "4-9", 6)
    assert report["holds"] == drawing.evaluation.metrics["holds"]
    assert report["generator"] == lace.generator.digest


def test_loggers_have_a_table_with_pictures(tmp_path: Path) -> None:
    assert draw(tmp_path / "none", tiny(), "4-9", "hat == *").evaluation.tables == {}
    for _ in range(2):
        # The second time the folder is finished.
        drawn = draw(tmp_path / "some", tiny(), "4-9", "hat == *", table=4).evaluation.tables["samples"]
        rows = [dict(zip(drawn.columns, row, strict=True)) for row in drawn.rows]
        assert [row["seed"] for row in rows] == [4, 5, 6, 7]
        assert all(row["disagrees"] == (not row["holds"]) for row in rows)
        for row in rows:
            with Image.open(tmp_path / "some" / row["file"]) as image:
                assert np.array_equal(np.array(image), np.array(row["picture"]))


def test_drawing_goes_on_with_the_blocks_that_are_missing(tmp_path: Path, monkeypatch) -> None:
    lace = tiny()
    draw(tmp_path / "once", lace, "0-39")
    blocks: list[int] = []
    inner = Drawing.draw

    def counted(self, system, query, block, device):
        if block == 24 and not (tmp_path / "go").exists():
            raise KeyboardInterrupt
        blocks.append(block)
        return inner(self, system, query, block, device)

    monkeypatch.setattr(Drawing, "draw", counted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "twice", lace, "0-39")
    (tmp_path / "go").touch()
    draw(tmp_path / "twice", lace, "0-39")
    assert blocks == [0, 8, 16, 24, 32]
    assert read(tmp_path / "once") == read(tmp_path / "twice")
    draw(tmp_path / "twice", lace, "0-39")
    assert len(blocks) == 5


def test_another_system_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, tiny(), "0-7")
    other = tiny()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(LaceError, match=r"another command \(system_digest is"):
        draw(tmp_path, other, "0-7")


def test_a_walk_goes_from_one_condition_to_the_other(tmp_path: Path) -> None:
    drawing = draw(tmp_path, tiny(), "0-4", walk_to=parse("hat == 0", tiny_schema()), walk_frames=3)
    with Image.open(tmp_path / "walk.webp") as image:
        assert image.n_frames > 2
    assert "a walk to 'hat == 0' in walk.webp" in str(drawing.evaluation.summary)


def test_a_measurement_keeps_the_samples_that_drawing_gives(tmp_path: Path) -> None:
    lace = tiny()
    draw(tmp_path / "drawn", lace, "0-12")
    torch.manual_seed(1)
    options = {"num_samples": 24, "batch_size": 8, "progress": False, "keep": 13, "folder": tmp_path / "kept"}
    query = parse("hat == 1", tiny_schema())
    ConditionalSampling(tiny_labeler(), query, timing_repeats=0, **options).evaluate(lace)  # type: ignore[arg-type]
    drawn, kept = read(tmp_path / "drawn"), read(tmp_path / "kept")
    assert set(drawn) == set(kept)
    assert all(drawn[name] == kept[name] for name in drawn if name.endswith((".png", ".npz", ".csv")))


def test_editing_keeps_every_step(tmp_path: Path) -> None:
    edits = [parse(text, tiny_schema()) for text in ("hat == 1", "hat == 0")]
    lace = tiny()
    editing = SequentialEditing(
        tiny_labeler(), edits, EditOptions(), num_samples=6, batch_size=4, progress=False, keep=5, folder=tmp_path
    )
    editing.evaluate(lace)
    assert len(list(tmp_path.glob("0*.png"))) == 15
    rows = table(tmp_path)
    assert [(row["file"], row["seed"], row["asked"]) for row in rows[3:6]] == [
        ("0001_0.png", "1", ""),
        ("0001_1.png", "1", "hat == 1"),
        ("0001_2.png", "1", "hat == 0"),
    ]
    assert rows[0]["holds"] == ""
    with np.load(tmp_path / "latents.npz") as latents:
        assert latents["z"].shape == (5, 3, 4)
        assert (latents["z"][:, 0] == lace.generator.prior(5, 1).numpy()).all()
        assert latents["ws"].shape == (5, 3, 1, 4)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["holds"] == np.mean([row["holds"] == "true" for row in rows[2::3]])


def test_temperatures_are_kept_as_steps(tmp_path: Path) -> None:
    query, lace = parse("hat == 1", tiny_schema()), tiny()
    options = {"num_samples": 3, "batch_size": 2, "progress": False, "keep": 3, "folder": tmp_path}
    TemperatureStrips(tiny_labeler(), query, [2, 0.5], **options).evaluate(lace)  # type: ignore[arg-type]
    rows = table(tmp_path)
    assert [(row["file"], row["seed"], row["step"], row["temperature"]) for row in rows[2:4]] == [
        ("0001_0.png", "1", "0", "2"),
        ("0001_1.png", "1", "1", "0.5"),
    ]
    with np.load(tmp_path / "latents.npz") as latents:
        assert latents["z"].shape == (3, 2, 4)


SMALL = ["logger=csv", "metrics.batch_size=10", "metrics.progress=false"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    ("query", "trains"), [("gender == male and smile == yes", False), ("age >= 0.6", False), ("beard == yes", True)]
)
def test_portraits_are_drawn_and_edited_without_a_training(elsewhere: Path, monkeypatch, query, trains, capsys) -> None:
    """The shipped classifier knows five of the labeler's twelve attributes; experiments train their own."""

    def train(*_: object, **__: object) -> None:
        raise LaceError("a training begins")

    monkeypatch.setattr("lace_lightning.run.systems.train", train)
    monkeypatch.setattr("lace_lightning.run.pairs._make_pairs", train)
    np.savez("own.npz", z=np.zeros((2, 128), np.float32))
    draws = [
        "draw",
        query,
        "--experiment",
        "portraits_rare" if trains else "portraits_gender_smile_age",
        "--count",
        "2",
        "--out",
        "drawn",
        *SMALL,
    ]
    edits = ["edit", "own.npz", query, "--experiment", "portraits_edit", "--out", "edited", *SMALL]
    for command in (draws, edits):
        if trains:
            with pytest.raises(SystemExit):
                cli.main(command)
            assert "a training begins" in capsys.readouterr().err
        else:
            cli.main(command)
            assert "classifier: portraits_classifier, shipped; task.weights=null trains one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["+experiment=portraits_gender_smile_age", "hydra.mode=RUN", "query=smile == yes", *SMALL])
    assert "a training begins" in capsys.readouterr().err


def test_faces_are_drawn_by_the_shipped_classifier_of_z(elsewhere: Path, capsys) -> None:
    cli.main(
        ["draw", "smile == yes and yaw > 0.6", "--experiment", "faces_smile", "--count", "2", "--out", "f", *SMALL]
    )
    assert "classifier: faces_classifier, shipped; task.weights=null trains one" in capsys.readouterr().err
    assert not (elsewhere / "cache" / "pairs").exists()
    with np.load("f/latents.npz") as latents:
        assert latents["z"].shape == (2, 100)


def test_another_labeler_is_no_reason_to_draw_with_the_shipped_classifier(elsewhere: Path, monkeypatch, capsys) -> None:
    def make(*_: object, **__: object) -> None:
        raise LaceError("pairs are made")

    monkeypatch.setattr("lace_lightning.run.pairs._make_pairs", make)
    command = ["draw", "smile == yes", "--experiment", "faces_smile", "--count", "2", "--out", "f", *SMALL]
    with pytest.raises(SystemExit):
        cli.main([*command, "labeler.temperature={smile: 2.0}"])
    assert "pairs are made" in capsys.readouterr().err


def test_draw_works_with_what_is_shipped_and_trains_nothing(elsewhere: Path, capsys) -> None:
    command = ["draw", "label == ship", "--seeds", "0-4,12", "--out", "ships", *SMALL]
    cli.main(command)
    shown = capsys.readouterr()
    assert "classifier: cifar10_classifier, shipped; task.weights=null trains one" in shown.err
    assert "6 pictures of 'label == ship' in" in shown.out
    assert not (elsewhere / "cache" / "pairs").exists()
    before = read(elsewhere / "ships")
    assert {"0005.png", "samples.csv", "latents.npz", "contact.png", "report.json", "metrics.json"} <= set(before)
    rows = table(elsewhere / "ships")
    assert [int(row["seed"]) for row in rows] == [0, 1, 2, 3, 4, 12]
    with np.load("ships/latents.npz") as latents:
        assert sorted(latents) == ["w", "ws", "z"]
        assert latents["w"].shape == (6, 128)
    # Once more: nothing is drawn again.
    (elsewhere / "ships" / "metrics.json").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (elsewhere / "ships").glob("0*.png")}
    cli.main(command)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    after = read(elsewhere / "ships")
    # Both of these have the time of the run.
    timed = ("metrics.json", "report.html")
    assert {name: after[name] for name in before if name not in timed} == {
        name: before[name] for name in before if name not in timed
    }
    # Another command is refused, before it touches a file.
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([*command, "sampler.atol=0.1"])
    assert "samples of another command (sampler.atol is 0.05 there and 0.1 here): choose" in capsys.readouterr().err
    assert read(elsewhere / "ships") == after
    # The task with any experiment gives the same samples.
    cli.main(["+experiment=cifar10_heun", "task=draw", "query=label == ship", "seeds=12", "hydra.run.dir=one", *SMALL])
    assert (elsewhere / "one" / "0000.png").read_bytes() == before["0005.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "5-2"], "A range of seeds must go upwards, received 5-2: write 2-5."),
        (["--seeds", "1", "--count", "2"], "draw takes --seeds or --count, received --seeds 1 and --count 2"),
        (["--count", "0"], "'lace-lightning draw --help' shows its arguments"),
        (["--experiment", "cifar10_hoyn"], "There is no experiment 'cifar10_hoyn'"),
        (["--walk-to", "label == sheep"], "'sheep' was asked for"),
        (["task.weights=none.safetensors"], "none.safetensors"),
    ],
)
def test_wrong_commands_are_refused_in_a_sentence(elsewhere: Path, capsys, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        cli.main(["draw", "label == ship", *words, *SMALL])
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_seeds_and_walks_need_no_quotes_of_hydra() -> None:
    words = ["seeds=0-99,250", "task.seeds=[1,2]", "walk_to=label == cat or label == dog", "walk_to='label == cat'"]
    assert cli.normalize(words) == [
        'task.seeds="0-99,250"',
        "task.seeds=[1,2]",
        'task.walk_to="label == cat or label == dog"',
        'task.walk_to="label == cat"',
    ]


def test_a_command_without_a_folder_has_its_own(tmp_path: Path) -> None:
    folders = {
        run_command("draw", ["label == ship", *words])[-1]  # type: ignore[index]
        for words in ([], ["--count", "3"], ["--count", "4"], ["--count", "3"], ["sampler=hmc"])
    }
    assert len(folders) == 4
    assert all(folder.startswith("hydra.run.dir=drawn/label_ship-") for folder in folders)

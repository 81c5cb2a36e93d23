"""CelebA as it is published: tables, pictures, labels of faces, training."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning import cli
from lace_lightning.artifacts import digest, read_json
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data import FACES_SCHEMA, CelebADataModule, celeba
from lace_lightning.data.celeba import face_labels, read_table
from lace_lightning.data.faces import FaceBatches
from lace_lightning.data.resumable_arrays import blocks_of, rows_done
from lace_lightning.errors import LaceError
from lace_lightning.labelers import Labeler
from lace_lightning.schema import Labels

ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Bald",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Eyeglasses",
    "Gray_Hair",
    "Male",
    "No_Beard",
    "Smiling",
    "Young",
)
COUNT = 24


def _picture(number: int) -> Image.Image:
    """A smooth picture of its own: JPEG keeps it."""
    y, x = np.mgrid[:218, :178] / 218
    planes = [(np.sin((number + 1) * x + k) + np.cos((number + 2) * y - k)) * 60 + 127 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def _write(root: Path, count: int = COUNT) -> dict[str, np.ndarray]:
    """Write a folder as published; picture i has attribute k where bit k of i·37 is set. Splits: 12, 6, 6."""
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    pictures = {}
    for number, name in enumerate(names):
        _picture(number).save(root / "img_align_celeba" / name, quality=95)
        with Image.open(root / "img_align_celeba" / name) as image:
            pictures[name] = np.asarray(image.convert("RGB"))
    rows = [
        f"{name} {' '.join(f'{1 if number * 37 >> k & 1 else -1:2d}' for k in range(len(ATTRIBUTES)))}"
        for number, name in enumerate(names)
    ]
    (root / "list_attr_celeba.txt").write_text(f"{count}\n{' '.join(ATTRIBUTES)} \n" + "\n".join(rows) + "\n")
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{name} {0 if n < count // 2 else 1 if n < count * 3 // 4 else 2}\n" for n, name in enumerate(names))
    )
    return pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _write(tmp_path / "celeba_root")
    return tmp_path / "celeba_root"


def _data(root: Path, **options) -> CelebADataModule:
    return CelebADataModule(root, **{"cache": root.parent / "cache", "progress": False, "resolution": 178, **options})


def test_cached_pictures_are_those_of_the_files(tmp_path: Path) -> None:
    pictures = _write(tmp_path / "r")
    data = _data(tmp_path / "r")
    data.setup()
    assert [len(part[0]) for part in data.splits.values()] == [12, 6, 6]
    files = torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2)
    shown = torch.cat([part[0] for part in data.splits.values()])
    assert shown.dtype == torch.uint8
    assert torch.equal(shown, files[:, :, 20:198])
    for name, attribute in (("smile", "Smiling"), ("glasses", "Eyeglasses")):
        column = torch.cat([part[1][:, FACES_SCHEMA.index(name)] for part in data.splits.values()])
        assert column.tolist() == [number * 37 >> ATTRIBUTES.index(attribute) & 1 for number in range(COUNT)]
    small = _data(tmp_path / "r", resolution=38, box=(12, 39, 152))
    expected = torch.nn.functional.interpolate(
        files[:12, :, 39:191, 12:164].float(), (38, 38), mode="bilinear", antialias=True
    )
    # Pillow rounds after every axis.
    assert (small.train_pictures().float() - expected).abs().max() < 1.1


def test_a_zip_is_read_without_unpacking_and_so_are_the_folders_of_the_publication(root: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    for folder in ("Img", "Anno", "Eval"):
        (packed / folder).mkdir(parents=True)
    with zipfile.ZipFile(packed / "Img" / "img_align_celeba.zip", "w") as archive:
        for path in sorted((root / "img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    (root / "list_attr_celeba.txt").rename(packed / "Anno" / "list_attr_celeba.txt")
    (root / "list_eval_partition.txt").rename(packed / "Eval" / "list_eval_partition.txt")
    data = _data(packed)
    data.setup()
    assert not list(packed.rglob("*.jpg"))
    with Image.open(root / "img_align_celeba" / "000013.jpg") as image:
        first = torch.from_numpy(np.asarray(image)[20:198].copy()).permute(2, 0, 1)
    assert torch.equal(data.splits["val"][0][0], first)
    assert data.files.name == "img_align_celeba.zip"
    assert data.source["shape"] == [3, 178, 178]
    assert digest(data.source) != digest(_data(packed, box=(0, 0, 178)).source)


def test_labels_say_what_celeba_says_and_no_more() -> None:
    # Nobody's hair, black hair, blond and brown, grey.
    table = {
        "Smiling": [1, -1, 1, -1],
        "Eyeglasses": [-1, -1, 1, 1],
        "Male": [1, 1, -1, -1],
        "No_Beard": [-1, 1, 1, 1],
        "Young": [1, -1, 1, -1],
        "Bald": [1, -1, -1, -1],
        "Black_Hair": [-1, 1, -1, -1],
        "Blond_Hair": [-1, -1, 1, -1],
        "Brown_Hair": [-1, -1, 1, -1],
        "Gray_Hair": [-1, -1, -1, 1],
        "Wearing_Hat": [1, 1, 1, 1],
    }
    labels = face_labels(list(table), torch.tensor(list(table.values())).T)
    assert labels.schema is FACES_SCHEMA
    for name, wanted in {
        "smile": [1, 0, 1, 0],
        "glasses": [0, 0, 1, 1],
        "gender": [1, 1, 0, 0],
        "beard": [1, 0, 0, 0],
        "age": [0.4, 0.7, 0.4, 0.7],
        "bald": [1, 0, 0, 0],
    }.items():
        torch.testing.assert_close(labels.column(name), torch.tensor(wanted).float())
        assert labels.known[:, FACES_SCHEMA.index(name)].all()
    hair, known = labels.column("haircolor"), labels.known[:, FACES_SCHEMA.index("haircolor")]
    assert known.tolist() == [False, True, False, True]
    assert [FACES_SCHEMA["haircolor"].class_name(int(c)) for c in hair[known]] == ["0", "4"]
    for name in ("yaw", "pitch", "width", "light0", "light3"):
        assert not labels.known[:, FACES_SCHEMA.index(name)].any()


def test_a_part_of_the_attributes(root: Path) -> None:
    whole, part = _data(root), _data(root, attributes=["gender", "smile"])
    whole.setup(), part.setup()
    assert part.schema.names == ("smile", "gender")
    columns = [FACES_SCHEMA.index(name) for name in part.schema.names]
    assert torch.equal(part.splits["train"][1], whole.splits["train"][1][:, columns])
    assert part.splits["train"][2].all()
    with pytest.raises(LaceError, match="Did you mean 'smile'"):
        _data(root, attributes=["smil"])


def test_mirror_images_have_the_labels_of_the_mirror() -> None:
    pictures = torch.arange(2 * 4 * 4).reshape(2, 1, 4, 4).to(torch.uint8).repeat(50, 3, 1, 1)
    labels = Labels.constant(
        FACES_SCHEMA, 100, yaw=torch.rand(100), light3=torch.rand(100), light0=0.3, haircolor=4.0, age=0.6
    )
    ((shown, values, known),) = FaceBatches(pictures, labels, 100, flip=True, mirrored={"yaw": 0.5, "light3": 0.4})
    mirrored = (shown == pictures.flip(-1)).flatten(1).all(1)
    assert 30 < mirrored.sum() < 70
    assert ((shown == pictures).flatten(1).all(1) ^ mirrored).all()
    for index, name in enumerate(FACES_SCHEMA.names):
        before, after = labels.values[:, index], values[:, index]
        turned = {"yaw": 1 - before, "light3": (0.8 - before).clamp(0, 1)}.get(name, before)
        torch.testing.assert_close(after, torch.where(mirrored, turned, before))
    assert torch.equal(known, labels.known)
    ((shown, values, _),) = FaceBatches(pictures, labels, 100)
    assert torch.equal(shown, pictures)
    assert torch.equal(values, labels.values)
    # Faces look to both sides alike: straight ahead is the mean of what is known.
    data = CelebADataModule()
    data.splits = {"train": (pictures, labels.values, labels.known)}
    batches = data.train_dataloader()
    assert batches.turned.nonzero()[:, 0].tolist() == [FACES_SCHEMA.index("yaw"), FACES_SCHEMA.index("light3")]
    assert float(batches.twice[FACES_SCHEMA.index("yaw")]) == pytest.approx(2 * float(labels.column("yaw").mean()))
    labels.known[:, FACES_SCHEMA.index("yaw")] = False
    assert data.train_dataloader().turned.nonzero()[:, 0].tolist() == [FACES_SCHEMA.index("light3")]
    with pytest.raises(LaceError, match="'gender' is discrete"):
        CelebADataModule(mirrored=["gender"])


def test_a_killed_decoding_goes_on(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(celeba, "BATCH", 5)
    whole = _data(root, cache=root.parent / "whole").train_pictures()
    decoded, decode = [], CelebADataModule._decode

    def dying(self, name: str):
        decoded.append(name)
        if len(decoded) == 8:
            raise KeyboardInterrupt
        return decode(self, name)

    monkeypatch.setattr(CelebADataModule, "_decode", dying)
    with pytest.raises(KeyboardInterrupt):
        _data(root).setup()
    assert rows_done(blocks_of(next((root.parent / "cache").rglob("meta.json")).parent)) == 5
    assert torch.equal(_data(root).train_pictures(), whole)
    assert len(decoded) == 8 + 7 + 12  # 5 kept and 3 lost, then the rest of train, val and test
    _data(root).setup()
    assert len(decoded) == 27


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "list_attr_celeba.txt",
            lambda text: text.replace("24\n", "25\n", 1),
            "the 25 rows that it announces, received 24",
        ),
        ("list_attr_celeba.txt", lambda text: text.replace("24\n", "", 1), "its number of pictures in the first line"),
        ("list_attr_celeba.txt", lambda text: re.sub(r"(000003.*) -?1\n", r"\1\n", text), "11 integers in every"),
        ("list_attr_celeba.txt", lambda text: text.replace("000003.jpg -1", "000003.jpg x", 1), "in line 5"),
        (
            "list_attr_celeba.txt",
            lambda text: text.replace("000003.jpg -1", "000003.jpg 2", 1),
            "are -1 or 1, received 2",
        ),
        (
            "list_attr_celeba.txt",
            lambda text: text.replace("000003.jpg", "000004.jpg", 1),
            "every picture once, received 1",
        ),
        ("list_attr_celeba.txt", lambda text: text.replace("Smiling", "Smilling", 1), "CelebA's attribute Smiling"),
        (
            "list_eval_partition.txt",
            lambda text: text.replace("000003.jpg 0", "000003.jpg 3", 1),
            "are 0, 1 and 2, received 3",
        ),
        (
            "list_eval_partition.txt",
            lambda text: text.replace("000003.jpg 0\n", "", 1),
            "the same pictures in one order",
        ),
        ("list_eval_partition.txt", lambda text: text.replace(" 1\n", " 0\n"), "split val must have pictures"),
    ],
)
def test_wrong_tables_are_refused_in_one_sentence(root: Path, file: str, change, words: str) -> None:
    changed = change((root / file).read_text())
    assert changed != (root / file).read_text()
    (root / file).write_text(changed)
    with pytest.raises(LaceError, match=words) as error:
        _data(root).setup()
    assert "\n" not in str(error.value)
    assert not list((root.parent).rglob("images.npy"))


def test_missing_and_damaged_pictures_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LaceError, match="are not shipped"):
        CelebADataModule().setup()
    assert not CelebADataModule().at_hand
    with pytest.raises(LaceError, match="A box must"):
        _data(root, box=(0, 60, 178))
    picture = root / "img_align_celeba" / "000005.jpg"
    whole = picture.read_bytes()
    for content, words in (
        (whole[: len(whole) // 2], "'000005.jpg' in .* could not be read"),
        (b"", "could not be read"),
        (_png(178, 200), "'000005.jpg' in .* is 178x200"),
    ):
        picture.write_bytes(content)
        with pytest.raises(LaceError, match=words):
            _data(root).setup()
    picture.unlink()
    with pytest.raises(LaceError, match="could not be read"):
        _data(root).setup()
    (root / "list_eval_partition.txt").unlink()
    with pytest.raises(LaceError, match=r"needs list_eval_partition\.txt in"):
        _data(root).setup()
    with pytest.raises(LaceError, match=r"needs list_attr_celeba\.txt in"):
        _data(tmp_path / "nowhere").setup()


def _png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_a_table_without_a_head(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a.jpg 0\nb.jpg 2\n")
    names, pictures, values = read_table(tmp_path / "t.txt", 1)
    assert (names, pictures, values.tolist()) == ([], ["a.jpg", "b.jpg"], [[0], [2]])


# Network and pictures small, everything else as it is.
TINY = [
    "debug=fast_training",
    "logger=csv",
    "dataset.module.resolution=32",
    "dataset.module.batch_size=4",
    "training.arguments.width=0.25",
    "training.arguments.resolution=32",
]


@pytest.mark.parametrize("name", ["celeba_labeler", "celeba_judge"])
def test_training_exports_a_labeler(name: str, root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LACE_CELEBA", str(root))
    whole = ["dataset.module.attributes=null"] if name == "celeba_judge" else []
    cli.main([f"+experiment={name}", *TINY, *whole, "hydra.run.dir=first"])
    labeler = Labeler(tmp_path / "first" / f"{name}.safetensors")
    known = ["smile", "glasses", "gender", "beard", "haircolor", "age", "bald"]
    assert labeler.schema == (FACES_SCHEMA if whole else FACES_SCHEMA.part(known))
    assert labeler(torch.zeros(2, 3, 64, 64)).isfinite().all()
    figures = read_json(tmp_path / "first" / "metrics.json")["metrics"]
    assert {key.removeprefix("test_accuracy/") for key in figures if "/" in key} <= set(known)


def test_labeler_and_judge_are_checked_by_what_celeba_knows(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LACE_CELEBA", str(root))
    for seed, name in enumerate(("ffhq_labeler", "ffhq_judge")):
        torch.manual_seed(seed)
        classifier = AttributeClassifier(
            FACES_SCHEMA, "x", "mobilenet", {"variant": "v3_small", "width": 0.25, "resolution": 32}
        )
        classifier.save(f"{name}.safetensors")
    command = [
        "+experiment=portraits_check",
        "dataset=celeba",
        "dataset.module.resolution=32",
        "logger=csv",
        "metrics.num_samples=10",
        "labeler=ffhq",
        "judge=ffhq",
        "hydra.run.dir=out",
    ]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "must know the attributes of the data set, smile" in capsys.readouterr().err
    cli.main([*command, "dataset.module.attributes=null"])
    figures = read_json(tmp_path / "out" / "metrics.json")["metrics"]
    assert 0 <= figures["labeler/smile"] <= 1
    assert "judge/yaw" not in figures
    assert 0 <= figures["agreement/yaw"] <= 1
    rows = {
        line.split()[0]: line.split()[-3:]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("yaw", "smile"))
    }
    assert rows["yaw"][:2] == ["-", "-"]
    assert "-" not in rows["smile"]

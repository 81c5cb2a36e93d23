"""Pairs that others made: what their files say is what is read, and nothing in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.cache import Cache
from lace_lightning.data import LatentPairsDataModule, given_pairs, read_given
from lace_lightning.data.imported_pairs import NPY_COLUMNS, PICKLE_COLUMNS
from lace_lightning.errors import LaceError
from lace_lightning.generators import ModuleGenerator

N, W = 60, 6


@pytest.fixture
def latents() -> np.ndarray:
    w = np.random.default_rng(0).normal(size=(N, 1, 1, W)).astype(np.float32)
    return np.broadcast_to(w, (N, 1, 18, W)).copy()


@pytest.fixture
def generator() -> ModuleGenerator:
    module = torch.nn.Module()
    module.mapping = torch.nn.Linear(4, W)
    module.synthesis = torch.nn.Sequential(torch.nn.Linear(W, 12), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 2, 2)))
    return ModuleGenerator(module, 4, (3, 2, 2), W, "mapping", "synthesis")


def pickles(folder: Path, latents: np.ndarray) -> np.ndarray:
    """Write the layout of the paper's experiments; return its table (N, 21), NaN for None."""
    draw = np.random.default_rng(1)
    table = draw.uniform(size=(N, 21))
    for name, classes in (("smile", 2), ("gender", 2), ("beard", 2), ("glasses", 2), ("haircolor", 5)):
        table[:, PICKLE_COLUMNS.index(name)] = draw.integers(classes, size=N)
    written = table.astype(object)
    written[3, PICKLE_COLUMNS.index("smile")] = None
    written[5, PICKLE_COLUMNS.index("yaw")] = None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all_latents.pickle").write_bytes(pickle.dumps({"Latent": latents}, protocol=4))
    (folder / "att_light.pickle").write_bytes(pickle.dumps({"att_light": [written]}, protocol=4))
    return np.array([[np.nan if v is None else v for v in row] for row in written], dtype=float)


def test_the_pickles_are_read_with_their_gaps(tmp_path, latents, generator) -> None:
    table = pickles(tmp_path / "given", latents)
    pairs = given_pairs(generator, tmp_path / "given", Cache(tmp_path / "cache"))
    assert pairs.schema.names == (
        "smile",
        "glasses",
        "gender",
        "beard",
        "haircolor",
        "yaw",
        "age",
        "pitch",
        "bald",
        "width",
        "light0",
        "light3",
    )
    torch.testing.assert_close(pairs.array("w"), torch.from_numpy(latents[:, 0, 0]))
    labels = pairs.labels()
    for name in pairs.schema.names:
        wanted = table[:, PICKLE_COLUMNS.index(name)]
        wanted = 1 - wanted if name == "gender" else wanted  # theirs has 1 for women
        known = labels.known[:, pairs.schema.index(name)]
        assert known.tolist() == (~np.isnan(wanted)).tolist()
        np.testing.assert_allclose(labels.column(name)[known].numpy(), wanted[known.numpy()], atol=1e-6)
    assert not labels.known[3, 0]
    assert not labels.known[5, pairs.schema.index("yaw")]
    assert labels.known.sum() == N * 12 - 2
    # Found again by content, and served with the mask.
    assert given_pairs(generator, tmp_path / "given", Cache(tmp_path / "cache")).folder == pairs.folder
    data = LatentPairsDataModule(pairs, batch_size=N, fractions=(0.0, 0.0))
    data.setup()
    w, target, known = data.parts["train"]
    assert (w.shape, target.shape) == ((N, W), (N, 12))
    assert not known[3, 0]
    assert target.isfinite().all()


def test_raw_measurements_become_classes_and_shares_of_their_range(tmp_path, latents) -> None:
    table = np.zeros((N, 8, 1))
    raw = {
        "gender": [1, 0, 1],
        "yaw": [-40.0, 10.0, 60.0],
        "beard": [0.1, 0.4, 0.9],
        "smile": [0.05, 0.5, 0.97],
        "age": [10, 35, 60],
        "bald": [0.1, 0.2, 0.9],
    }
    for name, values in raw.items():
        table[:, NPY_COLUMNS.index(name), 0] = np.resize(values, N)
    np.save(tmp_path / "attributes.npy", table)
    np.save(tmp_path / "light.npy", np.linspace(-0.5, 0.5, N * 9).reshape(N, 1, 9, 1, 1))
    (tmp_path / "sg2latents.pickle").write_bytes(pickle.dumps({"Latent": list(latents)}, protocol=2))
    given = read_given(tmp_path)
    labels = given.labels
    assert "width" not in labels.schema.names
    assert [labels.schema["gender"].class_name(int(v)) for v in labels.column("gender")[:3]] == [
        "male",
        "female",
        "male",
    ]
    assert labels.column("beard")[:3].tolist() == [0, 1, 1]
    smile = labels.schema.index("smile")
    assert labels.known[:3, smile].tolist() == [True, False, True]
    assert labels.values[[0, 2], smile].tolist() == [0, 1]
    torch.testing.assert_close(labels.column("yaw")[:3], torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(labels.column("bald")[:3], torch.tensor([0.1, 0.2, 0.9]))
    assert given.ranges["age"] == [10, 60]
    assert given.ranges["yaw"] == [-40, 60]
    assert "bald" not in given.ranges


def _arrays(folder: Path, latents: np.ndarray, light: str | None) -> Path:
    """Write the layout with `attributes.npy`, and the light under a name."""
    folder.mkdir()
    np.save(folder / "latents.npy", latents)
    np.save(folder / "attributes.npy", np.random.default_rng(2).integers(2, size=(N, 8, 1)).astype(float))
    if light is not None:
        np.save(folder / light, np.linspace(0, 1, N * 9).reshape(N, 1, 9, 1, 1))
    return folder


def test_the_light_is_read_under_both_of_its_names(tmp_path, latents, generator) -> None:
    archive, script = (_arrays(tmp_path / name, latents, f"{name}.npy") for name in ("light", "lighting"))
    one, other = (read_given(folder).labels for folder in (archive, script))
    assert one.schema == other.schema
    assert {"light0", "light3"} <= set(one.schema.names)
    assert torch.equal(one.values, other.values)
    keys = {given_pairs(generator, folder, Cache(tmp_path / "cache")).meta["key"] for folder in (archive, script)}
    assert len(keys) == 2


def test_a_light_that_is_missing_is_named(tmp_path, latents) -> None:
    with pytest.warns(UserWarning, match=r"neither light.npy nor lighting.npy: the attributes light0 and light3"):
        labels = read_given(_arrays(tmp_path / "given", latents, None)).labels
    assert not {"light0", "light3"} & set(labels.schema.names)


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "inf", "-inf", "NA", "n/a", " "])
def test_a_cell_that_is_no_label_is_missing(tmp_path, cell: str) -> None:
    (tmp_path / "labels.csv").write_text(f"sample,hat,kind,warmth\n1,1,cat,0.5\n2,0,dog,0.25\n3,{cell},{cell},{cell}\n")
    labels = read_given(tmp_path / "labels.csv").labels
    assert [(a.kind, a.num_classes, a.class_names) for a in labels.schema][:2] == [
        ("discrete", 2, ()),
        ("discrete", 2, ("cat", "dog")),
    ]
    assert labels.schema["warmth"].kind == "continuous"
    assert labels.known.tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert labels.values.isfinite().all()


def test_a_csv_labels_samples_of_the_prior(tmp_path, generator) -> None:
    (tmp_path / "labels.csv").write_text("sample,hat,kind,warmth\n7,1,cat,0.25\n000002.png,0,dog,1\n4,,cat,\n\n")
    pairs = given_pairs(generator, tmp_path / "labels.csv", Cache(tmp_path / "cache"), seed=3)
    z = torch.stack([generator.prior(1, 3, i)[0] for i in (7, 2, 4)])
    torch.testing.assert_close(pairs.array("z"), z)
    torch.testing.assert_close(pairs.array("w"), generator.mapping(z))
    labels = pairs.labels()
    assert [(a.name, a.kind, a.class_names) for a in labels.schema] == [
        ("hat", "discrete", ()),
        ("kind", "discrete", ("cat", "dog")),
        ("warmth", "continuous", ()),
    ]
    assert labels.known.tolist() == [[True, True, True], [True, True, True], [False, True, False]]
    torch.testing.assert_close(labels.values, torch.tensor([[1, 0, 0.25], [0, 1, 1], [0, 0, 0]]))
    with pytest.raises(LaceError, match=r"have z, w, labels, and images was asked for"):
        pairs.latents("x")


class Bomb:
    def __reduce__(self):
        import os

        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "att_light.pickle").write_bytes(pickle.dumps({"att_light": [Bomb()]})), "system"),
        (
            lambda f: (f / "att_light.pickle").write_bytes(pickle.dumps({"att_light": [np.zeros((N, 20))]})),
            "21 attributes a sample",
        ),
        (lambda f: (f / "att_light.pickle").write_bytes(pickle.dumps({"labels": 1})), "entry 'att_light'"),
        (
            lambda f: (f / "att_light.pickle").write_bytes(pickle.dumps({"att_light": [np.full((N, 21), 7.5)]})),
            "class numbers from 0 to 1",
        ),
        (
            lambda f: (f / "att_light.pickle").write_bytes(pickle.dumps({"att_light": [np.zeros((N - 1, 21))]})),
            "60 and 59",
        ),
        (lambda f: (f / "all_latents.pickle").unlink(), "must hold the latents all_latents.pickle"),
        (
            lambda f: (f / "all_latents.pickle").write_bytes(
                pickle.dumps({"Latent": np.random.default_rng(0).normal(size=(N, 18, W))})
            ),
            "same for every style layer",
        ),
        (
            lambda f: (f / "all_latents.pickle").write_bytes(pickle.dumps({"Latent": np.zeros((N, 1, 18, W + 1))})),
            "width of w, 6, and",
        ),
        (lambda f: (f / "att_light.pickle").unlink(), "is neither"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, latents, generator, change, message) -> None:
    pickles(tmp_path / "given", latents)
    change(tmp_path / "given")
    with pytest.raises(LaceError, match=message):
        given_pairs(generator, tmp_path / "given", Cache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hat\n1\n", "must begin with the columns sample"),
        ("sample,hat\n", "and 0 rows"),
        ("", "could not be read"),
        ("sample,hat\n1,1\n2\n", "Row 3 of"),
        ("sample,hat\n1,1\n1,0\n", "sample 1 has several"),
        ("sample,hat\n1,1\n2,1\n", "at least two different"),
        ("sample,hat\ncat.png,1\n2,0\n", "received 'cat.png'"),
        ("sample,hat\n0.5,1\n2,0\n", "received '0.5'"),
        ("sample,hat\n1,1.5\n2,0\n", "must lie in"),
    ],
)
def test_a_wrong_csv_is_refused_in_one_sentence(tmp_path, generator, text, message) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(LaceError, match=message):
        given_pairs(generator, tmp_path / "labels.csv", Cache(tmp_path / "cache"))

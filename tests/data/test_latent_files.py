"""Latents of other programs: every layout is read as its shape and names say, and written back as it came."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lace_lightning.data import LatentFolder, read_latents, write_latents
from lace_lightning.data.latent_files import Layout
from lace_lightning.errors import LaceError
from lace_lightning.generators import Generator


class Faces(Generator):
    """The shapes of StyleGAN2 at 1024x1024: z and w of 512, 18 layers."""

    def __init__(self, z_dim: int = 512, num_ws: int = 18, has_w: bool = True) -> None:
        super().__init__(z_dim, 512 if has_w else z_dim, (1, 1, 1), num_ws, has_w)
        self.mapping = nn.Identity()

    def render(self, ws: Tensor) -> Tensor:
        return ws.mean((1, 2))[:, None, None, None].tanh()


FACES = Faces()
NUMBERS = np.random.default_rng(0).standard_normal((3, 18, 512))


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix in (".pt", ".pth"):
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


CASES: dict[str, tuple[str, Any, str, tuple[int, ...]]] = {
    "projector of StyleGAN": ("projected_w.npz", {"w": NUMBERS[:1].astype("f4")}, "w+", (1, 18, 512)),
    "e4e": ("latents.pt", torch.from_numpy(NUMBERS).float(), "w+", (3, 18, 512)),
    "pSp": ("latents.npy", NUMBERS.astype("f4"), "w+", (3, 18, 512)),
    "PTI": ("someone/0.pt", torch.from_numpy(NUMBERS[:1]).float(), "w+", (1, 18, 512)),
    "one of e4e": ("w.pt", torch.from_numpy(NUMBERS[0]).bfloat16(), "w+", (1, 18, 512)),
    "StyleFlow": ("sg2latents.pickle", {"Latent": NUMBERS[:, None].astype("f4")}, "w+", (3, 18, 512)),
    "StyleFlow, a list": ("l.pickle", {"Latent": [row[None].astype("f4") for row in NUMBERS]}, "w+", (3, 18, 512)),
    "w of the projector": ("projected_w.npz", {"w": NUMBERS[:, 0].astype("f2")}, "w", (3, 512)),
    "w with an axis": ("w.npy", NUMBERS[:, :1], "w", (3, 512)),
    "z by its name": ("seeds_z.npy", NUMBERS[:, 0].astype(">f4"), "z", (3, 512)),
    "z by its key": ("a.npz", {"z": NUMBERS[:, 0], "label": np.arange(3)}, "z", (3, 512)),
    "all of them": ("a.npz", {"z": NUMBERS[:, 0], "w": NUMBERS[:, 1], "ws": NUMBERS}, "w+", (3, 18, 512)),
    "rosinality": (
        "project.pt",
        {
            "noises": [torch.zeros(1, 1, 4, 4)],
            **{
                f"{i}.png": {"latent": torch.from_numpy(NUMBERS[i]).float(), "noise": [torch.zeros(1)]}
                for i in (2, 0, 1)
            },
        },
        "w+",
        (3, 18, 512),
    ),
    "rosinality, w": (
        "project.pt",
        {f"{i}.png": {"img": torch.zeros(3, 4, 4), "latent": torch.from_numpy(NUMBERS[i, 0])} for i in range(3)},
        "w",
        (3, 512),
    ),
    "one of rosinality with an axis": ("p.pt", {"a": {"latent": torch.from_numpy(NUMBERS[:1])}}, "w+", (1, 18, 512)),
    "a pickled table of NumPy": ("l.npy", {"latent": NUMBERS, "name": ["a", "b", "c"]}, "w+", (3, 18, 512)),
    "a pickled table of pictures": ("l.npy", {f"{i}.png": {"w": NUMBERS[i, 0]} for i in range(3)}, "w", (3, 512)),
    "a table of torch": ("a.pth", {"latent": torch.from_numpy(NUMBERS), "noise": [1.0]}, "w+", (3, 18, 512)),
}


@pytest.mark.parametrize("name", CASES)
def test_latents_are_read_and_written_as_they_came(name: str, tmp_path: Path) -> None:
    file, content, space, shape = CASES[name]
    read = read_latents(save(tmp_path / file, content), FACES)
    assert (read.space, tuple(read.values.shape), read.values.dtype) == (space, shape, torch.float32)
    write_latents(tmp_path / "out" / file, read.values + 1, read.layout)
    again = read_latents(tmp_path / "out" / file, FACES)
    assert again.layout == read.layout
    torch.testing.assert_close(again.values, read.values + 1, atol=2e-2, rtol=1e-2)
    # As the programs themselves would read it.
    key, out = read.layout.key, tmp_path / "out" / file
    if name == "rosinality":
        table = torch.load(out, weights_only=True)
        assert list(table) == ["2.png", "0.png", "1.png"]
        torch.testing.assert_close(table["0.png"]["latent"], content["0.png"]["latent"] + 1)
    if out.suffix == ".npz":
        with np.load(out) as table:
            assert (table.files, table[key].dtype, table[key].shape) == ([key], content[key].dtype, content[key].shape)
    elif isinstance(content, Tensor):
        loaded = torch.load(out, weights_only=True)
        assert (loaded.dtype, loaded.shape) == (content.dtype, content.shape)
    elif out.suffix == ".pickle":
        assert pickle.loads(out.read_bytes())["Latent"].shape == np.shape(content["Latent"])


def test_a_space_can_be_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", NUMBERS[:, 0])
    with pytest.raises(LaceError, match=r"of shape \(3, 512\) fit w and z of the generator: say which, by --space"):
        read_latents(path, FACES)
    assert read_latents(path, FACES, "z").space == "z"
    assert read_latents(path, FACES, "w").space == "w"
    assert read_latents(save(tmp_path / "b.npz", {"z": NUMBERS[:, 0], "ws": NUMBERS}), FACES, "z").space == "z"
    # Eighteen samples of w, and one of w+.
    path = save(tmp_path / "w.npy", NUMBERS[0])
    assert tuple(read_latents(path, FACES).values.shape) == (1, 18, 512)
    assert tuple(read_latents(path, FACES, "w").values.shape) == (18, 512)
    # Where only one space fits, no name is needed.
    assert read_latents(save(tmp_path / "c.npy", NUMBERS[:, 0, :64]), Faces(64)).space == "z"
    assert read_latents(save(tmp_path / "d.npy", NUMBERS[:, 0]), Faces(64)).space == "w"
    assert read_latents(save(tmp_path / "e.npy", NUMBERS[:, 0]), Faces(512, 1, has_w=False)).space == "z"


TAKES = r"The latents must be z \(N, 512\) or w \(N, 512\) or w\+ \(N, 18, 512\) of the generator"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("w.npy", NUMBERS[:, 0, :128], TAKES + r", and '.*w\.npy' has the shape \(3, 128\): give latents of this"),
        ("w.npz", {"w": NUMBERS[:, :14]}, TAKES + r", and 'w' in '.*w\.npz' has the shape \(3, 14, 512\)"),
        ("w.npy", np.zeros((0, 512)), r"must have one row or more, received the shape \(0, 512\): give a row for each"),
        ("w.npy", np.zeros((), np.float32), r"has the shape \(\)"),
        ("w.npy", NUMBERS[:, 0].astype(int), r"must be floating numbers, and '.*' has int64 of shape \(3, 512\)"),
        ("w.npy", NUMBERS[:, 0] * np.nan, r"has NaN or infinite ones in row 0 and 2 others of 3: make the file again"),
        ("w.npy", NUMBERS[:, 0] * 1e300, "has NaN or infinite ones in row 0"),
        ("w.npy", np.array([None, {}]), r"must be an array of numbers, and '.*w\.npy' is none"),
        (
            "w.npy",
            np.array([Path("a")]),
            r"NumPy pickled objects there that are more than plain data .*: save the numbers alone where the file was",
        ),
        (
            "w.pt",
            {"a": {"w": torch.from_numpy(NUMBERS[0])}, "b": {"w": torch.from_numpy(NUMBERS[0, :14])}},
            r"must have one shape for all of 2 pictures, and 'w' has \(14, 512\), \(18, 512\)",
        ),
        (
            "w.pickle",
            {"Latent": [NUMBERS[0], NUMBERS[0, :2]]},
            r"must be an array of numbers, and 'Latent' in .* is none",
        ),
        ("w.pickle", {"Latent": 3}, "must hold latents by a known name .* and holds Latent: save the latents alone"),
        ("w.pickle", "text", r"must be an array of numbers, and '.*' is none \(it is a str\)"),
        ("w.npz", {"a": NUMBERS, "b": NUMBERS}, "or one array of their width, and holds a, b: save the latents alone"),
        ("w.npz", {}, "and holds nothing"),
    ],
)
def test_what_does_not_fit_is_refused(file: str, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LaceError, match=message):
        read_latents(save(tmp_path / file, content), FACES)


def test_no_code_of_a_file_is_run_and_damage_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(LaceError, match="system"):
        read_latents(tmp_path / "a.pt", FACES)
    path = save(tmp_path / "a.npz", {"w": NUMBERS})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(LaceError, match="could not be read"):
        read_latents(path, FACES)
    with pytest.raises(LaceError, match=r"'.*none\.npy' were required and do not exist: check the path"):
        read_latents(tmp_path / "none.npy", FACES)
    with pytest.raises(LaceError, match="must be one of z, w, w\\+, received 's'"):
        read_latents(path, FACES, "s")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, count in (("b/0.pt", 2), ("a/0.pt", 1), (".hidden/0.pt", 3)):
        save(tmp_path / name, torch.from_numpy(NUMBERS[:count]))
    save(tmp_path / "a" / "w.npz", {"w": NUMBERS[:, 0]})
    (tmp_path / "readme.txt").write_text("nothing")
    folder = LatentFolder(tmp_path, FACES)
    assert folder.names == ["a/0.pt", "a/w.npz", "b/0.pt"]
    assert (folder.counts, folder.spaces, len(folder)) == ([1, 3, 2], ["w+", "w", "w+"], 6)
    assert folder.summary().endswith(
        "3 in 2 files: w+ (by the shape (N, 18, 512)); 3 in 1 file: w (by the shape (N, 512) and the name w)"
    )
    torch.testing.assert_close(folder.read(2).values, torch.from_numpy(NUMBERS[:2]).float())
    assert LatentFolder(tmp_path / "a" / "0.pt", FACES).names == ["0.pt"]
    for wrong, reason in ((tmp_path / "readme.txt", "is neither"), (tmp_path / "none", "does not exist")):
        with pytest.raises(LaceError, match=reason):
            LatentFolder(wrong, FACES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LaceError, match=r"must hold latents .* and holds none"):
        LatentFolder(tmp_path / "empty", FACES)


def test_w_that_became_styles_is_written_as_styles(tmp_path: Path) -> None:
    layout = Layout(".npz", "w", (3, 512), "float16")
    write_latents(tmp_path / "w.npz", torch.from_numpy(NUMBERS), layout)
    with np.load(tmp_path / "w.npz") as table:
        assert (table["w"].shape, table["w"].dtype) == ((3, 18, 512), np.dtype("float16"))

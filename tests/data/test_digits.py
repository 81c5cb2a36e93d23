"""MNIST: its files, the margin, the labels that are computed, and files that are something else."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.data import DigitsDataModule, load_digits
from lace_lightning.data.digits import read_idx
from lace_lightning.errors import LaceError
from lace_lightning.labelers import digit_labeler
from lace_lightning.pictures import from_bytes
from lace_lightning.pictures.strokes import strokes_of


def idx(array: np.ndarray) -> bytes:
    """Return the content of an IDX file of bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(shared_dir: Path) -> Path:
    """The folder with the published files."""
    folder = shared_dir / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip(f"the files of MNIST are absent ({folder}): set LACE_SHARED")
    return folder


def test_files_are_read_packed_or_not(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "packed").write_bytes(gzip.compress(idx(array)))
    assert (read_idx(tmp_path / "plain") == array).all()
    assert (read_idx(tmp_path / "packed") == array).all()


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", idx(np.zeros((2, 2)))[:-1], b"\0\0\x0d" + idx(np.zeros(3))[3:]])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(LaceError, match="must be an IDX file of bytes"):
        read_idx(tmp_path / "file")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(idx(np.zeros(1000)))[:-20])
    with pytest.raises(LaceError, match="could not be read"):
        read_idx(tmp_path / "file")


def test_other_pictures_of_the_same_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28))))
    with pytest.raises(LaceError, match=r"'.*t10k-labels-idx1-ubyte' or the same with \.gz was required"):
        load_digits(tmp_path, "test")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(5)))
    with pytest.raises(LaceError, match=r"must hold the 10000 pictures of MNIST \(test\)"):
        load_digits(tmp_path, "test")
    with pytest.raises(LaceError, match="has the splits train and test, received 'val'"):
        load_digits(tmp_path, "val")
    with pytest.raises(LaceError, match="are needed and are not shipped"):
        DigitsDataModule().split("train")


def test_pictures_have_a_margin_and_computed_labels(mnist: Path) -> None:
    data = DigitsDataModule(str(mnist))
    pictures, labels, known = data.labelled("test")
    assert pictures.shape == (10_000, 1, 32, 32)
    assert known.all()
    assert not pictures[:, :, [0, 1, -2, -1]].any()
    # The first test pictures are known to be 7, 2, 1, 0, 4.
    assert labels[:5, 0].tolist() == [7, 2, 1, 0, 4]
    torch.testing.assert_close(labels[:9, 1:], strokes_of(from_bytes(pictures[:9])))
    # Ones are the narrowest digits and zeros the widest.
    widths = torch.stack([labels[labels[:, 0] == digit, 3].mean() for digit in range(10)])
    assert (int(widths.argmin()), int(widths.argmax())) == (1, 0)
    assert [len(data.split(name)[0]) for name in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    assert data.train_pictures().shape == (55_000, 1, 32, 32)


@pytest.mark.parametrize("name", ["digits_labeler", "digits_judge"])
def test_labeler_and_judge_are_right_on_the_test_split(name: str, mnist: Path) -> None:
    pictures, classes = load_digits(mnist, "test")
    rows = torch.arange(0, 10_000, 5)
    labels = digit_labeler(name).labels(from_bytes(pictures[rows]))
    assert float((labels.column("label") == classes[rows]).float().mean()) > 0.985
    torch.testing.assert_close(labels.values[:, 1:], strokes_of(from_bytes(pictures[rows])), atol=1e-5, rtol=0)


def test_a_part_of_the_attributes_can_be_labelled() -> None:
    labeler = digit_labeler(attributes=["thickness", "label"])
    assert labeler.schema.names == ("label", "thickness")
    with pytest.raises(LaceError, match="needs an image classifier of ten classes"):
        digit_labeler("portraits_labeler")

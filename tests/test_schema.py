from __future__ import annotations

import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema

FACES = Schema(
    "faces",
    (
        Attribute("glasses"),
        Attribute("yaw", "continuous"),
        Attribute("haircolor", "discrete", 3, ("black", "brown", "red")),
    ),
)


def test_columns_follow_the_attributes() -> None:
    assert FACES.num_logits == 6
    assert FACES.slices == {"glasses": slice(0, 2), "yaw": slice(2, 3), "haircolor": slice(3, 6)}
    assert FACES.index("haircolor") == 2


def test_decode_takes_largest_logit_and_clamped_value() -> None:
    labels = FACES.decode(torch.tensor([[0.0, 1.0, 1.7, 0.1, 0.3, 0.2], [2.0, 1.0, 0.25, 9.0, 0.3, 0.2]]))
    assert labels.values.tolist() == [[1, 1, 1], [0, 0.25, 0]]
    assert labels.known.all()


def test_config_round_trip() -> None:
    assert Schema.from_config(FACES.to_config()) == FACES


def test_labels_rows_and_masks() -> None:
    labels = Labels.constant(FACES, 3, yaw=0.5, glasses=torch.tensor([0, 1, 1]))
    assert labels.known.tolist() == [[True, True, False]] * 3
    assert Labels.cat([labels[:1], labels[1:]]).values.equal(labels.values)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FACES["glases"], "Did you mean 'glasses'"),
        (lambda: FACES["haircolor"].class_index("blak"), "Did you mean 'black'"),
        (lambda: Attribute("a", "discret"), "Did you mean 'discrete'"),
        (lambda: Attribute("a", "discrete", 3, ("x", "y")), "one name a class"),
        (lambda: Attribute("two\nlines"), "rename it"),
        (lambda: Attribute(" hat"), "rename it"),
        (lambda: Attribute(""), "rename it"),
        (lambda: Schema("s", (Attribute("a"), Attribute("a"))), "no name twice"),
        (lambda: Schema.from_config({"name": "s"}), "attributes"),
        (lambda: Labels(FACES, torch.zeros(3, 2)), r"\(N, 3\)"),
    ],
)
def test_bad_input_is_named(build, words) -> None:
    with pytest.raises(LaceError, match=words):
        build()

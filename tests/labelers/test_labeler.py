from __future__ import annotations

import pytest
import torch

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.errors import LaceError
from lace_lightning.labelers import Labeler
from lace_lightning.pictures.convert import from_bytes
from lace_lightning.schema import Attribute, Schema


def test_mirror_images_are_averaged(tiny_labeler) -> None:
    both = Labeler(tiny_labeler.classifier, views=2, precision="float32")
    x = torch.rand(5, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(both(x), (tiny_labeler(x) + tiny_labeler(x.flip(-1))) / 2)
    torch.testing.assert_close(both(x), both(x.flip(-1)))
    assert both.digest != tiny_labeler.digest


def test_four_views_are_the_picture_its_mirror_image_and_both_moved_by_a_pixel(tiny_labeler) -> None:
    four = Labeler(tiny_labeler.classifier, views=4, precision="float32")
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    down, up = x.clone(), x.clone()
    down[:, :, 1:, 1:], up[:, :, :-1, :-1] = x[:, :, :-1, :-1], x[:, :, 1:, 1:]
    # The edge that comes in is the reflection: the row and the column next to it.
    down[:, :, 0, 1:], down[:, :, 1:, 0], down[:, :, 0, 0] = x[:, :, 1, :-1], x[:, :, :-1, 1], x[:, :, 1, 1]
    up[:, :, -1, :-1], up[:, :, :-1, -1], up[:, :, -1, -1] = x[:, :, -2, 1:], x[:, :, 1:, -2], x[:, :, -2, -2]
    expected = (tiny_labeler(x) + tiny_labeler(x.flip(-1)) + tiny_labeler(down) + tiny_labeler(up.flip(-1))) / 4
    torch.testing.assert_close(four(x), expected)
    with pytest.raises(LaceError, match="1, 2 or 4"):
        Labeler(tiny_labeler.classifier, views=3)


def test_batches_change_nothing(tiny_labeler) -> None:
    x = torch.rand(7, 3, 16, 16) * 2 - 1
    small = Labeler(tiny_labeler.classifier, precision="float32", max_batch=2)
    torch.testing.assert_close(small(x), tiny_labeler(x), atol=1e-5, rtol=1e-5)
    features, logits = tiny_labeler.features_and_logits(x)
    torch.testing.assert_close(tiny_labeler.classifier.network.head(features), logits)
    assert torch.equal(tiny_labeler.labels(x).column("label"), logits.argmax(1).float())


def test_pictures_of_bytes_are_labelled_as_what_they_show(tiny_labeler) -> None:
    bytes_ = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(tiny_labeler(bytes_), tiny_labeler(from_bytes(bytes_)), rtol=0, atol=0)
    torch.testing.assert_close(tiny_labeler.features(bytes_), tiny_labeler.features(from_bytes(bytes_)), rtol=0, atol=0)


def test_a_latent_classifier_is_no_labeler() -> None:
    schema = Schema("s", (Attribute("a"),))
    with pytest.raises(LaceError, match="give an image classifier"):
        Labeler(AttributeClassifier(schema, "w", "mlp", {"input_dim": 4}))

"""Files of classifiers whose settings were changed: one sentence, and no memory beyond that of the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.classifiers.embedding import IdentityEmbedding
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Schema
from lace_lightning.weights import weight_path

SCHEMA = Schema("s", (Attribute("a", "discrete", 3), Attribute("b", "continuous")))


def classifier(network: str) -> AttributeClassifier:
    torch.manual_seed(0)
    if network == "mlp":
        return AttributeClassifier(SCHEMA, "w", "mlp", {"input_dim": 4, "hidden": [6]})
    return AttributeClassifier(SCHEMA, "x", network, {"width": 4})


def write(path: Path, source: AttributeClassifier, change: dict[str, Any] | None) -> None:
    config: Any = source._config()
    if change is None:
        config = [1]
    else:
        for key, value in change.items():
            target, *rest = key.split(".")
            if rest:
                config = {**config, target: {**config[target], rest[0]: value}}
            elif value == "missing":
                config = {name: inner for name, inner in config.items() if name != target}
            else:
                config = {**config, target: value}
    tensors = {name: value.contiguous() for name, value in source.network.state_dict().items()}
    save_file(tensors, path, {"lace": json.dumps(config)})


@pytest.mark.parametrize("network", ["mlp", "resnet9"])
def test_a_file_as_it_was_written(tmp_path: Path, network: str) -> None:
    source = classifier(network).eval()
    write(tmp_path / "c.safetensors", source, {})
    x = torch.randn(2, 4) if network == "mlp" else torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(AttributeClassifier.load(tmp_path / "c.safetensors")(x), source(x))


@pytest.mark.parametrize("network", ["mlp", "resnet9"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arguments.depth": 3}, "make none"),
        ({"arguments.width": 2**40}, "its setting 'width' is 1099511627776"),
        ({"arguments.hidden": [2**40]}, "its setting 'hidden' is 1099511627776"),
        ({"arguments.hidden": [100_000] * 50}, "make none"),
        ({"arguments": "missing"}, "make none .'arguments'."),
        ({"schema": "missing"}, "make none .'schema'."),
        ({"space": "missing"}, "make none .'space'."),
        ({"space": "y"}, "classifier's space must be one of"),
        ({"network": "\x1b[2J"}, r"received '\\x1b\[2J'"),
        ({"network": 3}, "make none"),
        (
            {"schema": {"name": "s", "attributes": [{"name": "a", "num_classes": 2**40}]}},
            "'num_classes' is 1099511627776",
        ),
        ({"schema": {"name": "s", "attributes": [{"name": "a", "num_classes": 9}]}}, "is missing, left over or of"),
        ({"schema": [1]}, "make none"),
        ({"kind": "\x1b"}, r"of kind '\\x1b'"),
        (None, "of kind 'list'"),
    ],
    ids=str,
)
def test_changed_settings_are_one_sentence(
    tmp_path: Path, network: str, change: dict[str, Any] | None, words: str
) -> None:
    write(tmp_path / "c.safetensors", classifier(network), change)
    with pytest.raises(LaceError, match=words) as caught:
        AttributeClassifier.load(tmp_path / "c.safetensors")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "missing"}, "make none .'network'."),
        ({"size": "missing"}, "make none"),
        ({"size": 2**40}, "its setting 'size' is 1099511627776"),
        ({"arguments": 3}, "make none"),
        ({"arguments.width": 2**16}, "make none"),
        ({"kind": "classifier"}, "must be an identity embedding and are of kind 'classifier'"),
        (None, "of kind 'list'"),
    ],
    ids=str,
)
def test_changed_settings_of_an_embedding(tmp_path: Path, change: dict[str, Any] | None, words: str) -> None:
    write(tmp_path / "e.safetensors", IdentityEmbedding.load(weight_path("portraits_identity")), change)
    with pytest.raises(LaceError, match=words) as caught:
        IdentityEmbedding.load(tmp_path / "e.safetensors")
    assert str(caught.value).isprintable()

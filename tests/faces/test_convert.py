"""Weights are read out of archives as data, in the layouts of the packages."""

import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.faces import EfficientNetLite0, FerNetwork
from lace_lightning.faces.convert import KERAS_LAYERS, SOURCES, extracted, face_api_weights, ordered_weights
from lace_lightning.faces.face_api import DenseNetwork
from lace_lightning.faces.networks import FACE_NETWORKS


def test_every_network_has_a_source():
    assert set(SOURCES) == set(FACE_NETWORKS)


def test_members_of_wheel_and_tarball_are_extracted(tmp_path):
    (tmp_path / "member.txt").write_text("content")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.write(tmp_path / "member.txt", "inside/member.txt")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tarball:
        tarball.add(tmp_path / "member.txt", "inside/member.txt")
    for archive in ("a.whl", "a.tgz"):
        with extracted(tmp_path / archive, ("inside/member.txt",)) as folder:
            assert (folder / "inside" / "member.txt").read_text() == "content"
        assert not folder.exists()
        with pytest.raises(LaceError, match="must hold 'other'"), extracted(tmp_path / archive, ("other",)):
            pass
    with pytest.raises(LaceError, match="is required and does not exist"), extracted(tmp_path / "b.whl", ()):
        pass


def test_manifest_of_face_api_is_read_in_its_order(tmp_path):
    shapes = {
        "dense0/conv0/filters": [3, 3, 3, 32],
        "dense0/conv0/bias": [32],
        "dense0/conv1/depthwise_filter": [3, 3, 32, 1],
        "dense0/conv1/pointwise_filter": [1, 1, 32, 32],
        "dense0/conv1/bias": [32],
        "fc/weights": [32, 5],
        "fc/bias": [5],
    }
    generator, content, manifest, values = np.random.default_rng(0), b"", [], {}
    for name, shape in shapes.items():
        stored = generator.integers(0, 256, shape).astype(np.uint8)
        values[name] = stored
        if name.endswith("bias"):
            stored = values[name] = stored.astype(np.float32) / 7
            manifest.append({"name": name, "shape": shape, "dtype": "float32"})
        else:
            quantization = {"dtype": "uint8", "min": -1.0, "scale": 0.01}
            manifest.append({"name": name, "shape": shape, "dtype": "float32", "quantization": quantization})
        content += stored.tobytes()
    (tmp_path / "tiny.bin").write_bytes(content)
    (tmp_path / "tiny-weights_manifest.json").write_text(json.dumps([{"weights": manifest, "paths": ["tiny.bin"]}]))
    tensors, quantized = face_api_weights(tmp_path / "tiny.bin", DenseNetwork)
    assert set(tensors) == set(DenseNetwork(outputs=5, blocks=1, layers=2).state_dict())
    assert tensors["dense0.conv0.weight"][7, 2, 0, 1] == values["dense0/conv0/filters"][0, 1, 2, 7]
    assert tensors["dense0.conv1.depthwise.weight"][5, 0, 1, 2] == values["dense0/conv1/depthwise_filter"][1, 2, 5, 0]
    assert tensors["dense0.conv1.pointwise.weight"][3, 4, 0, 0] == values["dense0/conv1/pointwise_filter"][0, 0, 4, 3]
    assert np.array_equal(tensors["dense0.conv1.pointwise.bias"], values["dense0/conv1/bias"])
    assert np.array_equal(tensors["fc.weight"].T, values["fc/weights"])
    assert set(quantized) == {name for name in tensors if name.endswith("weight")}
    assert quantized["fc.weight"] == (-1.0, 0.01)


def test_layers_of_keras_are_all_layers_of_the_network():
    ours = {
        name.rsplit(".", 1)[0].removesuffix(".depthwise").removesuffix(".pointwise")
        for name in FerNetwork().state_dict()
    }
    assert set(KERAS_LAYERS.values()) == ours


def test_tensors_in_order_take_the_names_of_the_network(tmp_path):
    state = EfficientNetLite0().state_dict()
    other = {f"other.{index}": tensor + 1 for index, tensor in enumerate(state.values())}
    torch.save({**other, "last.weight": torch.zeros(3)}, tmp_path / "a.pth")
    tensors, quantized = ordered_weights(tmp_path / "a.pth", EfficientNetLite0)
    assert list(tensors) == list(state)
    assert torch.equal(tensors["stem.conv.weight"], state["stem.conv.weight"] + 1)
    assert not quantized

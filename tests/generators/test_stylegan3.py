"""StyleGAN3 against recorded outputs of the reference generator, and against what its name promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.generators.stylegan3_networks import StyleGAN3Network, stylegan3_config

DATA = Path(__file__).parent / "data"


def load(name: str) -> tuple[StyleGAN3Network, dict[str, torch.Tensor], dict]:
    with np.load(DATA / f"stylegan3_{name}.npz", allow_pickle=False) as file:
        config = stylegan3_config(json.loads(str(file["init_json"])))
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "init_json"}
    network = StyleGAN3Network(**config)
    network.load_state_dict({key[6:]: value for key, value in arrays.items() if key.startswith("param/")}, strict=True)
    return network.eval().requires_grad_(False), arrays, config


@pytest.mark.parametrize("name", ["t", "r"])
def test_matches_recorded_outputs(name: str) -> None:
    network, recorded, _ = load(name)
    w = network.mapping(recorded["z"], recorded.get("c"))
    torch.testing.assert_close(w, recorded["w"], atol=1e-5, rtol=0)
    torch.testing.assert_close(network.synthesis(network.broadcast(w)), recorded["image"], atol=1e-4, rtol=0)
    torch.testing.assert_close(network.synthesis(recorded["ws_mixed"]), recorded["image_mixed"], atol=1e-4, rtol=0)
    network.synthesis.input.transform.copy_(recorded["transform"])
    torch.testing.assert_close(network.synthesis(network.broadcast(w)), recorded["image_transform"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["t", "r"])
def test_own_filters_are_the_recorded_ones(name: str) -> None:
    network, _, config = load(name)
    fresh = StyleGAN3Network(**config)
    filters = {key: value for key, value in fresh.state_dict().items() if key.endswith("_filter")}
    assert len(filters) == 28
    for key, value in filters.items():
        torch.testing.assert_close(value, network.state_dict()[key], atol=1e-6, rtol=0)

"""The StyleGAN2 networks against recorded outputs of the reference generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.generators.stylegan2_networks import StyleGAN2Network

FILES = ("uncond", "cond3", "ffhq8", "orig", "resnet")


def load(shared_dir: Path, name: str) -> tuple[StyleGAN2Network, dict[str, torch.Tensor]]:
    with np.load(shared_dir / "oracles" / f"stylegan2_{name}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta_json"]))
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta_json"}
    arguments = ("z_dim", "w_dim", "c_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
    network = StyleGAN2Network(**{key: meta[key] for key in arguments})
    network.load_state_dict({key[6:]: value for key, value in arrays.items() if key.startswith("param/")}, strict=True)
    return network.eval().requires_grad_(False), arrays


@pytest.mark.parametrize("name", FILES)
def test_matches_recorded_outputs(shared_dir: Path, name: str) -> None:
    network, recorded = load(shared_dir, name)
    w = network.mapping(recorded["z"], recorded["c"])
    torch.testing.assert_close(w, recorded["w_psi1"], atol=1e-5, rtol=0)
    for mode in ("const", "none"):
        images = network.synthesis(network.broadcast(w), mode)
        torch.testing.assert_close(images, recorded[f"img_{mode}_psi1"], atol=2e-5, rtol=0)
    images = network.synthesis(recorded["ws_mixed"], "const")
    torch.testing.assert_close(images, recorded["img_const_mixed"], atol=2e-5, rtol=0)


def test_bfloat16_stays_near_float32(shared_dir: Path) -> None:
    network, recorded = load(shared_dir, "uncond")
    ws = network.broadcast(recorded["w_psi1"])
    error = (network.synthesis(ws, dtype=torch.bfloat16) - network.synthesis(ws)).abs().mean()
    assert error < 0.01 * network.synthesis(ws).std()

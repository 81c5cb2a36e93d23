"""StyleGAN3 against recorded outputs of the reference generator, and against what its name promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.generators import StyleGAN2Generator, StyleGAN3Generator, check_generator, load_generator
from lace_lightning.generators.stylegan2 import save_network
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


@pytest.mark.parametrize(("name", "condition"), [("t", None), ("r", 0)])
def test_generator_agrees_with_network_and_truncates(name: str, condition: int | None) -> None:
    network, recorded, _ = load(name)
    generator = StyleGAN3Generator(network, truncation=0.6, truncation_cutoff=5, condition=condition)
    check_generator(generator)
    rows = slice(0, 3) if condition is None else slice(0, 1)  # the recorded conditions are classes 0, 1, 2
    torch.testing.assert_close(
        generator(recorded["z"][rows]), recorded["image_truncated"][rows].clamp(-1, 1), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("name", "condition"), [("t", None), ("r", 2)])
def test_closed_form_gradient_of_the_mapping_is_the_automatic_one(name: str, condition: int | None) -> None:
    network, recorded, _ = load(name)
    mapping = StyleGAN3Generator(network, truncation=0.7, condition=condition).mapping
    z = recorded["z"].clone().requires_grad_()
    w = mapping(z)
    gradient = torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad((w * gradient).sum(), z)
    again, vjp = mapping.linearize(z)
    torch.testing.assert_close(again, w.detach())
    torch.testing.assert_close(vjp(gradient), expected)


def test_a_saved_generator_loads_by_what_the_file_says(tmp_path: Path) -> None:
    network, recorded, config = load("t")
    save_network(network, config, tmp_path / "g.safetensors", {"truncation": 0.8})
    first, again = StyleGAN3Generator(network, truncation=0.8), load_generator(tmp_path / "g.safetensors")
    assert isinstance(again, StyleGAN3Generator)
    assert first.digest == again.digest
    torch.testing.assert_close(first(recorded["z"]), again(recorded["z"]), atol=0, rtol=0)
    with pytest.raises(LaceError, match="of kind 'stylegan3'"):
        StyleGAN2Generator.from_weights(tmp_path / "g.safetensors")


def test_pictures_do_not_depend_on_their_batch() -> None:
    network, recorded, _ = load("t")
    whole = network(recorded["z"])
    for layer in network.synthesis.layer_names:
        getattr(network.synthesis, layer).resample.budget = 1  # one by one through the filters
    torch.testing.assert_close(network(recorded["z"]), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(network(recorded["z"][1:2]), whole[1:2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["t", "r"])
def test_gradients_reach_the_latents_through_the_pictures(name: str) -> None:
    network, recorded, _ = load(name)
    network = network.double()
    ws = network.broadcast(recorded["w"][:1].double()).clone().requires_grad_()
    direction = torch.randn(ws.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(ws: torch.Tensor) -> torch.Tensor:
        return network.synthesis(ws, dtype=torch.float64).square().sum()

    (gradient,) = torch.autograd.grad(loss(ws), ws)
    with torch.no_grad():
        numeric = (loss(ws + 1e-3 * direction) - loss(ws - 1e-3 * direction)) / 2e-3
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-2, atol=1e-3)


def test_bfloat16_stays_near_float32() -> None:
    network, recorded, _ = load("t")
    ws = recorded["ws_mixed"]
    error = (network.synthesis(ws, dtype=torch.bfloat16) - network.synthesis(ws)).abs().mean()
    assert error < 0.02 * network.synthesis(ws).std()


def decibels(error: torch.Tensor, picture: torch.Tensor) -> float:
    """Peak signal to noise, the peak being four standard deviations."""
    return float(10 * torch.log10(16 * picture.var() / error.square().mean()))


def test_moving_the_features_moves_the_picture() -> None:
    """The property in the paper's title; `transform` is the inverse motion, in widths of the picture."""
    network, recorded, _ = load("t")
    ws = network.broadcast(recorded["w"])
    still = network.synthesis(ws)
    for right, down in ((1, 2), (4, 8)):
        network.synthesis.input.transform[:2, 2] = -torch.tensor([right, down]) / still.shape[-1]
        moved = network.synthesis(ws)
        assert decibels(moved - still, still) < 62  # it did move; measured 59.0 and 49.2
        assert decibels(moved[..., down:, right:] - still[..., :-down, :-right], still) > 80  # measured 90.4 and 86.5


def test_turning_the_features_turns_the_picture() -> None:
    network, recorded, _ = load("r")
    ws = network.broadcast(recorded["w"])
    still = network.synthesis(ws)
    network.synthesis.input.transform[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = network.synthesis(ws)
    assert decibels(turned - still, still) < 30  # measured 18
    assert decibels(turned.rot90(-1, (2, 3)) - still, still) > 120  # a quarter turn maps pixels to pixels; measured 141


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(LaceError, match="w_dim"):
        stylegan3_config({"z_dim": 8, "c_dim": 0})
    with pytest.raises(LaceError, match="use_noise"):
        StyleGAN3Network(8, 8, img_resolution=16, synthesis_kwargs={"use_noise": True})
    network, _, _ = load("r")
    with pytest.raises(LaceError, match="conditional on 3"):
        StyleGAN3Generator(network)

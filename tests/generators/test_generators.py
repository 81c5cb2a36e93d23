"""Frozen generators: spaces, truncation, adapters, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lace_lightning.errors import LaceError
from lace_lightning.generators import ModuleGenerator, StyleGAN2Generator, check_generator, load_generator, sample_seeds
from lace_lightning.generators.stylegan2 import save_network
from lace_lightning.generators.stylegan2_networks import StyleGAN2Network

from .test_stylegan2_networks import FILES, load

CONFIG = {
    "z_dim": 8,
    "w_dim": 12,
    "img_resolution": 8,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}


@pytest.mark.parametrize("name", FILES)
def test_truncation_equals_the_reference(shared_dir: Path, name: str) -> None:
    network, recorded = load(shared_dir, name)
    for row in range(len(recorded["z"])):
        z, one = recorded["z"][row : row + 1], slice(row, row + 1)
        condition = recorded["c"][row].tolist() if network.c_dim else None
        generator = StyleGAN2Generator(network, truncation=0.7, condition=condition)
        w = generator.mapping(z)
        torch.testing.assert_close(
            w,
            recorded["w_psi0.7"][one] if recorded["w_psi0.7"].ndim == 2 else recorded["w_psi0.7"][one, 0],
            atol=2e-5,
            rtol=0,
        )
        ours = network.synthesis(generator.broadcast(w))
        torch.testing.assert_close(ours, recorded["img_const_psi0.7"][one], atol=1e-4, rtol=0)
        torch.testing.assert_close(generator.synthesis(w), ours.clamp(-1, 1), atol=0, rtol=0)
        partial = StyleGAN2Generator(network, truncation=0.5, truncation_cutoff=2, condition=condition)
        torch.testing.assert_close(
            partial.broadcast(partial.mapping(z)), recorded["ws_psi0.5_cutoff2"][one], atol=2e-5, rtol=0
        )


def test_save_and_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = StyleGAN2Network(**CONFIG).half().float()
    save_network(network, CONFIG, tmp_path / "g.safetensors", {"truncation": 0.8}, torch.float16)
    first, again = StyleGAN2Generator(network, truncation=0.8), load_generator(tmp_path / "g.safetensors")
    z = first.prior(5, seed=3)
    torch.testing.assert_close(first(z), again(z), atol=0, rtol=0)
    assert first.digest == again.digest
    assert first.digest != load_generator(tmp_path / "g.safetensors", truncation=0.7).digest
    check_generator(again)


def test_prior_depends_on_the_sample_number_alone() -> None:
    generator = StyleGAN2Generator(StyleGAN2Network(**CONFIG))
    whole = generator.prior(10, seed=4)
    assert torch.equal(whole[6:9], generator.prior(3, seed=4, first=6))
    assert not torch.equal(whole, generator.prior(10, seed=5))
    assert sample_seeds(2, 1, 3).tolist() == [2**32 + 3, 2**32 + 4]


def test_batches_change_no_picture() -> None:
    generator = StyleGAN2Generator(StyleGAN2Network(**CONFIG), max_batch=3)
    z = generator.prior(7)
    torch.testing.assert_close(generator(z), torch.cat([generator(row[None]) for row in z]), atol=1e-5, rtol=0)


class Decoder(nn.Module):
    """A user's network with its own conventions: latents (D, 1, 1), outputs in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ConvTranspose2d(6, 3, 4)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.net(z))

    def style(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z) * 2


def test_any_module_is_a_generator(tmp_path: Path) -> None:
    decoder = Decoder()
    torch.save(decoder.state_dict(), tmp_path / "d.pt")
    generator = ModuleGenerator(
        Decoder(),
        6,
        (3, 4, 4),
        mapping="style",
        reshape=(6, 1, 1),
        output_range=(0, 1),
        checkpoint=str(tmp_path / "d.pt"),
    )
    check_generator(generator)
    z = generator.prior(3)
    expected = decoder(torch.tanh(z)[:, :, None, None] * 2) * 2 - 1
    torch.testing.assert_close(generator(z), expected, atol=1e-6, rtol=0)
    assert generator.has_w
    plain = ModuleGenerator(Decoder(), 6, (3, 4, 4), reshape=(6, 1, 1), output_range=(0, 1))
    assert torch.equal(plain.mapping(z), z)


class Loud(nn.Module):
    def __init__(self, gain: float = 3.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z * self.gain)[:, :, None, None].expand(-1, -1, 4, 4)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ModuleGenerator(Loud(0.01), 3, (3, 4, 4), freeze=False), "'module.gain' requires gradients"),
        (lambda: ModuleGenerator(Loud(), 3, (3, 4, 4)), r"must lie in \[-1, 1\]"),
        (lambda: ModuleGenerator(Loud(float("nan")), 3, (3, 4, 4)), r"must lie in \[-1, 1\]"),
        (lambda: ModuleGenerator(Loud(0.01), 3, (3, 8, 8)), r"shape \(2, 3, 8, 8\)"),
        (lambda: ModuleGenerator(Loud(), 3, (3, 4, 4), mapping="stile"), "callable 'stile'"),
        (lambda: ModuleGenerator(Loud(), 3, (3, 4, 4), checkpoint="/nowhere.pt"), "does not exist"),
        (lambda: StyleGAN2Generator(StyleGAN2Network(**CONFIG), precision="half"), "precision must be one of"),
        (lambda: StyleGAN2Generator(StyleGAN2Network(c_dim=3, **CONFIG)), "conditional on 3"),
        (lambda: load_generator("cifar"), "shipped weights are"),
    ],
)
def test_what_is_no_generator_is_refused(build, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        check_generator(build())


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"gain": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(LaceError, match="not on the list of allowed names"):
        ModuleGenerator(Loud(), 3, (3, 4, 4), checkpoint=str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


def test_gradients_through_pictures_are_those_of_float32(tiny_generator) -> None:
    from lace_lightning.generators import StyleGAN2Generator

    z = tiny_generator.prior(3)
    gradients = []
    for precision in ("auto", "float32"):
        generator = StyleGAN2Generator(tiny_generator.network, precision=precision)
        x = z.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(generator(x).square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_what_a_w_looks_like_does_not_depend_on_truncation() -> None:
    network = StyleGAN2Network(**CONFIG)
    whole, half, cut = (
        StyleGAN2Generator(network, **options) for options in ({}, {"truncation": 0.5}, {"truncation_cutoff": 1})
    )
    assert whole.digest != half.digest
    assert whole.digest_for("w") == half.digest_for("w") == cut.digest_for("w") == whole.digest
    assert half.digest_for("z") == half.digest
    z = whole.prior(3)
    w = half.mapping(z)
    torch.testing.assert_close(whole.synthesis(w), half.synthesis(w))

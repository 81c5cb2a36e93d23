"""Sizes of latents and pictures, and their range, that are found by trying."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lace_lightning import LaceError
from lace_lightning.generators import ModuleGenerator, as_generator
from lace_lightning.generators.found import FunctionModule
from lace_lightning.source import identity_of


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.first, self.last = nn.Linear(784, 40), nn.Linear(20, 40), nn.Linear(40, 784)

    def decode(self, z: Tensor, scale: float = 1.0) -> Tensor:
        return self.last(self.first(z).relu() * scale).sigmoid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x.flatten(1)).chunk(2, dim=1)
        return self.decode(mean), mean, log_variance


class DCGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(10, 8, 4, 1, 0),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 192))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).reshape(-1, 3, 9, 9)


vae = VAE()
FORMS: dict[str, Any] = {
    "module with a decoder": vae,
    "method": vae.decode,
    "function of a module": lambda z: vae.decode(z),
    "function that returns an array": lambda z: vae.decode(z).detach().numpy().reshape(-1, 1, 28, 28),
    "partial": partial(vae.decode, scale=1.0),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_vae_in_every_form(form: Any) -> None:
    generator = as_generator(form)
    assert (generator.z_dim, generator.image_shape, (generator.low, generator.high)) == (20, (1, 28, 28), (0.0, 1.0))
    z = generator.prior(3)
    assert torch.allclose(generator(z).flatten(1), vae.decode(z) * 2 - 1, atol=1e-6)
    # The weights belong to the generator: they are frozen, moved and counted.
    assert len(list(generator.parameters())) == 6
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_latents_of_convolutions_and_other_types() -> None:
    generator = as_generator(DCGAN().double())
    assert (generator.z_dim, generator.image_shape) == (10, (3, 8, 8))
    assert "latent_shape=[10,1,1]" in generator.found
    assert (generator.low, generator.high) == (-1.0, 1.0)


def test_bytes_and_a_size_that_is_told() -> None:
    weights = torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    generator = as_generator(lambda z: ((z @ weights).tanh() + 1) * 127, z_dim=4)
    assert (generator.image_shape, generator.high) == ((3, 4, 4), 255.0)
    assert as_generator(lambda z: (z @ weights).tanh(), z_dim=4, image_shape=(1, 6, 8)).image_shape == (1, 6, 8)


def test_a_generator_stays_what_it_is() -> None:
    generator = ModuleGenerator(nn.Sequential(nn.Linear(2, 48), nn.Tanh()), 2, (3, 4, 4))
    assert as_generator(generator) is generator
    assert as_generator("cifar10").z_dim == 128


def test_what_a_function_computes_with_is_its_identity() -> None:
    first, second = nn.Linear(4, 48), nn.Linear(4, 48)
    same = [identity_of(as_generator(lambda z: first(z).tanh())) for _ in range(2)]
    assert same[0] == same[1]
    assert identity_of(as_generator(lambda z: second(z).tanh())) != same[0]
    assert identity_of(as_generator(lambda z: first(z).sin())) != same[0]


def test_a_function_moves_with_its_networks() -> None:
    networks = [nn.Linear(2, 3), nn.Linear(3, 4)]
    one, two = networks
    module = FunctionModule(lambda z: two(one(z)))
    assert set(module.parts) == set(networks)
    assert module.double()(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64
    assert isinstance(FunctionModule(np.asarray)(torch.zeros(2)), Tensor)


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        (
            lambda z: z.tanh(),
            {},
            "set z_dim to the right number, or latent_shape to the shape of one latent. These are arguments of lace.as",
        ),
        (Wrong(), {}, "for latents of 4: shape '[-1, 3, 9, 9]' is invalid"),
        (Wrong(), {}, "`return self.net(z).reshape(-1, 3, 9, 9)`"),
        (Wrong(), {"z_dim": 5}, "must take latents of the shape (2, 5)"),
        (
            nn.Sequential(nn.Linear(3, 100), nn.Linear(100, 200)),
            {},
            "set image_shape to [channels, height, width]",
        ),
        (nn.Linear(3, 192), {}, "set output_range to the lowest and the highest value and clamp to true"),
        (nn.Linear(3, 192), {"z_dim": 3.5}, "z_dim"),
        (7, {}, "received int: give one of these"),
    ],
)
def test_what_cannot_be_found_is_asked_for(form: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LaceError, match=re.escape(words)):
        as_generator(form, **options)

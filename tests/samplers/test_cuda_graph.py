"""A captured field is the field."""

from __future__ import annotations

import pytest
import torch

import lace_lightning as lace
from lace_lightning.energies import Energy
from lace_lightning.samplers import ODE, Langevin
from lace_lightning.samplers.cuda_graph import evaluation_of


class Bowl(Energy):
    """E = Σ u⁴/4, whose gradient is u³."""

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return u.pow(4).sum(1) / 4


def test_on_a_processor_nothing_is_captured() -> None:
    u = torch.randn(3, 2)
    evaluation = evaluation_of(Bowl(), u)
    for scale in (1.0, 2.0):
        torch.testing.assert_close(evaluation(scale * u)[1], (scale * u) ** 3)


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", [ODE(), Langevin()])
def test_on_a_gpu_a_captured_field_gives_the_samples_of_the_processor(sampler) -> None:
    generator = lace.load_generator("cifar10")
    classifier = lace.load_classifier("cifar10")
    z = generator.prior(16, seed=0)
    here = sampler(classifier.energy("label == ship").pullback(generator.mapping), z, seeds=torch.arange(16))
    generator.cuda()
    classifier.cuda()
    there = sampler(classifier.energy("label == ship").pullback(generator.mapping), z.cuda(), seeds=torch.arange(16))
    torch.testing.assert_close(there.z.cpu(), here.z, atol=1e-2, rtol=1e-2)

"""Heun on the shipped generator and classifier, beside the answer of tight tolerances."""

from __future__ import annotations

import torch

import lace_lightning as lace
from lace_lightning.samplers import ODE, Heun


def test_heun_needs_at_most_17_evaluations_for_the_result_of_dopri5() -> None:
    generator, classifier = lace.load_generator("cifar10"), lace.load_classifier("cifar10")
    count = 100
    target = torch.arange(count) % 10
    free = lace.Labels.constant(classifier.schema, count, label=target.float())
    energy = classifier.energy("label == *", free=free).pullback(generator.mapping)
    z = generator.prior(count, seed=7)
    quick, tight = Heun()(energy, z), ODE(atol=1e-5, rtol=1e-5, time="s")(energy, z)
    assert quick.evaluations <= 17
    # Both end where the class is as probable by the classifier, and near each other on the scale of the way travelled.
    right = [(classifier(generator.mapping(sample.z)).argmax(1) == target).float().mean() for sample in (quick, tight)]
    assert abs(float(right[0] - right[1])) <= 0.01
    energies = [energy(sample.z).mean() for sample in (quick, tight)]
    assert abs(float(energies[0] - energies[1])) < 0.1
    assert (quick.z - tight.z).norm(dim=1).mean() < 0.25 * (tight.z - z).norm(dim=1).mean()

"""Samplers and synthesis beside a plain implementation (torchdiffeq adjoint, autograd through everything).

Run: python benchmarks/bench_sampling.py [--samples 64] [--rounds 5]
"""

from __future__ import annotations

import argparse

import torch
from common import machine, side_by_side, table
from torch import Tensor, nn
from torchdiffeq import odeint_adjoint

import lace_lightning as lace
from lace_lightning import samplers, seeds
from lace_lightning.generators.stylegan2 import read_stylegan2
from lace_lightning.generators.stylegan2_networks import StyleGAN2Network

BETA_MIN, BETA_MAX = 0.1, 20.0


class PlainField(nn.Module):
    """The field of LACE-ODE (Eq. 7) the obvious way: a fresh graph at each call, through the mapping as trained and the classifier."""

    def __init__(self, generator: nn.Module, classifier: nn.Module, target: Tensor) -> None:
        super().__init__()
        self.generator, self.classifier, self.target = generator, classifier, target
        self.evaluations = 0

    def log_prob(self, z: Tensor) -> Tensor:
        logits = self.classifier(self.generator.mapping(z))  # equalised learning rates are multiplied in at every call
        return logits.log_softmax(1).gather(1, self.target[:, None])[:, 0]

    def forward(self, t: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        self.evaluations += 1
        z = state[0]
        with torch.enable_grad():
            z = z.requires_grad_(True)
            gradient = torch.autograd.grad(self.log_prob(z).sum(), z)[0]
        return (-0.5 * (BETA_MIN + t * (BETA_MAX - BETA_MIN)) * gradient,)


def plain_ode(field: PlainField, z: Tensor) -> Tensor:
    """Integrate from t = 1 to 0 with dopri5 behind the adjoint wrapper."""
    times = torch.tensor([1.0, 0.0], device=z.device)
    (path,) = odeint_adjoint(field, (z.clone(),), times, atol=1e-3, rtol=1e-3, method="dopri5")
    return path[-1].detach()


def plain_langevin(field: PlainField, z: Tensor, num_steps: int = 100) -> Tensor:
    """LACE-LD (Eq. 2) with the prior inside the graph."""
    for _ in range(num_steps):
        z = z.detach().requires_grad_(True)
        objective = field.log_prob(z) - 0.5 * z.square().sum(1)
        z = z + 0.01 * torch.autograd.grad(objective.sum(), z)[0] + 0.01 * torch.randn_like(z)
    return z.detach()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = lace.load_generator("cifar10").to(device)
    classifier = lace.load_classifier("cifar10").to(device)
    state, settings = read_stylegan2("cifar10_generator")
    trained = StyleGAN2Network(**settings["network"]).to(device).eval().requires_grad_(False)
    trained.load_state_dict(state)
    print(machine())
    for count in options.samples:
        z = generator.prior(count, seed=0).to(device)
        target = (torch.arange(count) % 10).to(device)
        labels = lace.Labels(classifier.schema, target[:, None].float(), torch.ones_like(target, dtype=torch.bool)[:, None])
        energy = classifier.energy("label == *", free=labels).pullback(generator.mapping)
        plain = PlainField(trained, classifier, target)
        identity = torch.arange(count)
        ours = {
            "ode (dopri5, 1e-3)": samplers.ODE(),
            "heun": samplers.Heun(),
            "euler 1e-2": samplers.Euler(),
            "ld": samplers.Langevin(),
            "pc N=100": samplers.PredictorCorrector(),
        }
        variants = {
            "plain field": lambda plain=plain, z=z: plain(torch.tensor(0.5), (z.clone(),)),
            "field": lambda energy=energy, z=z: energy.value_and_grad(z),
        }
        table(f"One field evaluation, {count} samples", side_by_side(variants, options.rounds), "plain field")
        variants = {"plain ode": lambda plain=plain, z=z: plain_ode(plain, z),
                    "plain ld": lambda plain=plain, z=z: plain_langevin(plain, z)}
        for name, sampler in ours.items():
            variants[name] = lambda s=sampler, e=energy, z=z, i=identity: s(e, z, seeds=i)
        if count <= 256:
            with torch.no_grad():
                w = generator.mapping(z)
            variants["synthesis of the same pictures"] = lambda w=w: generator.synthesis(w)
        table(f"Sampling {count} samples", side_by_side(variants, options.rounds), "plain ode")
    noise = {"torch.randn": lambda: torch.randn(4096, generator.z_dim),
             "per-sample seeds": lambda: seeds.normal(torch.arange(4096), (generator.z_dim,))}
    table("Noise, 4096 rows", side_by_side(noise, options.rounds), "torch.randn")


if __name__ == "__main__":
    main()

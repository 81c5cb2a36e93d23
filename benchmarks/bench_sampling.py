"""Field and samplers beside a plain implementation (torchdiffeq adjoint, autograd through everything), with the ACC of
both.

Run: python benchmarks/bench_sampling.py [--samples 64 4096] [--rounds 5] [--judge 2000]
"""

from __future__ import annotations

import argparse

import torch
from common import begin, side_by_side, table
from plain import PlainField, PlainGenerator, networks_of, plain_langevin, plain_ode, plain_predictor_corrector
from torch import Tensor

import lace_lightning as lace
from lace_lightning import samplers, seeds
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.generators import Generator
from lace_lightning.labelers import Labeler
from lace_lightning.portraits import PORTRAITS_SCHEMA

FLOWS = {
    "ode (dopri5, 1e-3)": samplers.ODE(),
    "heun": samplers.Heun(),
    "heun 0.1": samplers.Heun(0.1, 0.1),
    "heun 0.1, bfloat16": samplers.Heun(0.1, 0.1, precision="bfloat16"),
    "heun 0.1, first 0.2, bfloat16": samplers.Heun(0.1, 0.1, first_step=0.2, precision="bfloat16"),
    "bosh3": samplers.RungeKutta("bosh3"),
    "euler 1e-2": samplers.Euler(),
    "euler, cubic, 16": samplers.Euler(grid="cubic", num_steps=16),
    "euler, cubic, 10": samplers.Euler(grid="cubic", num_steps=10),
    "euler, cubic, 10, bfloat16": samplers.Euler(grid="cubic", num_steps=10, precision="bfloat16"),
    "gauss_newton": samplers.GaussNewton(),
}
EXACT = {
    "rejection": samplers.Rejection(),
    "heun + slice": samplers.Heun(corrector=samplers.EllipticalSlice(20)),
    "heun + hmc": samplers.Heun(corrector=samplers.HamiltonianMC(5)),
    "hmc": samplers.HamiltonianMC(),
    "annealed, 10 stages": samplers.Annealed(),
    "slice": samplers.EllipticalSlice(),
    "pcn": samplers.CrankNicolson(),
}


class OneClass:
    """The ten classes of CIFAR-10, in turn."""

    name = "CIFAR-10, label == *"
    trained = True

    def __init__(self, device: str) -> None:
        self.generator: Generator = lace.load_generator("cifar10").to(device)
        self.plain = PlainGenerator("cifar10_generator").to(device)
        self.classifier = lace.load_classifier("cifar10").to(device)

    def both(self, count: int) -> tuple[lace.energies.Energy, PlainField, Tensor]:
        """Return the energy, the plain field, and starting points."""
        z = self.generator.prior(count, seed=0, device=self.generator.device)
        self.target = (torch.arange(count) % 10).to(z.device)
        labels = lace.Labels.constant(self.classifier.schema, count, label=self.target.float())
        energy = self.classifier.energy("label == *", free=labels).pullback(self.generator.mapping)
        return energy, PlainField(self.plain, [(networks_of(self.classifier)[0], 0, 10, self.target)]), z


class FourAttributes(OneClass):
    """Four attributes of portraits, each with a network of its own (random weights: the cost is the same)."""

    name = "portraits, four attributes with separate networks"
    trained = False

    def __init__(self, device: str) -> None:
        self.generator = lace.load_generator("portraits_generator").to(device)
        self.plain = PlainGenerator("portraits_generator").to(device)
        self.schema = PORTRAITS_SCHEMA.part(["gender", "smile", "glasses", "age"])
        torch.manual_seed(0)
        self.classifier = (
            AttributeClassifier(self.schema, "w", "mlp", {"input_dim": self.generator.w_dim, "mode": "separate"})
            .to(device)
            .eval()
            .requires_grad_(False)
        )

    def both(self, count: int) -> tuple[lace.energies.Energy, PlainField, Tensor]:
        z = self.generator.prior(count, seed=0, device=self.generator.device)
        values = {"gender": 1.0, "smile": 1.0, "glasses": 1.0, "age": 0.7}
        energy = self.classifier.energy(" and ".join(f"{name} == {value:g}" for name, value in values.items()))
        conditions = [
            (
                network,
                0,
                attribute.num_logits if attribute.kind == "discrete" else 0,
                torch.full((count,), values[attribute.name], device=z.device),
            )
            for network, attribute in zip(networks_of(self.classifier), self.schema, strict=True)
        ]
        return energy.pullback(self.generator.mapping), PlainField(self.plain, conditions), z


def compare(what: OneClass, count: int, rounds: int) -> None:
    """Print the tables of one batch size."""
    energy, plain, z = what.both(count)
    identity = torch.arange(count)
    title = f"{what.name}: %s, {count} samples"
    table(
        title % "one field evaluation",
        side_by_side({"plain field": lambda: plain.gradient(z), "field": lambda: energy.value_and_grad(z)}, rounds),
        "plain field",
    )
    print(f"  largest difference {float((plain.gradient(z) + energy.value_and_grad(z)[1]).abs().max()):.2g}")
    rounds = min(rounds, 3) if count > 256 else rounds
    variants = {
        "plain ode": lambda: plain_ode(plain, z),
        **{name: (lambda s=s: s(energy, z)) for name, s in FLOWS.items()},
    }
    table(title % "flows", side_by_side(variants, rounds), "plain ode")
    difference = (plain_ode(plain, z) - samplers.ODE()(energy, z).z).abs()
    print(
        f"  largest and median difference of plain ode and ode {float(difference.max()):.2g}, "
        f"{float(difference.median()):.2g}"
    )
    if what.trained:
        frozen = {name: sampler.calibrated(energy, z) for name, sampler in EXACT.items()}
        variants = {
            "plain ode": lambda: plain_ode(plain, z),
            **{name: (lambda s=s: s(energy, z, seeds=identity)) for name, s in frozen.items()},
        }
        table(title % "exact samplers, steps calibrated before", side_by_side(variants, rounds), "plain ode")
    for name, ours, theirs in (
        ("euler", samplers.Euler(), lambda: plain_ode(plain, z, method="euler")),
        ("ld", samplers.Langevin(), lambda: plain_langevin(plain, z)),
        ("pc", samplers.PredictorCorrector(), lambda: plain_predictor_corrector(plain, z)),
    ):
        variants = {f"plain {name}": theirs, name: lambda s=ours: s(energy, z, seeds=identity)}
        table(title % name, side_by_side(variants, rounds), f"plain {name}")
        if name == "euler":
            print(f"  largest difference {float((theirs() - ours(energy, z).z).abs().max()):.2g}")


def accuracy(what: OneClass, count: int) -> None:
    """Print ACC of the plain solution and of every flow on the same starting points."""
    energy, plain, z = what.both(count)
    judge = Labeler("cifar10_judge").to(z.device)

    def acc(latents: Tensor) -> float:
        with torch.inference_mode():
            return float((judge(what.generator(latents)).argmax(1) == what.target).float().mean())

    print(f"\n{what.name}: ACC of {count} samples, evaluations")
    plain.evaluations = 0
    print(f"  {'plain ode':<30}  {acc(plain_ode(plain, z)):.4f}  {plain.evaluations:7.1f}")
    for name, sampler in FLOWS.items():
        sample = sampler(energy, z)
        print(f"  {name:<30}  {acc(sample.z):.4f}  {sample.evaluations:7.1f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--judge", type=int, default=2000, help="samples that ACC is measured on; 0 measures none")
    options = begin(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, several = OneClass(device), FourAttributes(device)
    for count in options.samples:
        for what in (one, several) if count <= 256 else (one,):
            compare(what, count, options.rounds)
    if options.judge:
        accuracy(one, options.judge)
    noise = {
        "torch.randn": lambda: torch.randn(4096, one.generator.z_dim),
        "per-sample seeds": lambda: seeds.normal(torch.arange(4096), (one.generator.z_dim,)),
    }
    table("Noise, 4096 rows", side_by_side(noise, options.rounds), "torch.randn")


if __name__ == "__main__":
    main()

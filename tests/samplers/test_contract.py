"""What every sampler promises, for each class of samplers: a new class needs a case in CASES."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from lace_lightning import samplers
from lace_lightning.energies import Discrete, Energy
from lace_lightning.errors import LaceError
from lace_lightning.samplers import (
    ODE,
    Annealed,
    Auto,
    Chain,
    CrankNicolson,
    EllipticalSlice,
    Euler,
    Filtered,
    FlatLangevin,
    Flow,
    GaussNewton,
    HamiltonianMC,
    Heun,
    Langevin,
    PredictorCorrector,
    Rejection,
    RungeKutta,
    Sampler,
    TunedChain,
)
from lace_lightning.samplers.ode import METHODS
from lace_lightning.seeds import normal

COUNT, DIM = 6, 5
SEEDS = torch.arange(100, 100 + COUNT)
# Base classes, which define no sampler by themselves.
ABSTRACT = {Sampler, Chain, TunedChain, Flow}


@dataclass
class Case:
    """A builder of a sampler, and which promises apply to what it builds.

    `evaluations` and `forward` are those of a sample, None where they depend on the samples.
    """

    build: Callable[[], Sampler]
    evaluations: float | None = None
    forward: float | None = 0.0
    # A sample depends on its batch: by a norm over the batch.
    coupled: bool = False
    # The states after every step; None where they depend on the samples.
    states: int | None = None


def positive(z: Tensor, places: Tensor) -> Tensor:
    return z[:, 1] > -1


CASES: dict[str, Case] = {
    "ODE": Case(ODE, coupled=True, states=1),
    "ODE with a fixed step": Case(lambda: ODE("rk4", step_size=0.1, time="s"), 4 * math.ceil(5.025 / 0.1), states=1),
    "Euler": Case(lambda: Euler(0.1), 10, states=10),
    "Euler on the cubic grid": Case(lambda: Euler(grid="cubic", num_steps=7), 7, states=7),
    "Heun": Case(lambda: Heun(chunk=4)),
    "RungeKutta": Case(lambda: RungeKutta("dopri5", 1e-2, 1e-2)),
    "GaussNewton": Case(lambda: GaussNewton(3), 6, states=3),
    "a flow with a corrector": Case(lambda: Heun(corrector=HamiltonianMC(2)), forward=None),
    "Langevin": Case(lambda: Langevin(8), 8, states=8),
    "FlatLangevin": Case(lambda: FlatLangevin(8), 8, states=8),
    "PredictorCorrector": Case(lambda: PredictorCorrector(25), 25, coupled=True, states=25),
    "PredictorCorrector of samples": Case(
        lambda: PredictorCorrector(25, 1, per_sample=True, refresh_score=True), 50, states=25
    ),
    "EllipticalSlice": Case(lambda: EllipticalSlice(6), 0, forward=None, states=6),
    "CrankNicolson": Case(lambda: CrankNicolson(6), 0, forward=None, states=6),
    "HamiltonianMC": Case(lambda: HamiltonianMC(6, num_leapfrogs=3), 24, forward=None, states=6),
    "Annealed": Case(lambda: Annealed(5, num_leapfrogs=2, num_slice_moves=2), 11, forward=None, states=7),
    "Rejection": Case(Rejection, 0, forward=None, states=1),
    "Filtered": Case(lambda: Filtered(check=positive), 0, forward=None),
    "Filtered chains": Case(lambda: Filtered(Annealed(4), check=positive), forward=None),
    "Auto": Case(Auto, 0, forward=None, states=1),
}
each = pytest.mark.parametrize("name", CASES)


class Affine(nn.Module):
    """z (B, 5) -> two logits (B, 2)."""

    def forward(self, z: Tensor) -> Tensor:
        f = torch.tanh(z) @ torch.linspace(-1.5, 2.0, DIM).to(z)
        return torch.stack([-f, f], 1)


def energy(count: int = COUNT) -> Energy:
    """Return an energy with a target of its own for each sample."""
    return Discrete(slice(0, 2), torch.arange(count) % 2).pullback(Affine())


def starts(dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(SEEDS, (DIM,), dtype=dtype)


def subclasses(kind: type) -> Iterator[type]:
    """Yield the classes of the package that derive from a class, and the class; those of examples are not of it."""
    if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind and kind.__module__.startswith(
        "lace_lightning"
    ):
        yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def test_every_class_has_a_case() -> None:
    covered = {type(case.build()) for case in CASES.values()}
    assert {kind.__name__ for kind in set(subclasses(Sampler)) - covered - ABSTRACT} == set()
    exported = {value for value in vars(samplers).values() if inspect.isclass(value) and issubclass(value, Sampler)}
    assert exported >= covered | ABSTRACT
    assert samplers.Checked is Filtered


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_samples_have_the_shape_and_type_of_their_starts(name: str, dtype: torch.dtype) -> None:
    z = starts(dtype=dtype)
    before = z.clone()
    sample = CASES[name].build()(energy(), z, SEEDS)
    assert sample.z.shape == z.shape
    assert sample.z.dtype == dtype
    assert bool(torch.isfinite(sample.z).all())
    assert not sample.z.requires_grad
    assert sample.trajectory is None
    assert sample.seconds > 0
    assert torch.equal(z, before)


@each
def test_a_run_is_repeated_by_its_seeds(name: str) -> None:
    sampler = CASES[name].build()
    first, second = sampler(energy(), starts(), SEEDS), sampler(energy(), starts(), SEEDS)
    assert torch.equal(first.z, second.z)
    if sampler.needs_noise:
        assert not torch.equal(first.z, sampler(energy(), starts(), SEEDS + 50).z)


@each
def test_a_sample_depends_on_its_own_seed_alone(name: str) -> None:
    # Enough samples for kernels to refuse some of their moves.
    case, count = CASES[name], 40
    seeds = torch.arange(count)
    energies, z = energy(count), normal(seeds, (DIM,))
    sampler = case.build().calibrated(energies, z)
    assert sampler.is_ready
    whole = sampler(energies, z, seeds).z
    halves = torch.cat([sampler(energies.rows(part), z[part], part).z for part in seeds.split(count // 2)])
    if case.coupled:
        assert not torch.equal(whole, halves)
    else:
        # Matrix products of 20 and of 40 rows may differ in rounding.
        torch.testing.assert_close(whole, halves, atol=1e-5, rtol=1e-5)


@each
def test_evaluations_are_counted(name: str) -> None:
    case, calls = CASES[name], {"gradient": 0, "forward": 0}

    class Counted(Energy):
        """The energy, which counts the rows that it is evaluated on."""

        def __init__(self, inner: Energy) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, u: Tensor) -> Tensor:
            calls["forward"] += len(u)
            return self.inner(u)

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            calls["gradient"] += len(u)
            return self.inner.value_and_grad(u)

        def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            value, gradient, rows = self.inner.curvature(u)
            calls["gradient"] += len(u) * (1 + rows.shape[1])
            return value, gradient, rows

        def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
            inner = change(self.inner)
            return self if inner is self.inner else Counted(inner)

    counted, z = Counted(energy()), starts()
    sampler = case.build().calibrated(counted, z)
    calls.update(gradient=0, forward=0)
    sample = sampler(counted, z, SEEDS)
    assert sample.evaluations == pytest.approx(calls["gradient"] / COUNT)
    assert sample.forward == pytest.approx(calls["forward"] / COUNT)
    assert sample.evaluations + sample.forward > 0
    if case.evaluations is not None:
        assert sample.evaluations == pytest.approx(case.evaluations)
    if case.forward is not None:
        assert sample.forward == pytest.approx(case.forward)


@each
def test_the_trajectory_ends_at_the_sample(name: str) -> None:
    case = CASES[name]
    sampler = case.build().calibrated(energy(), starts())
    plain, sample = sampler(energy(), starts(), SEEDS), sampler(energy(), starts(), SEEDS, trajectory=True)
    assert sample.trajectory is not None
    assert sample.trajectory.shape[1:] == sample.z.shape
    torch.testing.assert_close(sample.trajectory[-1], sample.z)
    torch.testing.assert_close(sample.z, plain.z, atol=1e-5, rtol=1e-5)
    assert case.states is None or len(sample.trajectory) == case.states


@each
def test_the_settings_build_an_equal_sampler(name: str) -> None:
    sampler = CASES[name].build()
    for built in (sampler, sampler.calibrated(energy(), starts())):
        settings = built.settings()
        assert settings.keys() <= inspect.signature(type(built)).parameters.keys()
        assert repr(type(built)(**settings)) == repr(built)
        assert repr(eval(repr(built), dict(vars(samplers)))) == repr(built)


@each
def test_it_runs_inside_inference_mode(name: str) -> None:
    sampler = CASES[name].build()
    outside = sampler(energy(), starts(), SEEDS).z
    with torch.inference_mode():
        inside = sampler(energy(), starts(), SEEDS.clone()).z
    torch.testing.assert_close(inside, outside)


@each
def test_wrong_input_is_refused(name: str) -> None:
    sampler = CASES[name].build()
    for z in (torch.zeros(DIM), torch.zeros(2, 3, DIM), torch.zeros(0, DIM)):
        with pytest.raises(LaceError, match=r"shape \(B, D\)"):
            sampler(energy(), z, torch.arange(len(z)))
    with pytest.raises(LaceError, match="one seed for each sample, received 2 for 6"):
        sampler(energy(), starts(), SEEDS[:2])
    if sampler.needs_noise or sampler.corrector is not None:
        with pytest.raises(LaceError, match="give seeds"):
            sampler(energy(), starts())


@pytest.mark.parametrize("method", METHODS)
def test_torchdiffeq_has_the_methods_that_are_listed(method: str) -> None:
    if method == "scipy_solver":
        pytest.importorskip("scipy")
    options = {} if method in samplers.ode.ADAPTIVE else {"step_size": 0.1}
    path = odeint(lambda t, y: -y, torch.ones(1, 2), torch.tensor([0.0, 1.0]), method=method, options=options)
    torch.testing.assert_close(path[-1], torch.full((1, 2), math.exp(-1)), atol=0.05, rtol=0)
    assert method in repr(ODE(method))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(LaceError, match="Did you mean 'dopri5'"):
        ODE("dopri55")


def test_settings_that_do_not_decide_a_result_are_left_out() -> None:
    assert "chunk" not in RungeKutta(chunk=7).settings()
    assert repr(RungeKutta(corrector=EllipticalSlice(2), precision="bfloat16")).endswith(
        "precision='bfloat16', corrector=EllipticalSlice(num_steps=2, max_shrinks=30))"
    )
    assert "atol" not in Heun(atol=torch.ones(3)).settings()
    assert "method" not in Heun().settings()

"""Samplers beside trajectories that were recorded from the reference implementation."""

from __future__ import annotations

import pytest
import torch

from lace_lightning.energies import Continuous, Discrete, Energy, PaperNot, PaperOr
from lace_lightning.samplers import ODE, Euler, Heun, Langevin, PredictorCorrector
from lace_lightning.schema import Labels
from lace_lightning.seeds import normal

from ..oracles import CLASSES, PORTRAITS, OneByOne, Oracle, on_z


@pytest.fixture(scope="module")
def recorded(shared_dir) -> Oracle:
    return Oracle(shared_dir / "oracles" / "lace_classes.npz")


@pytest.fixture(scope="module")
def attributes(shared_dir) -> Oracle:
    return Oracle(shared_dir / "oracles" / "lace_attributes.npz")


@pytest.fixture(scope="module")
def energy(recorded: Oracle) -> Energy:
    labels = Labels(CLASSES, recorded["y"][:, None].float())
    return recorded.classifier("clf", "linear", CLASSES).energy("label == *", free=labels).pullback(recorded.mapping(2))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_dopri5(recorded: Oracle, energy: Energy, tolerance: float) -> None:
    sample = ODE(atol=tolerance, rtol=tolerance)(energy, recorded["z"])
    name = f"ode_dopri5_{'0.001' if tolerance == 1e-3 else '1e-05'}"
    if tolerance == 1e-3:
        assert sample.evaluations == float(recorded[f"{name}_nfe"])
        torch.testing.assert_close(
            torch.tensor(sample.diagnostics["times"]), recorded[f"{name}_t_evals"].float(), atol=1e-3, rtol=1e-3
        )
        torch.testing.assert_close(sample.z, recorded[f"{name}_z"], atol=1e-3, rtol=0)
    else:
        # At this tolerance rounding decides which steps are rejected.
        assert abs(sample.evaluations / float(recorded[f"{name}_nfe"]) - 1) < 0.1
        assert (sample.z - recorded[f"{name}_z"]).abs().mean() < 1e-3


def test_dopri5_with_fewer_samples(recorded: Oracle, energy: Energy) -> None:
    sample = ODE()(energy.rows(slice(0, 4)), recorded["z"][:4])
    assert sample.evaluations == float(recorded["ode_dopri5_0.001_nfe_first4"])
    torch.testing.assert_close(sample.z, recorded["ode_dopri5_0.001_z_first4"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("method", "step"), [("euler", "0.01"), ("rk4", "0.05"), ("midpoint", "0.02"), ("euler", "0.002"), ("rk4", "0.01")]
)
def test_fixed_steps(recorded: Oracle, energy: Energy, method: str, step: str) -> None:
    name = f"ode_{method}_{step}"
    sample = ODE(method, step_size=float(step))(energy, recorded["z"])
    assert sample.evaluations == float(recorded[f"{name}_nfe"])
    torch.testing.assert_close(sample.z, recorded[f"{name}_z"], atol=1e-3, rtol=0)
    if method == "euler":
        own = Euler(step_size=float(step))(energy, recorded["z"])
        torch.testing.assert_close(own.z, recorded[f"{name}_z"], atol=1e-3, rtol=0)


def test_langevin(recorded: Oracle, energy: Energy) -> None:
    noise = recorded["sgld_noise"]
    sampler = Langevin(int(recorded["sgld_n_steps"]), float(recorded["sgld_lr"]), float(recorded["sgld_std"]))
    sample = sampler(energy, recorded["z"], noise=lambda k, like: noise[k], trajectory=True)
    torch.testing.assert_close(sample.z, recorded["sgld_z"], atol=1e-4, rtol=0)
    assert sample.evaluations == 100


@pytest.mark.parametrize(("steps", "corrections"), [(100, 2), (50, 0)])
def test_predictor_corrector(recorded: Oracle, energy: Energy, steps: int, corrections: int) -> None:
    name = f"vpsde_N{steps}_c{corrections}"
    noise = recorded[f"{name}_noise"]
    sampler = PredictorCorrector(steps, corrections, float(recorded[f"{name}_snr"]))
    sample = sampler(energy, recorded["z"], noise=lambda k, like: noise[k], trajectory=True)
    torch.testing.assert_close(sample.z, recorded[f"{name}_z"], atol=1e-3, rtol=0)


def _terms(attributes: Oracle) -> list[Energy]:
    ys = attributes["ys"]
    return [
        Discrete(PORTRAITS.slices[a.name], ys[:, i])
        if a.kind == "discrete"
        else Continuous(PORTRAITS.slices[a.name], ys[:, i])
        for i, a in enumerate(PORTRAITS)
    ]


CONDITIONS = {
    "02": lambda e: e[0] & e[2],
    "expr[0*1]": lambda e: PaperOr(e[0], e[1]),
    "expr[0+(-1)]": lambda e: e[0] & PaperNot(e[1]),
    "expr[(0+1)*(2+(-3))]": lambda e: PaperOr(e[0] & e[1], e[2] & PaperNot(e[3])),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_euler_on_several_attributes(attributes: Oracle, name: str) -> None:
    energy = on_z(CONDITIONS[name](_terms(attributes)), OneByOne(attributes), attributes.mapping(8, 0.7))
    step = float(attributes[f"ode_euler_{name}_h"])
    sample = ODE("euler", step_size=step, end=attributes.meta["euler_t_end"])(energy, attributes["z"])
    assert sample.evaluations == float(attributes[f"ode_euler_{name}_nfe"])
    torch.testing.assert_close(sample.z, attributes[f"ode_euler_{name}_z"], atol=1e-3, rtol=0)


def test_heun_is_as_good_as_tight_dopri5_in_17_evaluations(recorded: Oracle) -> None:
    classifier, mapping = recorded.classifier("clf", "linear", CLASSES), recorded.mapping(2)
    target = torch.arange(300) % 10
    z = normal(torch.arange(300), (64,))
    energy = classifier.energy("label == *", free=Labels(CLASSES, target[:, None].float())).pullback(mapping)
    tight, quick = ODE(time="s", atol=1e-5, rtol=1e-5)(energy, z), Heun()(energy, z)
    assert quick.evaluations <= 17
    accuracy = [float((classifier(mapping(sample.z)).argmax(1) == target).float().mean()) for sample in (tight, quick)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.002
    assert abs(float(torch.exp(-energy(tight.z)).mean() - torch.exp(-energy(quick.z)).mean())) < 0.002
    error = (quick.z - tight.z).norm(dim=1) / (tight.z - z).norm(dim=1)
    assert float(error.median()) < 0.12

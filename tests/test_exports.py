"""Exported graphs give the numbers of the program, for any number of rows, without its code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lace_lightning import load_classifier, load_generator
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.commands import run_command
from lace_lightning.errors import LaceError
from lace_lightning.exports import FixedFlow, export, recorded
from lace_lightning.generators import StyleGAN2Generator, StyleGAN2Network
from lace_lightning.numerics.normal import log_ndtr
from lace_lightning.numerics.recording import exporting
from lace_lightning.samplers import Euler, GaussNewton, Heun
from lace_lightning.schema import Attribute, Schema
from lace_lightning.systems.lace import EnergyOptions

SCHEMA = Schema("s", (Attribute("hat"), Attribute("color", num_classes=3), Attribute("age", "continuous")))


@pytest.fixture
def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    network = StyleGAN2Network(4, 6, img_resolution=8, synthesis_kwargs={"channel_base": 32})
    return StyleGAN2Generator(network, truncation=0.7)


@pytest.fixture
def classifier() -> AttributeClassifier:
    torch.manual_seed(1)
    return AttributeClassifier(SCHEMA, "w", "mlp", {"input_dim": 6, "hidden": [8]}).requires_grad_(False)


def flow(generator, classifier, query: str, steps: int = 2, **options) -> FixedFlow:
    return FixedFlow(
        generator,
        classifier,
        query,
        Euler(grid="cubic", num_steps=steps),
        EnergyOptions(**{"target": "controlled", **options}),
    )


def run_onnx(path: Path, *inputs: torch.Tensor) -> list[torch.Tensor]:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    given = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, given)]


def test_a_flow_is_that_of_its_sampler(generator, classifier) -> None:
    z = generator.prior(5, seed=2)
    made = flow(generator, classifier, "hat == 1 or age > 0.4", steps=12)
    energy = classifier.energy("hat == 1 or age > 0.4", weight=6.0).pullback(generator.mapping)
    expected = made.sampler(energy, z.clone()).z
    torch.testing.assert_close(made(z)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_recorded_flow_needs_no_automatic_differentiation_and_takes_any_number_of_rows(generator, classifier):
    generator.precision = "auto"  # bfloat16 on some processors
    made = flow(generator, classifier, "hat == * and not age == 0.2", steps=1)
    program = recorded(made)
    assert not any("autograd" in str(node.target) for node in program.graph.nodes)
    assert "bfloat16" not in str(program.graph_module.graph)
    for rows in (1, 5):
        z, free = generator.prior(rows, seed=1), torch.ones(rows, 1)
        with exporting():
            expected = made(z, free)
        for received, wanted in zip(program.module()(z, free), expected, strict=True):
            torch.testing.assert_close(received, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("query", ["age > 0.5 and color != 1", "hat == *"])
def test_onnx_runs_a_flow_as_the_program_does(generator, classifier, query: str, tmp_path: Path) -> None:
    made = flow(generator, classifier, query, steps=1)
    path = export(made, tmp_path / "flow.onnx")
    z = generator.prior(4, seed=3)
    inputs = (z, torch.tensor([[0.0], [1.0], [1.0], [0.0]])) if made.free else (z,)
    for received, wanted in zip(run_onnx(path, *inputs), made(*inputs), strict=True):
        torch.testing.assert_close(received, wanted, atol=1e-4, rtol=1e-4)
    about = {entry.key: entry.value for entry in pytest.importorskip("onnx").load(path).metadata_props}
    assert json.loads(about["lace"])["query"] == query


def test_the_shipped_networks_become_onnx(tmp_path: Path, capsys) -> None:
    generator, classifier = load_generator("cifar10", precision="float32"), load_classifier("cifar10")
    run_command("export", [str(tmp_path / "generator.onnx")])
    assert "generator.onnx: 4.4 MB" in capsys.readouterr().out
    z = generator.prior(3, seed=0)
    torch.testing.assert_close(run_onnx(tmp_path / "generator.onnx", z)[0], generator(z), atol=1e-4, rtol=0)
    run_command("export", [str(tmp_path / "classifier.onnx"), "--classifier", "cifar10"])
    w = generator.mapping(z)
    expected = classifier(w).detach()
    torch.testing.assert_close(run_onnx(tmp_path / "classifier.onnx", w)[0], expected, atol=1e-4, rtol=1e-4)


def test_torch_compile_gives_the_same_pictures(generator) -> None:
    z = generator.prior(3, seed=0)
    torch.testing.assert_close(torch.compile(generator, backend="aot_eager")(z), generator(z), atol=1e-5, rtol=0)


def test_recording_leaves_the_caches_of_the_program_as_they_were(generator, classifier) -> None:
    recorded(flow(generator, classifier, "hat == 1", steps=1))
    assert torch.isfinite(generator(generator.prior(2))).all()


def test_the_logarithm_of_the_normal_distribution_function_is_exact_in_exported_graphs() -> None:
    x = torch.cat([torch.linspace(-40, 5, 2001), torch.tensor([-2.0001, -1.9999])]).requires_grad_()
    exact = torch.special.log_ndtr(x.detach().double())
    with exporting():
        value = log_ndtr(x)
    torch.testing.assert_close(value.double(), exact, atol=1e-7, rtol=1e-5)
    (slope,) = torch.autograd.grad(value.sum(), x)
    # φ(x)/Φ(x)
    wanted = torch.exp(-x.detach().double().square() / 2 - exact) / (2 * torch.pi) ** 0.5
    torch.testing.assert_close(slope.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": Heun()}, "needs a sampler whose steps are fixed, and Heun"),
        ({"sampler": GaussNewton()}, "needs a sampler whose steps are fixed, and GaussNewton"),
        ({"options": EnergyOptions(target="hard")}, "cannot sample the hard target"),
        ({"query": "cap == 1"}, "cap"),
    ],
)
def test_what_has_no_fixed_flow_is_refused(generator, classifier, change, message: str) -> None:
    with pytest.raises(LaceError, match=message):
        FixedFlow(generator, classifier, **{"query": "hat == 1", **change})


def test_wrong_endings_and_missing_parts_are_refused(generator, tmp_path: Path) -> None:
    with pytest.raises(LaceError, match=r"ends in \.onnx or \.pt2, received 'network.pth'"):
        export(generator, tmp_path / "network.pth")
    with pytest.raises(LaceError, match="give --classifier"):
        run_command("export", [str(tmp_path / "flow.onnx"), "--query", "label == ship"])
    assert not list(tmp_path.iterdir())

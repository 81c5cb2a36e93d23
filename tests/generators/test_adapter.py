"""Modules, functions, TorchScript and ONNX files as generators: priors, shapes, ranges, classes and refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from lace_lightning import LaceError
from lace_lightning.generators import (
    ModuleGenerator,
    check_generator,
    function_generator,
    onnx_generator,
    script_generator,
)
from lace_lightning.generators.priors import NormalPrior, TruncatedPrior, UniformPrior, prior_of


def decoder(*last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 64), *last)


@pytest.mark.parametrize(
    ("prior", "exact"),
    [
        (NormalPrior(0.5, 2), stats.norm(0.5, 2)),
        (UniformPrior(-1, 3), stats.uniform(-1, 4)),
        (TruncatedPrior(-2, 2), stats.truncnorm(-2, 2)),
        (TruncatedPrior(3, 5, 0.5), stats.truncnorm(3, 5, scale=0.5)),
    ],
)
def test_a_prior_is_the_inverse_distribution_function_of_our_own_numbers(prior: Any, exact: Any) -> None:
    z = torch.linspace(-4, 4, 81, dtype=torch.float64)
    wanted = exact.ppf(stats.norm.cdf(z.numpy()))
    torch.testing.assert_close(prior(z).numpy(), wanted, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradcheck(prior, z[20:60:4].clone().requires_grad_())
    # Far numbers stay within the bounds, in the type that was given.
    far = prior(torch.tensor([-50.0, 50.0]))
    assert far.dtype == torch.float32
    low, high = exact.support()
    assert float(far[0]) >= low - 1e-6
    assert float(far[1]) <= high + 1e-6


def test_the_module_gets_latents_of_its_own_prior() -> None:
    received: list[Tensor] = []

    class Keeping(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            received.append(z)
            return z.reshape(-1, 1, 2, 2)

    generator = ModuleGenerator(Keeping(), 4, (1, 2, 2), prior={"name": "uniform", "low": -1, "high": 1})
    z = generator.prior(4000, seed=3)
    generator(z)
    assert generator.has_w is False
    assert torch.equal(received[-1], UniformPrior()(z))
    assert stats.kstest(received[-1].flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    # Sample i depends on seed i alone.
    assert torch.equal(generator(generator.prior(2, seed=3, first=7)), generator(z)[7:9])


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        ("gamma", "must be normal, uniform, truncated with its arguments"),
        ({"name": "uniform", "low": 1, "high": 1}, "bounds of a prior must be in their order, received 1 and 1"),
        ({"name": "uniform", "scale": 2}, "The prior 'uniform' takes low, high, received 'scale'"),
        ({"name": "normal", "scale": 0}, "prior.scale of a generator must be a finite number above 0, received 0"),
        ({"name": "truncated", "low": -9}, "must lie within 8 standard deviations"),
        ({"low": 1}, "such as {name: uniform, low: -1, high: 1}"),
    ],
)
def test_other_priors_are_refused(prior: Any, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        prior_of(prior)


def test_sizes_and_range_are_found_and_said() -> None:
    generator = ModuleGenerator(decoder(nn.Sigmoid()), output_range="auto")
    check_generator(generator)
    assert generator.found == ["z_dim=5", "image_shape=[1,8,8]", "output_range=[0,1]"]
    assert generator.describe()["range"] == [0.0, 1.0]
    given = ModuleGenerator(decoder(nn.Sigmoid()), 5, (1, 8, 8), output_range=(0, 1))
    assert given.found == []
    assert given.digest == generator.digest
    assert torch.equal(given(given.prior(3)), generator(given.prior(3)))
    assert ModuleGenerator(decoder(nn.Tanh()), output_range="auto").found[-1] == "output_range=[-1,1]"


def test_latents_and_w_of_any_shape() -> None:
    torch.manual_seed(0)
    module = nn.Module()
    module.first = nn.Conv2d(4, 6, 1)
    module.last = nn.Sequential(nn.ConvTranspose2d(6, 1, 2, 2), nn.Tanh())
    generator = ModuleGenerator(module, latent_shape=[4, 3, 3], mapping="first", synthesis="last")
    check_generator(generator)
    assert (generator.z_dim, generator.w_dim, generator.image_shape) == (36, 54, (1, 6, 6))
    z = generator.prior(2)
    assert torch.equal(generator(z), module.last(module.first(z.reshape(2, 4, 3, 3))))
    same = ModuleGenerator(module, 36, (1, 6, 6), 54, "first", "last", reshape=[6, 3, 3], latent_shape=[4, 3, 3])
    assert same.digest == generator.digest


def test_the_class_of_a_sample_follows_from_its_seed_and_every_class_is_as_likely() -> None:
    seen: list[Tensor] = []

    class Classes(nn.Module):
        def forward(self, z: Tensor, chosen: Tensor) -> Tensor:
            seen.append(chosen)
            return (z.mean(1) + chosen).tanh()[:, None, None, None].expand(-1, 1, 4, 4)

    generator = ModuleGenerator(Classes(), 2, (1, 4, 4), condition={"classes": 4})
    assert generator.z_dim == 6
    z = generator.prior(8000, seed=1)
    generator(z)
    counts = torch.bincount(seen[-1], minlength=4)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    # A query steers it: the largest of the last numbers is the class.
    z[:, 2:] = torch.tensor([0.0, 0.0, 9.0, 0.0])
    generator(z)
    assert seen[-1].unique().tolist() == [2]


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = decoder(nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))

    def pair(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z, self.net(z)

    def table(self, z: Tensor) -> dict[str, Tensor]:
        return {"mean": z, "sample": self.net(z)}

    def named(self, z: Tensor) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(sample=self.net(z))


@pytest.mark.parametrize(("synthesis", "output"), [("pair", 1), ("table", "sample"), ("named", "sample")])
def test_the_picture_in_what_a_module_returns(synthesis: str, output: int | str) -> None:
    module = Outputs()
    generator = ModuleGenerator(module, 5, synthesis=synthesis, output=output)
    z = generator.prior(2)
    assert torch.equal(generator(z), module.net(z))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"synthesis": "table"}, "Outputs.table returns a table of mean, sample: set output to the number or the name"),
        ({"synthesis": "pair", "output": 2}, "Outputs.pair returns a tuple of 2, which has no tensor 2"),
        ({"latent_shape": [2, 2]}, r"\(latent_shape\) must have 5 numbers, as z_dim or w_dim says, received \[2, 2\]"),
        ({"latent_shape": "5"}, r"\(latent_shape\) must have 5 numbers"),
        ({"synthesis": "net", "condition": {"classes": 1}}, "condition.classes of a generator must be a whole number"),
        ({"mapping": "pair", "condition": {"classes": 3}}, "set condition to a class number"),
        ({"synthesis": "net", "output_range": "wide"}, r"such as \[-1, 1\] or \[0, 1\], or auto, received wide"),
    ],
)
def test_what_does_not_fit_is_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LaceError, match=words) as caught:
        ModuleGenerator(Outputs(), 5, **options)
    assert "\n" not in str(caught.value)


def test_a_part_of_a_file_by_key_and_prefix(tmp_path: Path) -> None:
    first, second = decoder(), decoder()
    with torch.no_grad():
        second[0].weight.mul_(2)
    state = {f"old.{k}": v for k, v in first.state_dict().items()}
    state |= {f"new.{k}": v for k, v in second.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vae.ckpt")
    with pytest.raises(LaceError, match="holds 2"):
        ModuleGenerator(decoder(), 5, (1, 8, 8), checkpoint=str(tmp_path / "vae.ckpt"))
    options = {"checkpoint": str(tmp_path / "vae.ckpt"), "checkpoint_key": "state_dict", "clamp": True}
    for prefix, wanted in (("old", first), ("new.", second)):
        generator = ModuleGenerator(decoder(), 5, (1, 8, 8), checkpoint_prefix=prefix, **options)
        assert torch.equal(generator.module[0].weight, wanted[0].weight)


def test_a_function_a_program_and_its_module_make_the_same_pictures(tmp_path: Path) -> None:
    module = decoder(nn.Sigmoid())
    torch.jit.script(module).save(str(tmp_path / "decoder.pt"))
    exact = ModuleGenerator(module, output_range="auto")
    z = exact.prior(3, seed=2)
    for generator in (function_generator(lambda z: module(z)), script_generator(tmp_path / "decoder.pt")):
        check_generator(generator)
        assert (generator.z_dim, generator.image_shape, generator.low) == (5, (1, 8, 8), 0.0)
        torch.testing.assert_close(generator(z), exact(z))
        assert generator.digest != exact.digest


def test_functions_of_other_source_have_other_digests() -> None:
    def first(z: Tensor) -> Tensor:
        return z.tanh().reshape(-1, 1, 2, 2)

    def second(z: Tensor) -> Tensor:
        return z.sin().reshape(-1, 1, 2, 2)

    options = {"z_dim": 4, "image_shape": (1, 2, 2), "output_range": (-1, 1)}
    assert function_generator(first, **options).digest != function_generator(second, **options).digest


def test_a_function_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(LaceError, match=r"generator.function must be the name of a Python function .* 'nothing.draw'"):
        function_generator("nothing.draw")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of clip(z·M, -1, 1) as pictures (B, 1, 2, 2), and z beside it, which was written by hand."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    matrix = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["z", "m"], ["flat"]),
        helper.make_node("Clip", ["flat", "low", "high"], ["bounded"]),
        helper.make_node("Reshape", ["bounded", "shape"], ["picture"]),
        helper.make_node("Identity", ["z"], ["same"]),
    ]
    constants = {"m": matrix, "low": np.float32(-1), "high": np.float32(1), "shape": np.array([-1, 1, 2, 2])}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("z", kinds.FLOAT, ["batch", 3])],
        [
            helper.make_tensor_value_info("picture", kinds.FLOAT, ["batch", 1, 2, 2]),
            helper.make_tensor_value_info("same", kinds.FLOAT, ["batch", 3]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("onnx") / "toy.onnx"
    onnx.save(model, str(path))
    np.save(path.with_suffix(".npy"), matrix)
    return path


def test_an_onnx_file_is_computed_without_gradients(onnx_file: Path) -> None:
    generator = onnx_generator(onnx_file, output_range=(-1, 1))
    check_generator(generator)
    assert generator.found == ["z_dim=3", "image_shape=[1,2,2]"]
    z = generator.prior(5, seed=1)
    exact = (z @ torch.from_numpy(np.load(onnx_file.with_suffix(".npy")))).clamp(-1, 1).reshape(5, 1, 2, 2)
    torch.testing.assert_close(generator(z), exact)
    assert generator(z[:0]).shape == (0, 1, 2, 2)
    assert not generator.has_gradients
    with pytest.raises(LaceError, match=r"A gradient through the generator is required, and .* 'toy.onnx' has none"):
        generator(z.clone().requires_grad_())
    with pytest.raises(LaceError, match="one of its outputs picture, same, received 7"):
        onnx_generator(onnx_file, output=7)


def test_an_onnx_file_of_a_fixed_batch(onnx_file: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(onnx_file))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(tmp_path / "two.onnx"))
    whole, two = (onnx_generator(file, output_range=(-1, 1)) for file in (onnx_file, tmp_path / "two.onnx"))
    z = whole.prior(5)
    torch.testing.assert_close(two(z), whole(z))
    assert math.prod(two(z[:1]).shape) == 4


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), (b"no network", "onnxruntime cannot read")])
def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path, content: bytes | None, words: str) -> None:
    pytest.importorskip("onnxruntime")
    if content is not None:
        (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(LaceError, match=words):
        onnx_generator(tmp_path / "a.onnx")


def test_samplers_without_gradients_take_a_generator_without_them(onnx_file: Path) -> None:
    from lace_lightning.classifiers import AttributeClassifier
    from lace_lightning.query import parse
    from lace_lightning.samplers import CrankNicolson, EllipticalSlice, Heun, Rejection
    from lace_lightning.schema import Attribute, Schema
    from lace_lightning.systems.lace import LACE

    torch.manual_seed(0)
    generator, schema = onnx_generator(onnx_file, output_range=(-1, 1)), Schema("s", (Attribute("hat"),))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    of_pictures = AttributeClassifier(schema, "x", network)

    def of(classifier: AttributeClassifier, sampler: Any) -> LACE:
        lace = LACE(schema, sampler, space="z", arguments={"input_dim": 3})
        lace.classifier = classifier
        return lace.bind(generator)

    with pytest.raises(
        LaceError, match=r"Heun needs gradients through the generator .* set sampler=pcn, sampler=slice or"
    ):
        of(of_pictures, Heun())
    z = generator.prior(64)
    for sampler in (CrankNicolson(num_steps=20), EllipticalSlice(num_steps=20), Rejection()):
        assert not sampler.uses_gradient
        lace = of(of_pictures, sampler)
        drawn = lace.draw(parse("hat == 1", schema), z, torch.arange(64))
        chosen = [network(generator(latents)).detach().softmax(1)[:, 1].mean() for latents in (z, drawn.sample.z)]
        assert chosen[1] > chosen[0]
    # A classifier of latents needs no gradient of the pictures.
    latent = AttributeClassifier(schema, "z", "mlp", {"input_dim": 3, "hidden": []})
    of(latent, Heun()).draw(parse("hat == 1", schema), z, torch.arange(64))

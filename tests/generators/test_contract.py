"""What every generator promises, for each class of generators: a new class needs a case in CASES."""

from __future__ import annotations

import copy
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lace_lightning import generators
from lace_lightning.errors import LaceError
from lace_lightning.generators import (
    Generator,
    ModuleGenerator,
    StyleGAN2Generator,
    StyleGAN2Network,
    StyleGAN3Generator,
    StyleGAN3Network,
    check_generator,
)
from lace_lightning.pictures.convert import to_bytes

COUNT = 5
# Base classes, which define no generator by themselves.
ABSTRACT = {Generator}


class Decoder(nn.Module):
    """A network with conventions of its own: w (B, 6, 1, 1) -> pictures (B, 2, 4, 4) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.net = nn.Linear(4, 6), nn.ConvTranspose2d(6, 2, 4)

    def style(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(z))

    def draw(self, w: Tensor) -> Tensor:
        return torch.sigmoid(self.net(w))


def plain(**options: Any) -> Generator:
    layers = nn.Linear(4, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4))
    return ModuleGenerator(nn.Sequential(*layers), 4, (3, 4, 4), **options)


def adapted(**options: Any) -> Generator:
    names = {"mapping": "style", "synthesis": "draw", "reshape": (6, 1, 1)}
    return ModuleGenerator(Decoder(), 4, (2, 4, 4), 6, output_range=(0, 1), clamp=True, **names, **options)


class Conditional(nn.Module):
    """A network of latents (B, 2, 2) and class numbers or vectors that returns a table."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.classes = nn.Linear(4, 48), nn.Linear(3, 48)

    def forward(self, z: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        images = self.layer(z.flatten(1)) + 0.1 * self.classes(chosen)
        return {"sample": torch.sigmoid(images).unflatten(1, (3, 4, 4)), "latents": z}


def shaped(**options: Any) -> Generator:
    given = {"latent_shape": (2, 2), "prior": {"name": "truncated", "low": -3, "high": 2}, "output": "sample"}
    return ModuleGenerator(
        Conditional(), condition={"classes": 3, "one_hot": True}, output_range=(0, 1), **given, **options
    )


def like_trained(network: nn.Module) -> nn.Module:
    """Return the network with numbers in the places where an untrained one has zeros."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("noise_strength", "bias", "w_avg")):
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


def stylegan2(architecture: str = "skip", c_dim: int = 0, **options: Any) -> Generator:
    layers = {"channel_base": 64, "channel_max": 8, "architecture": architecture}
    mapping = {"num_layers": 2, "lr_multiplier": 1.0}
    network = StyleGAN2Network(4, 6, c_dim, 16, mapping_kwargs=mapping, synthesis_kwargs=layers)
    return StyleGAN2Generator(like_trained(network), **options)


def stylegan3(c_dim: int = 0, rotations: bool = False, **options: Any) -> Generator:
    layers = {"channel_base": 64, "channel_max": 4, "num_layers": 3, "margin_size": 2, "output_scale": 3.0}
    layers |= {"conv_kernel": 1, "use_radial_filters": True} if rotations else {}
    mapping = {"num_layers": 2, "lr_multiplier": 1.0}
    network = StyleGAN3Network(4, 6, c_dim, 16, 1, mapping_kwargs=mapping, synthesis_kwargs=layers)
    return StyleGAN3Generator(like_trained(network), **options)


@dataclass
class Case:
    """A builder of a generator, and the bound of differences by rounding between its pictures.

    A picture has numbers up to 1, so that the default bound is about a hundred units in the last place of float32.
    """

    build: Callable[..., Generator]
    bound: float = 1e-5


CASES: dict[str, Case] = {
    "ModuleGenerator": Case(plain),
    "ModuleGenerator with w": Case(adapted),
    "ModuleGenerator of shaped latents and drawn classes": Case(shaped),
    "StyleGAN2Generator": Case(stylegan2),
    "StyleGAN2Generator, residual": Case(lambda **o: stylegan2("resnet", noise="none", truncation=0.7, **o)),
    "StyleGAN2Generator, one output": Case(lambda **o: stylegan2("orig", truncation=0.7, truncation_cutoff=2, **o)),
    "StyleGAN2Generator, conditional": Case(lambda **o: stylegan2(c_dim=3, condition=1, **o)),
    # bfloat16 has 8 bits, and a picture is a sum over six layers.
    "StyleGAN2Generator in bfloat16": Case(lambda **o: stylegan2(precision="bfloat16", **o), 0.1),
    "StyleGAN3Generator": Case(stylegan3),
    "StyleGAN3Generator, rotations": Case(
        lambda **o: stylegan3(3, True, condition=[0.0, 0.5, 0.5], truncation=0.7, **o)
    ),
}
each = pytest.mark.parametrize("name", CASES)


def build(name: str, **options: Any) -> Generator:
    """Return the generator of a case, with the same weights at every call."""
    torch.manual_seed(3)
    return CASES[name].build(**options)


def close(name: str, received: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(received, expected, atol=CASES[name].bound, rtol=0)


def subclasses(kind: type) -> Iterator[type]:
    """Yield the classes of the package that derive from a class, and the class; those of examples are not of it."""
    if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind and kind.__module__.startswith(
        "lace_lightning."
    ):
        yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def test_every_class_has_a_case() -> None:
    for module in pkgutil.walk_packages(generators.__path__, "lace_lightning.generators."):
        importlib.import_module(module.name)
    covered = {type(build(name)) for name in CASES}
    assert {kind.__name__ for kind in set(subclasses(Generator)) - covered - ABSTRACT} == set()


@each
def test_shapes_are_as_declared(name: str) -> None:
    generator = build(name)
    z = generator.prior(COUNT, seed=1)
    w = generator.mapping(z)
    ws = generator.broadcast(w)
    images = generator(z)
    assert z.shape == (COUNT, generator.z_dim)
    assert w.shape == (COUNT, generator.w_dim)
    assert ws.shape == (COUNT, generator.num_ws, generator.w_dim)
    assert images.shape == (COUNT, *generator.image_shape)
    assert generator.has_layers == (generator.has_w and generator.num_ws > 1)
    assert generator.has_w or torch.equal(w, z)
    for count in (0, 1):
        assert generator(z[:count]).shape == (count, *generator.image_shape)
    assert generator.bytes_per_picture() >= images[0].nbytes


@each
def test_pictures_are_floating_and_from_minus_one_to_one(name: str) -> None:
    generator = build(name)
    # Latents far away too.
    images = generator(3 * generator.prior(40, seed=1))
    assert images.dtype == torch.float32
    assert float(images.min()) >= -1
    assert float(images.max()) <= 1
    # Pictures of one colour, or one picture for all latents, would pass most of the other tests.
    assert float(images.std((2, 3)).mean()) > 0.02
    assert float(images.std(0).mean()) > 0.02


@each
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    generator = build(name)
    z = generator.prior(COUNT, seed=1)
    whole = generator(z)
    close(name, torch.cat([generator(row[None]) for row in z]), whole)
    close(name, generator(z.flip(0)).flip(0), whole)
    # Others in its batch, of another size.
    mixed = torch.cat([z[:1], 10 * generator.prior(3, seed=2)])
    close(name, generator(mixed)[:1], whole[:1])
    parts = build(name, max_batch=2)
    close(name, parts(z), whole)
    assert [len(part) for part in parts.parts(parts.mapping(z))] == [2, 2, 1]


@each
def test_latents_of_float64_do_not_depend_on_their_batch(name: str) -> None:
    generator = build(name).double()
    z = generator.prior(COUNT, seed=1).double()
    whole = generator.mapping(z)
    assert whole.dtype == torch.float64
    rows = torch.cat([generator.mapping(row[None]) for row in z])
    torch.testing.assert_close(rows, whole, atol=1e-13, rtol=0)
    images = generator(z)
    assert images.is_floating_point()
    close(name, images.float(), build(name)(z.float()))


@each
def test_the_prior_depends_on_seed_and_number_alone(name: str) -> None:
    generator = build(name)
    whole = generator.prior(COUNT, seed=1)
    assert torch.equal(whole[2:4], generator.prior(2, seed=1, first=2))
    assert not torch.equal(whole, generator.prior(COUNT, seed=2))


@each
def test_calls_are_repeated_exactly(name: str) -> None:
    generator = build(name)
    z = generator.prior(COUNT, seed=1)
    before, state = z.clone(), torch.get_rng_state()
    first = generator(z)
    kept = first.clone()
    generator(generator.prior(2, seed=9))
    assert torch.equal(generator(z), kept)
    # Neither the latents, nor pictures that were returned, nor the global random numbers have changed.
    assert torch.equal(first, kept)
    assert torch.equal(z, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(copy.deepcopy(generator)(z), kept)
    assert torch.equal(build(name)(z), kept)
    with torch.inference_mode():
        close(name, generator(z), kept)


@each
def test_spaces_lead_to_the_same_pictures(name: str) -> None:
    generator = build(name)
    z = generator.prior(COUNT, seed=1)
    w, images = generator.mapping(z), generator(z)
    close(name, generator.synthesis(w), images)
    close(name, generator.synthesis(generator.broadcast(w)), images)
    close(name, generator.render(generator.broadcast(w)), images)
    assert generator.map_to("z") is None
    assert generator.map_to("w") is generator.mapping
    assert generator.map_to("x") is generator
    pictures = generator.pictures(w)
    assert pictures.dtype == torch.uint8
    # Rounding may lead to either of two neighbouring bytes.
    assert int((pictures.int() - to_bytes(images).int()).abs().max()) <= 1 + 128 * CASES[name].bound


@each
def test_gradients_reach_the_latents_and_no_weight(name: str) -> None:
    generator = build(name)
    with torch.inference_mode():
        generator(generator.prior(COUNT, seed=1))
    z = generator.prior(COUNT, seed=1).requires_grad_()
    images = generator(z)
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((images * weights).sum(), z, retain_graph=True)
    assert gradient.shape == z.shape
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.norm(dim=1) > 1e-3).all())
    (own,) = torch.autograd.grad((images * weights)[1].sum(), z)
    assert not own[[0, 2, 3, 4]].any()
    torch.testing.assert_close(own[1], gradient[1], atol=1e-4, rtol=1e-3)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in generator.parameters())
    close(name, images.detach(), generator(z.detach()))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.bound < 1e-3])
def test_gradients_are_those_of_the_pictures(name: str) -> None:
    generator = build(name)
    first, last = generator.prior(2, seed=1)
    weights = torch.randn(generator.image_shape, generator=torch.Generator().manual_seed(4))
    # The mean derivative between two latents is the difference of the pictures; leaky-ReLU and the clamp have kinks.
    steps = 128
    path = torch.lerp(first, last, (torch.arange(steps)[:, None] + 0.5) / steps).requires_grad_()
    (gradient,) = torch.autograd.grad((generator(path) * weights).sum(), path)
    slopes = gradient @ (last - first)
    with torch.no_grad():
        values = (generator(torch.stack([first, last])) * weights).sum((1, 2, 3))
    # The largest error that was measured is 0.01 of the mean slope.
    bound = 0.04 * float(slopes.abs().mean())
    torch.testing.assert_close(slopes.mean(), values[1] - values[0], atol=bound, rtol=0)


@each
def test_the_mapping_has_the_right_derivative_in_float64(name: str) -> None:
    mapping = build(name).double().mapping
    z = build(name).prior(3, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(mapping, z)
    if hasattr(mapping, "linearize"):
        w, vjp = mapping.linearize(z)
        weights = torch.randn(w.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        torch.testing.assert_close(w, mapping(z).detach())
        torch.testing.assert_close(vjp(weights), torch.autograd.grad((mapping(z) * weights).sum(), z)[0])


@each
def test_pictures_are_made_where_the_weights_are(name: str) -> None:
    generator = build(name)
    assert generator.device == torch.device("cpu")
    # A device without numbers shows on any machine that no tensor is left behind.
    generator.to("meta")
    images = generator(generator.prior(COUNT, device="meta"))
    assert generator.device == images.device == torch.device("meta")
    assert images.shape == (COUNT, *generator.image_shape)


@each
def test_the_digest_tells_settings_and_weights(name: str) -> None:
    first, second = build(name), build(name, max_batch=3)
    assert json.loads(json.dumps(first.describe()))["class"] == type(first).__name__
    assert first.digest == second.digest
    for space in ("z", "w", "x"):
        assert first.digest_for(space) == second.digest_for(space)
        assert len(first.digest_for(space)) == 16
    changed = build(name)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    assert changed.digest != first.digest
    assert changed.digest_for("w") != first.digest_for("w")


@each
def test_a_generator_that_is_not_as_declared_is_refused(name: str) -> None:
    generator = build(name)
    check_generator(generator)
    generator.train()
    with pytest.raises(LaceError, match="training mode"):
        check_generator(generator)
    generator.eval().requires_grad_(True)
    with pytest.raises(LaceError, match="requires gradients"):
        check_generator(generator)
    check_generator(generator.frozen())
    generator.w_dim += 1
    with pytest.raises(LaceError, match=r"mapping of .* must return the shape"):
        check_generator(generator)
    generator.w_dim -= 1
    generator.image_shape = (7, *generator.image_shape[1:])
    with pytest.raises(LaceError, match=r"synthesis of .* must return the shape"):
        check_generator(generator)


@each
def test_wrong_numbers_of_pictures_at_a_time_are_refused(name: str) -> None:
    for options, words in (({"max_batch": 0}, "max_batch must be"), ({"memory": 0.0}, "memory must be")):
        with pytest.raises(LaceError, match=words):
            build(name, **options)


@each
def test_pictures_that_are_not_finite_do_not_become_bytes(name: str) -> None:
    generator = build(name)
    w = generator.mapping(generator.prior(3))
    w[1] = float("nan")
    with pytest.raises(LaceError, match=r"1 of \d pictures of .* are NaN or infinite"):
        generator.pictures(w)

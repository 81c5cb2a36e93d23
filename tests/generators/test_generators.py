"""Frozen generators: spaces, truncation, adapters, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from lace_lightning.errors import LaceError
from lace_lightning.generators import ModuleGenerator, StyleGAN2Generator, check_generator, load_generator, sample_seeds
from lace_lightning.generators.stylegan2 import save_network
from lace_lightning.generators.stylegan2_networks import StyleGAN2Network

from .test_stylegan2_networks import FILES, load

CONFIG = {
    "z_dim": 8,
    "w_dim": 12,
    "img_resolution": 8,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}


@pytest.mark.parametrize("name", FILES)
def test_truncation_equals_the_reference(shared_dir: Path, name: str) -> None:
    network, recorded = load(shared_dir, name)
    for row in range(len(recorded["z"])):
        z, one = recorded["z"][row : row + 1], slice(row, row + 1)
        condition = recorded["c"][row].tolist() if network.c_dim else None
        generator = StyleGAN2Generator(network, truncation=0.7, condition=condition)
        w = generator.mapping(z)
        torch.testing.assert_close(
            w,
            recorded["w_psi0.7"][one] if recorded["w_psi0.7"].ndim == 2 else recorded["w_psi0.7"][one, 0],
            atol=2e-5,
            rtol=0,
        )
        ours = network.synthesis(generator.broadcast(w))
        torch.testing.assert_close(ours, recorded["img_const_psi0.7"][one], atol=1e-4, rtol=0)
        torch.testing.assert_close(generator.synthesis(w), ours.clamp(-1, 1), atol=0, rtol=0)
        partial = StyleGAN2Generator(network, truncation=0.5, truncation_cutoff=2, condition=condition)
        torch.testing.assert_close(
            partial.broadcast(partial.mapping(z)), recorded["ws_psi0.5_cutoff2"][one], atol=2e-5, rtol=0
        )


def test_save_and_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = StyleGAN2Network(**CONFIG).half().float()
    save_network(network, CONFIG, tmp_path / "g.safetensors", {"truncation": 0.8}, torch.float16)
    first, again = StyleGAN2Generator(network, truncation=0.8), load_generator(tmp_path / "g.safetensors")
    z = first.prior(5, seed=3)
    torch.testing.assert_close(first(z), again(z), atol=0, rtol=0)
    assert first.digest == again.digest
    assert first.digest != load_generator(tmp_path / "g.safetensors", truncation=0.7).digest
    check_generator(again)


def test_prior_depends_on_the_sample_number_alone() -> None:
    generator = StyleGAN2Generator(StyleGAN2Network(**CONFIG))
    whole = generator.prior(10, seed=4)
    assert torch.equal(whole[6:9], generator.prior(3, seed=4, first=6))
    assert not torch.equal(whole, generator.prior(10, seed=5))
    assert sample_seeds(2, 1, 3).tolist() == [2**32 + 3, 2**32 + 4]


def test_batches_change_no_picture() -> None:
    generator = StyleGAN2Generator(StyleGAN2Network(**CONFIG), max_batch=3)
    z = generator.prior(7)
    torch.testing.assert_close(generator(z), torch.cat([generator(row[None]) for row in z]), atol=1e-5, rtol=0)


class Decoder(nn.Module):
    """A user's network with its own conventions: latents (D, 1, 1), outputs in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ConvTranspose2d(6, 3, 4)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.net(z))

    def style(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z) * 2


def test_any_module_is_a_generator(tmp_path: Path) -> None:
    decoder = Decoder()
    torch.save(decoder.state_dict(), tmp_path / "d.pt")
    generator = ModuleGenerator(
        Decoder(),
        6,
        (3, 4, 4),
        mapping="style",
        reshape=(6, 1, 1),
        output_range=(0, 1),
        checkpoint=str(tmp_path / "d.pt"),
    )
    check_generator(generator)
    z = generator.prior(3)
    expected = decoder(torch.tanh(z)[:, :, None, None] * 2) * 2 - 1
    torch.testing.assert_close(generator(z), expected, atol=1e-6, rtol=0)
    assert generator.has_w
    plain = ModuleGenerator(Decoder(), 6, (3, 4, 4), reshape=(6, 1, 1), output_range=(0, 1))
    assert torch.equal(plain.mapping(z), z)


class Loud(nn.Module):
    def __init__(self, gain: float = 3.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z * self.gain)[:, :, None, None].expand(-1, -1, 4, 4)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ModuleGenerator(Loud(0.01), 3, (3, 4, 4), freeze=False), "'module.gain' requires gradients"),
        (lambda: ModuleGenerator(Loud(), 3, (3, 4, 4)), r"must lie in \[-1, 1\]"),
        (lambda: ModuleGenerator(Loud(float("nan")), 3, (3, 4, 4)), r"must lie in \[-1, 1\]"),
        (lambda: ModuleGenerator(Loud(0.01), 3, (3, 8, 8)), r"shape \(2, 3, 8, 8\)"),
        (lambda: ModuleGenerator(Loud(), 3, (3, 4, 4), mapping="stile"), "callable 'stile'"),
        (lambda: ModuleGenerator(Loud(), 3, (3, 4, 4), checkpoint="/nowhere.pt"), "does not exist"),
        (lambda: StyleGAN2Generator(StyleGAN2Network(**CONFIG), precision="half"), "precision must be one of"),
        (lambda: StyleGAN2Generator(StyleGAN2Network(c_dim=3, **CONFIG)), "conditional on 3"),
        (lambda: load_generator("cifar"), "shipped weights are"),
    ],
)
def test_what_is_no_generator_is_refused(build, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        check_generator(build())


class Half(nn.Module):
    """Takes and returns pictures by conventions of its own."""

    def __init__(self, dtype: torch.dtype = torch.float32, flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.flat = nn.Linear(4, 48).to(dtype), flat

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        images = torch.tanh(self.net(z))
        return images if self.flat else images.unflatten(1, (3, 4, 4))

    def pair(self, z: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self(z), None

    def conditional(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        shift = label[:, None] if label.ndim == 1 else label.sum(1, keepdim=True)
        return self(z + shift.to(z.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("flat", [False, True])
def test_modules_of_any_floating_type_and_of_flat_pictures(dtype: torch.dtype, flat: bool) -> None:
    generator = ModuleGenerator(Half(dtype, flat), 4, (3, 4, 4))
    check_generator(generator)
    z = generator.prior(3)
    images = generator(z)
    assert images.dtype == torch.float32
    expected = ModuleGenerator(Half(), 4, (3, 4, 4))(z)
    torch.testing.assert_close(images, expected, atol=0.02 if dtype.itemsize < 4 else 1e-6, rtol=0)


@pytest.mark.parametrize(("condition", "shift"), [(2, 2.0), ([0.5, 1.0], 1.5)])
def test_a_conditional_module(condition, shift: float) -> None:
    generator = ModuleGenerator(Half(), 4, (3, 4, 4), synthesis="conditional", condition=condition)
    check_generator(generator)
    z = generator.prior(3)
    torch.testing.assert_close(generator(z), Half()(z + shift))
    other = ModuleGenerator(Half(), 4, (3, 4, 4), synthesis="conditional", condition=0)
    assert generator.digest != other.digest


class Centred(nn.Module):
    """Pictures relative to their batch, whatever its order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 48)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.layer(z)
        return torch.tanh(x - x.mean(0)).unflatten(1, (3, 4, 4))


class Noisy(nn.Module):
    """Adds noise of its own: at every call, or by the place in the batch."""

    def __init__(self, by_place: bool) -> None:
        super().__init__()
        self.by_place = by_place

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        lot = torch.Generator().manual_seed(0) if self.by_place else None
        noise = torch.randn(len(z), 3, 4, 4, generator=lot)
        return torch.tanh(z.mean(1)[:, None, None, None] + 0.1 * noise)


class Broken(Loud):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        images = torch.tanh(super().forward(z))
        return torch.where(torch.arange(4) == 1, self.gain, images)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: ModuleGenerator(Half(), 4, (3, 4, 4), synthesis="pair"),
            r"Half\.pair returns a tuple of 2: set output to",
        ),
        (lambda: ModuleGenerator(Half(), 5, (3, 4, 4)), r"shape \(2, 5\), and Half does not \(.*\): set z_dim to"),
        (lambda: ModuleGenerator(Decoder(), 6, (3, 4, 4)), r"Decoder does not \(.*\): set z_dim .* or reshape to the"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), synthesis="conditional"), "label.*: set condition where it is"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), condition=1), r"and a condition, .*: set condition, z_dim, or"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), condition=-1), "class number from 0, a list of numbers"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), mapping="pair"), r"must return w as one tensor, and Half\.pair"),
        (
            lambda: ModuleGenerator(Half(), 4, (3, 4, 4), output_range=(1, 1)),
            r"lowest and its highest value, .* \[1, 1\]",
        ),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), output_range=(1,)), "output_range .* received .1.: correct it"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), output_range=(1, -1)), "output_range .* received"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), output_range=3), "output_range .* received 3"),
        (
            lambda: ModuleGenerator(Half(), 4, (3, 4, 4), output_range=(0, float("nan"))),
            "output_range .* finite number",
        ),
        (lambda: ModuleGenerator(Half(), 4, (3, 4)), "three numbers, channels, height and width"),
        (lambda: ModuleGenerator(Half(), 0, (3, 4, 4)), "z_dim of a generator must be a whole number from 1"),
        (lambda: ModuleGenerator(Half(), 4, (3, 4, 4), reshape=(5, 1)), r"must have 4 numbers, .* received \[5, 1\]"),
        (
            lambda: ModuleGenerator(Half(), 4, (3, 4, 4), w_dim=6),
            "without a mapping has w_dim = z_dim, received 6 and 4",
        ),
        (
            lambda: ModuleGenerator(Noisy(False), 4, (3, 4, 4)),
            r"same pictures .* between two calls: store the noise as",
        ),
        (lambda: ModuleGenerator(Noisy(True), 4, (3, 4, 4)), "must not depend on its place in a batch"),
        (lambda: ModuleGenerator(Centred(), 4, (3, 4, 4)), "or on other pictures"),
        (lambda: ModuleGenerator(Broken(float("nan")), 3, (3, 4, 4)), "96 of 96 values of two pictures are NaN or"),
        (lambda: ModuleGenerator(Broken(float("inf")), 3, (3, 4, 4)), "24 of 96 values of two pictures are NaN or"),
    ],
)
def test_what_a_module_does_not_do_is_one_sentence(build, words: str) -> None:
    with pytest.raises(LaceError, match=words) as caught:
        check_generator(build())
    assert "\n" not in str(caught.value)


def test_pictures_that_never_go_below_zero_are_said() -> None:
    bright = nn.Sequential(nn.Linear(4, 48), nn.Sigmoid(), nn.Unflatten(1, (3, 4, 4)))
    with pytest.warns(UserWarning, match=r"go from 0\.\d+ to 0\.\d+, .*: set output_range=\[0, 1\] unless"):
        check_generator(ModuleGenerator(bright, 4, (3, 4, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_generator(ModuleGenerator(bright, 4, (3, 4, 4), output_range=(0, 1)))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"gain": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(LaceError, match="not on the list of allowed names"):
        ModuleGenerator(Loud(), 3, (3, 4, 4), checkpoint=str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


def test_gradients_through_pictures_are_those_of_float32(tiny_generator) -> None:
    from lace_lightning.generators import StyleGAN2Generator

    z = tiny_generator.prior(3)
    gradients = []
    for precision in ("auto", "float32"):
        generator = StyleGAN2Generator(tiny_generator.network, precision=precision)
        x = z.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(generator(x).square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_what_a_w_looks_like_does_not_depend_on_truncation() -> None:
    network = StyleGAN2Network(**CONFIG)
    whole, half, cut = (
        StyleGAN2Generator(network, **options) for options in ({}, {"truncation": 0.5}, {"truncation_cutoff": 1})
    )
    assert whole.digest != half.digest
    assert whole.digest_for("w") == half.digest_for("w") == cut.digest_for("w") == whole.digest
    assert half.digest_for("z") == half.digest
    z = whole.prior(3)
    w = half.mapping(z)
    torch.testing.assert_close(whole.synthesis(w), half.synthesis(w))

"""The space of features: the output of a submodule of a generator, with gradients, and a classifier that reads it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lace_lightning as lace
from lace_lightning import LaceError
from lace_lightning.data import LatentPairsDataModule, make_pairs
from lace_lightning.data.online_pairs import FreshPairsDataModule
from lace_lightning.energies.base import linearize
from lace_lightning.examples import tiny_labeler
from lace_lightning.generators import Generator, ModuleGenerator, StyleGAN2Generator, StyleGAN2Network


class Decoder(nn.Module):
    """A network with a mapping and layers of all kinds of outputs; what lies behind the last of them must not run."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(4, 6)
        self.first = nn.Sequential(nn.Linear(6, 18), nn.Tanh(), nn.Unflatten(1, (2, 3, 3)))
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(18, 768), nn.Tanh(), nn.Unflatten(1, (3, 16, 16)))
        self.unused, self.runs = nn.Linear(1, 1), 0

    def draw(self, w: Tensor) -> Tensor:
        hidden = self.first(w)
        self.runs += 1
        return self.last(hidden)


def module_generator(features: str | None = "first", **options: object) -> ModuleGenerator:
    torch.manual_seed(0)
    return ModuleGenerator(Decoder(), 4, (3, 16, 16), 6, "style", "draw", features=features, **options)


def test_features_are_the_output_of_the_layer_and_end_there() -> None:
    generator = module_generator(max_batch=2)
    z = generator.prior(5, seed=1)
    network = generator.module
    exact = network.first(network.style(z)).flatten(1)
    before = network.runs
    torch.testing.assert_close(generator.map_to("features")(z), exact)
    torch.testing.assert_close(generator.features_of(generator.mapping(z)), exact)
    assert network.runs == before
    assert generator.size_of("features") == 18
    assert (generator.size_of("z"), generator.size_of("w")) == (4, 6)
    # No hook is left behind.
    assert generator(z).shape == (5, 3, 16, 16)


def test_gradients_of_features_are_those_of_autograd() -> None:
    generator = module_generator().double()
    z = generator.prior(3, seed=1).double()
    assert torch.autograd.gradcheck(generator.map_to("features"), z.clone().requires_grad_())
    values, vjp = linearize(generator.map_to("features"), z)
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    network, x = generator.module, z.clone().requires_grad_()
    (exact,) = torch.autograd.grad((network.first(network.style(x)).flatten(1) * weights).sum(), x)
    torch.testing.assert_close(vjp(weights), exact)


def stylegan2(**options: object) -> Generator:
    torch.manual_seed(0)
    network = StyleGAN2Network(4, 6, img_resolution=16, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    return StyleGAN2Generator(network, **options)


def test_a_block_of_stylegan2_is_computed_exactly_in_half_precision_too() -> None:
    generator = stylegan2(precision="bfloat16").with_features("synthesis.b8")
    z = generator.prior(3)
    exact = stylegan2().with_features("synthesis.b8").map_to("features")(z)
    assert generator.size_of("features") == 8 * 8 * 8
    torch.testing.assert_close(generator.map_to("features")(z), exact)


def test_the_digest_tells_the_layer_and_pictures_do_not_depend_on_it() -> None:
    plain, first, last = (module_generator(name) for name in (None, "first", "last.1"))
    assert plain.digest == first.digest
    assert len({generator.digest_for("features") for generator in (first, last)}) == 2
    assert last.with_features("first").digest_for("features") == first.digest_for("features")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("frist", r"such as style, first, .* received 'frist': correct generator.features. Did you mean 'first'\?"),
        ("unused", "'unused' is not run"),
        (None, "generator.features is null: set it, for example generator.features=decoder.2"),
    ],
)
def test_a_layer_that_gives_no_features_is_one_sentence(features: str | None, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        module_generator(features).size_of("features")


def test_stored_and_fresh_pairs_have_the_features_of_their_latents(tmp_path) -> None:
    generator, labeler = module_generator(), tiny_labeler()
    pairs = make_pairs(tmp_path, generator, labeler, 40, progress=False)
    data = LatentPairsDataModule(pairs, "features", 8, fractions=(0.2, 0.2), generator=generator)
    data.setup()
    every = torch.cat([data.parts[name][0] for name in ("train", "val", "test")])
    exact = generator.features_of(pairs.latents("w"))
    assert sorted(every.sum(1).tolist()) == pytest.approx(sorted(exact.sum(1).tolist()))
    fresh = FreshPairsDataModule(data, generator, labeler, 10)
    assert fresh.data.space == "features"
    with pytest.raises(LaceError, match="Features are computed by the generator of the pairs"):
        LatentPairsDataModule(pairs, "features").setup()


def test_a_classifier_of_features_is_fitted_and_edits_from_python(tmp_path) -> None:
    generator = module_generator("first")
    options = {"num_pairs": 200, "epochs": 1, "space": "features", "progress": False, "cache": tmp_path}
    classifier = lace.fit(generator, lambda x: x.mean((1, 2, 3)) > 0, "bright", **options)
    assert classifier.space == "features"
    assert classifier.generator == generator.digest_for("features")
    z = generator.prior(2)
    editor = lace.Editor(generator, classifier, lace.samplers.Heun())
    state = editor.apply(editor.begin(z), "bright == 1")
    assert state.ws.shape == (2, 1, 6)
    with pytest.raises(LaceError, match="was trained on the latents of generator"):
        lace.Editor(module_generator("last.1"), classifier, lace.samplers.Heun())

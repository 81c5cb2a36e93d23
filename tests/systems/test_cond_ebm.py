"""Conditional energies of pictures: networks, training, composition, samples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lace_lightning.data.batches import TensorBatches
from lace_lightning.energies import Energy
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.pixel_ebm.augmentation import Changes
from lace_lightning.systems.pixel_ebm.cond_ebm import CondEBM
from lace_lightning.systems.pixel_ebm.cond_ebm_network import (
    Attention,
    Modulated,
    ResidualEnergy,
    SpectralConv,
    SpectralEnergy,
    StandardConv,
)

HUE, SIZE, AGE = (
    Attribute("hue", "discrete", 3, ("red", "green", "blue")),
    Attribute("size"),
    Attribute("age", "continuous"),
)
ONE, SCHEMA = Schema("one", (HUE,)), Schema("many", (HUE, SIZE, AGE))
SMALL = {"filter_dim": 4, "stages": 1, "multiscale": False}
DRAWING = {
    "models": 1,
    "rounds": 2,
    "steps": 2,
    "refine": 2,
    "changes": {"crop": 0.5, "mirror": 0.5, "jitter_probability": 0.5, "blur": 0.5},
}


def _model(schema: Schema = ONE, **options) -> CondEBM:
    torch.manual_seed(0)
    defaults = {
        "network": SMALL,
        "chain": {"num_steps": 3},
        "buffer": {"size": 60},
        "shape": (3, 8, 8),
        "sampling": DRAWING,
        "changes": {"crop": 0.3, "mirror": 0.5, "jitter_probability": 0.8, "grey": 0.2},
        "repel_from": 20,
        "repel_points": 10,
    }
    model = CondEBM(schema, **{**defaults, **options})
    model.log_dict = lambda *_, **__: None
    return model


def _pictures(count: int = 32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    x = torch.randint(0, 60, (count, 3, 8, 8), generator=random)
    x[torch.arange(count), labels] += 180
    return x.byte(), labels[:, None].float()


def _fit(model: CondEBM, data: tuple[Tensor, ...], folder: Path, epochs: int, resume: str | None = None) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
        default_root_dir=folder,
    )
    trainer.fit(model, TensorBatches(data, 8, seed=0), ckpt_path=resume, weights_only=True)
    return trainer


class Linear(nn.Module):
    """E(x|c) = (a·condition)·mean(x) at two scales that differ by 1."""

    def __init__(self, *slopes: float) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes, dtype=torch.float64))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        energy = (condition.double() @ self.slopes) * x.double().mean((1, 2, 3))
        return torch.stack([energy, energy + 1], 1) / 2


def _linear() -> CondEBM:
    """An energy of hue and one of size whose values are known."""
    model = _model(SCHEMA)
    for energies in (model.energies, model.average, model.past):
        energies.networks = nn.ModuleList([Linear(1.0, 2.0, 4.0), Linear(-1.0, 3.0), Linear(5.0)])
    return model


# Networks


def test_the_published_network_has_its_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ResidualEnergy(10, 64).parameters()) == 6_643_044
    assert ResidualEnergy(10, 4)(torch.rand(2, 3, 32, 32), torch.eye(10)[:2]).shape == (2, 3)
    assert SpectralEnergy(10, 4)(torch.rand(2, 3, 32, 32), torch.eye(10)[:2]).shape == (2, 1)


def test_gain_one_and_bias_zero_are_no_condition() -> None:
    network, x, condition = ResidualEnergy(3, 4, 3), torch.rand(3, 3, 32, 32), torch.eye(3)
    assert not torch.allclose(network(x, condition), network(x))
    for module in network.modules():
        if isinstance(module, Modulated):
            nn.init.zeros_(module.map.weight)
            module.map.bias.data = torch.cat(
                [torch.ones(len(module.map.bias) // 2), torch.zeros(len(module.map.bias) // 2)]
            )
    torch.testing.assert_close(network(x, condition), network(x))
    # Whatever the biases of the maps: without weights for the labels, all labels are one.
    for module in network.modules():
        if isinstance(module, Modulated):
            nn.init.normal_(module.map.bias)
    torch.testing.assert_close(network(x, condition), network(x, condition.flip(0)))


def test_spectral_blocks_begin_without_condition() -> None:
    network, x = SpectralEnergy(3, 4).eval(), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(network(x, torch.eye(3)), network(x))


def test_filters_are_standardised() -> None:
    convolution, x = StandardConv(4), torch.rand(2, 4, 6, 6)
    before = convolution(x)
    with torch.no_grad():
        convolution.weight.mul_(3).add_(0.7)
    torch.testing.assert_close(convolution(x), before, atol=1e-2, rtol=1e-3)


def test_attention_begins_as_the_identity() -> None:
    x = torch.randn(2, 8, 4, 4)
    attention = Attention(8)
    assert torch.equal(attention(x), x)
    nn.init.ones_(attention.gamma)
    # Places may change places.
    order = torch.randperm(16)
    torch.testing.assert_close(
        attention(x.flatten(2)[:, :, order].view_as(x)), attention(x).flatten(2)[:, :, order].view_as(x)
    )


def test_spectral_filters_have_norm_one_unless_they_are_small() -> None:
    # The iteration of the norm converges slowly where two singular values are close.
    torch.manual_seed(0)
    for small in (False, True):
        convolution = SpectralConv(3, 4, 1, small)
        for scale in (0.1, 5.0):
            nn.init.normal_(convolution.weight, 0, scale)
            for _ in range(60):
                convolution(torch.rand(1, 3, 2, 2))
            applied = convolution(torch.eye(3)[:, :, None, None]).detach().squeeze().T
            largest = torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), 2)
            assert float(torch.linalg.matrix_norm(applied, 2)) == pytest.approx(
                float(largest.clamp(max=1)) if small else 1.0, rel=1e-3
            )


# Training


def test_equal_negatives_leave_no_gradient() -> None:
    model, x = _model(l2=0.0), torch.rand(4, 3, 8, 8)
    energies = model.energies(x, Labels(ONE, torch.tensor([[0.0], [1.0], [2.0], [0.0]])))
    loss = model.contrast(energies, energies)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-9 for p in model.energies.parameters())


def test_objectives_by_hand() -> None:
    positive, negative = torch.tensor([1.0, 3.0])[:, None, None], torch.tensor([0.0, math.log(3)])[:, None, None]
    values = {
        "cd": 2 - math.log(3) / 2,
        "logsumexp": 2 - math.log(3) / 4,
        "softplus": (math.log1p(math.e) + math.log1p(math.exp(3 - math.log(3)))) / 2,
    }
    for objective, value in values.items():
        assert float(_model(objective=objective, l2=0.0).contrast(positive, negative)) == pytest.approx(value, rel=1e-6)
        squares = 5 + math.log(3) ** 2 / 2
        assert float(_model(objective=objective, l2=2.0).contrast(positive, negative)) == pytest.approx(
            value + 2 * squares, rel=1e-6
        )


def test_ends_are_pulled_down_and_apart() -> None:
    model = _linear()
    model.hparams.update(kl=2.0, repel=0.5)
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    labels, others = Labels.constant(SCHEMA, 3, hue=1.0), torch.rand(7, 3, 8, 8, dtype=torch.float64)
    near = (x[:, None] - others[None]).flatten(2).norm(dim=2).amin(1).log().mean()
    loss = model.sampler_loss(x.requires_grad_(True), labels, others)
    # Of the mean over two scales, (E + E + 1)/4 is the energy.
    torch.testing.assert_close(loss, 2.0 * (x.mean() + 0.25) - 0.5 * near)
    loss.backward()
    assert all(p.grad is None for p in model.energies.parameters())
    assert x.grad.abs().sum() > 0


def test_what_is_not_known_has_no_energy() -> None:
    model, x = _model(SCHEMA), torch.rand(2, 3, 8, 8)
    codes = Labels(
        SCHEMA, torch.tensor([[1.0, 1.0, 0.5], [2.0, 0.0, 0.1]]), torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    )
    energies = model.energies(x, codes)
    assert (energies[~codes.known] == 0).all()
    torch.testing.assert_close(energies[0, 2], model.energies.networks[2](x[:1], torch.tensor([[0.5]]))[0])
    torch.testing.assert_close(energies[1, 1], model.energies.networks[1](x[1:], torch.tensor([[1.0, 0.0]]))[0])


def test_bytes_are_drawn_within_their_level() -> None:
    model, random = _model(), torch.Generator().manual_seed(0)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = model.numbers(images, random)
    assert torch.equal((x * 256).floor().byte(), images)
    assert 0 <= float(x.min()) <= float(x.max()) < 1
    torch.testing.assert_close(model.numbers(torch.tensor([-1.0, 0.0, 1.0]), random), torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl": 0.0, "repel": 0.0},
        {"kl_rows": 3},
        {"objective": "softplus"},
        {
            "network": {"name": "spectral", "filter_dim": 4},
            "buffer": {"size": 60, "replacement": "ring", "restart": 0.05},
            "changes": None,
            "chain": {"num_steps": 3, "step_size": 10.0, "noise_std": 0.005, "gradient_clip": 0.01},
        },
    ],
)
def test_every_mode_trains_and_keeps_its_chains(options: dict, tmp_path: Path) -> None:
    model = _model(snapshot_steps=3, **options)
    before = [p.clone() for p in model.energies.parameters()]
    _fit(model, _pictures(), tmp_path, 1)
    assert (len(model.buffer), int(model.batches), int(model.snapshots)) == (32, 4, 1)
    assert model.buffer.points.dtype == torch.uint8
    assert any(not torch.equal(a, b) for a, b in zip(before, model.energies.parameters(), strict=True))


def test_the_average_follows_and_its_past_is_kept(tmp_path: Path) -> None:
    model = _model(ema_decay=0.6, snapshot_steps=2, sampling={**DRAWING, "models": 2})
    names = dict(model.energies.named_parameters())
    states = [{name: p.detach().clone() for name, p in names.items()}]
    end = model.on_train_batch_end
    model.on_train_batch_end = lambda *a: (end(*a), states.append({n: p.detach().clone() for n, p in names.items()}))  # type: ignore
    assert len(model.models) == 1
    _fit(model, _pictures(), tmp_path, 1)
    expected, history = states[0], []
    for state in states[1:]:
        expected = {name: 0.6 * expected[name] + 0.4 * value for name, value in state.items()}
        history.append(expected)
    for name, value in model.average.named_parameters():
        torch.testing.assert_close(value, history[3][name])
    for name, value in model.past.named_parameters():
        torch.testing.assert_close(value, history[1][name])
    assert len(model.models) == 2


def test_a_resumed_training_goes_on_as_it_would_have(tmp_path: Path) -> None:
    data = _pictures(16)
    whole, half, rest = (_model(SCHEMA, snapshot_steps=1, repel_from=7) for _ in range(3))
    data = (data[0], torch.cat([data[1], (data[1] > 0).float(), data[1] / 3], 1))
    _fit(whole, data, tmp_path, 2)
    _fit(half, data, tmp_path, 1).save_checkpoint(tmp_path / "half.ckpt")
    _fit(rest, data, tmp_path, 2, str(tmp_path / "half.ckpt"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    assert not torch.equal(half.buffer.points, rest.buffer.points)


def test_training_gives_data_less_energy_than_other_labels_have(tmp_path: Path) -> None:
    model, data = _model(learning_rate=3e-3, gradient_norm=None), _pictures(48)
    _fit(model, data, tmp_path, 6)
    x, labels = data[0] / 256, data[1]
    with torch.no_grad():
        right, noise = (model.energies(points, Labels(ONE, labels)).mean() for points in (x, torch.rand_like(x)))
        wrong = model.energies(x, Labels(ONE, (labels + 1) % 3)).mean()
    assert float(right) < float(noise)
    assert float(right) < float(wrong)


# Composition


def _means(count: int = 4) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 3, 8, 8, dtype=torch.float64) * 2 - 1
    return x, ((x + 1) / 2).mean((1, 2, 3))


def test_queries_are_composed_exactly() -> None:
    """With E(hue) = (1, 2, 4)·m + ½ and E(size) = (-1, 3)·m + ½ for pictures of mean m."""
    (x, m), model = _means(), _linear()
    red, green, blue, small, big = (a * m + 0.5 for a in (1.0, 2.0, 4.0, -1.0, 3.0))

    def any_of(*energies: Tensor) -> Tensor:
        return -torch.stack([-energy for energy in energies]).logsumexp(0)

    for query, expected in {
        "hue == red": red,
        "hue == red and size == 1": red + big,
        "hue == red or hue == blue": any_of(red, blue),
        "not hue == green": any_of(red, blue),
        "hue != green and size == 0": any_of(red, blue) + small,
        "not (hue == red or size == 0)": any_of(green + big, blue + big),
        "hue == red or size == 1": any_of(red + small, red + big, green + big, blue + big),
        "age == 0.5 and not hue == red": 2.5 * m + 0.5 + any_of(green, blue),
    }.items():
        torch.testing.assert_close(model.energy(query)(x), expected, msg=query)


def test_queries_are_composed_as_published() -> None:
    (x, m), model = _means(), _linear()
    red, blue, big = (a * m + 0.5 for a in (1.0, 4.0, 3.0))
    for query, expected in {
        "hue == red and size == 1": red + big,
        "hue == red and not size == 1": red - 0.001 * big,
        "hue != red": -0.001 * red,
        "hue == red or hue == blue": -torch.logaddexp(-100 * red, -100 * blue) / 100,
    }.items():
        torch.testing.assert_close(model.energy(query, logic="paper")(x), expected, msg=query)


def test_free_values_are_given_for_each_sample() -> None:
    (x, m), model = _means(3), _linear()
    free = Labels.constant(SCHEMA, 3, hue=torch.tensor([0.0, 1.0, 2.0]), size=torch.tensor([1.0, 0.0, 1.0]))
    hue, size = torch.tensor([1.0, 2.0, 4.0]) * m + 0.5, torch.tensor([3.0, -1.0, 3.0]) * m + 0.5
    energy = model.energy("hue == * and size == *", free)
    torch.testing.assert_close(energy(x), hue + size)
    torch.testing.assert_close(energy.rows(torch.tensor([2, 0]))(x[[2, 0]]), (hue + size)[[2, 0]])
    energy = model.energy("hue != * and size == *", free)
    other = [(2, 4), (1, 4), (1, 2)]
    expected = torch.stack([-torch.logaddexp(-a * n, -b * n) for (a, b), n in zip(other, m, strict=True)]) + 0.5 + size
    torch.testing.assert_close(energy(x), expected)
    torch.testing.assert_close(energy.rows(slice(1, 3))(x[1:]), expected[1:])
    codes = model.sample(Labels(SCHEMA, free.values, free.known), torch.arange(3)).z
    asked = model.sample_query("hue == * and size == *", torch.arange(3), free).z
    torch.testing.assert_close(codes, asked)
    # Two of three classes of hue, both of size.
    assert model.sample_query("hue != red or size == 1 and hue == green", torch.arange(3)).evaluations == 6 * 4


@pytest.mark.parametrize(
    ("query", "logic"),
    [
        ("age < 0.5", "exact"),
        ("age < 0.5", "paper"),
        ("not age == 0.5", "exact"),
        ("hue == red and hue == blue", "exact"),
        ("hue == * or size == 1", "exact"),
        ("hue == red", "published"),
    ],
)
def test_queries_without_an_energy_are_refused(query: str, logic: str) -> None:
    with pytest.raises(LaceError):
        _model(SCHEMA).energy(query, logic=logic)


# Samples


@pytest.mark.parametrize("models", [1, 2])
def test_a_sample_depends_on_its_seed_and_code_alone(models: int, tmp_path: Path) -> None:
    model = _model(SCHEMA, sampling={**DRAWING, "models": models}).eval()
    model.snapshots += 1
    for p in model.past.parameters():
        p.mul_(1.3)
    codes = Labels(
        SCHEMA,
        torch.tensor([[0.0, 1.0, 0.2], [1.0, 0.0, 0.9], [2.0, 1.0, 0.5], [0.0, 1.0, 0.2]]),
        torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool(),
    )
    seeds = torch.tensor([5, 9, 2, 5])
    together = model.sample(codes, seeds)
    # Six steps on three attributes.
    assert together.evaluations == 6 * models * 3
    assert model.sample(codes[1:2], seeds[1:2]).evaluations == 6 * models
    assert float(together.z.abs().max()) <= 1
    torch.testing.assert_close(together.z[0], together.z[3])
    for i in range(4):
        torch.testing.assert_close(
            model.sample(codes[i : i + 1], seeds[i : i + 1]).z[0], together.z[i], atol=1e-5, rtol=1e-5
        )
    model.save(tmp_path / "ebm.safetensors")
    torch.testing.assert_close(CondEBM.load(tmp_path / "ebm.safetensors").sample(codes, seeds).z, together.z)
    with torch.inference_mode():
        torch.testing.assert_close(model.sample(codes[:], seeds.clone()).z, together.z)
        query = model.sample_query("hue == * or size == *", seeds.clone(), Labels(SCHEMA, codes.values.clone())).z
    assert query.shape == (4, 3, 8, 8)


def test_steps_are_shared_by_the_energies() -> None:
    """Two states of the same weights, each with half of the step, are one: as are two equal attributes."""
    model = _model(sampling={**DRAWING, "models": 2})
    codes, seeds = Labels.constant(ONE, 3, hue=1.0), torch.arange(3)
    one = model.sample(codes, seeds).z
    model.snapshots += 1
    assert len(model.models) == 2
    torch.testing.assert_close(model.sample(codes, seeds).z, one)


def test_chains_of_sampling_by_hand() -> None:
    """On E = m·slope with mean m the chain without noise and changes goes down by η·slope/(3·8·8) a step."""
    drawing = {"models": 1, "rounds": 1, "steps": 3, "refine": 2, "step_size": 10.0, "noise_std": 0.0}
    model, starts = _linear(), torch.zeros(2, 3, 8, 8)
    model.drawing = type(model.drawing)(**drawing)
    z = model.sample_query("hue == blue", torch.arange(2), starts=starts).z
    # In [-1, 1] twice as far as in [0, 1].
    torch.testing.assert_close(z, torch.full_like(z, -2 * 5 * 10.0 * 4 / 192).clamp(-1, 1))


def test_divergence_and_wrong_input_are_refused() -> None:
    with pytest.raises(LaceError, match="diverged at step 0"):
        _model(bound=1e-9).training_step(_pictures(4), 0)
    for wrong in (
        {"objective": "mse"},
        {"network": {"name": "unet"}},
        {"network": {"filter_dim": 0}},
        {"sampling": {"models": 3}},
        {"chain": {"num_steps": 0}},
        {"changes": {"crop": 0.0}},
    ):
        with pytest.raises(LaceError):
            _model(**wrong)
    with pytest.raises(LaceError, match="code 1 knows no attribute"):
        _model().sample(Labels(ONE, torch.zeros(2, 1), torch.tensor([[True], [False]])), torch.arange(2))


# Changes of pictures


def _u(count: int = 50) -> Tensor:
    return torch.rand(count, Changes.numbers, generator=torch.Generator().manual_seed(0))


def test_no_changes_are_the_identity_and_the_mirror_is_exact() -> None:
    x, u = torch.rand(50, 3, 8, 8), _u()
    assert torch.equal(Changes()(x, u), x)
    mirrored = Changes(mirror=0.4)(x, u)
    expected = torch.where((u[:, 4] < 0.4)[:, None, None, None], x.flip(-1), x)
    torch.testing.assert_close(mirrored, expected, atol=1e-5, rtol=0)


def test_crops_show_the_share_that_was_asked_for() -> None:
    """Of a ramp, a crop shows a ramp whose slope is its width."""
    x = torch.linspace(-1, 1, 33)[None, None, None].expand(400, 3, 33, 33) / 2 + 0.5
    u = _u(400)
    wide, high = (Changes(crop=0.25)(image, u) for image in (x, x.transpose(2, 3)))
    width = (wide[:, 0, :, 20] - wide[:, 0, :, 12]).mean(1) / (x[0, 0, 0, 20] - x[0, 0, 0, 12])
    height = (high[:, 0, 20] - high[:, 0, 12]).mean(1) / (x[0, 0, 0, 20] - x[0, 0, 0, 12])
    inside = (width < 0.99) & (height < 0.99)
    torch.testing.assert_close((width * height)[inside], (0.25 + 0.75 * u[:, 0])[inside], atol=1e-3, rtol=1e-3)
    assert float((width / height).max()) < 4 / 3 + 1e-3
    assert float((width / height).min()) > 3 / 4 - 1e-3


def test_colours_change_as_torchvision_changes_them() -> None:
    from torchvision.transforms.v2 import functional as V

    from lace_lightning.systems.pixel_ebm import augmentation as ours

    x = torch.rand(4, 3, 8, 8)
    x[0] = 0.3
    for change, theirs, strength in (
        (ours._brightness, V.adjust_brightness, 1.4),
        (ours._contrast, V.adjust_contrast, 0.6),
        (ours._saturation, V.adjust_saturation, 1.7),
        (ours._hue, V.adjust_hue, 0.3),
    ):
        torch.testing.assert_close(
            change(x, torch.full((4, 1, 1, 1), strength)), theirs(x, strength), atol=2e-3, rtol=0
        )
    torch.testing.assert_close(ours._blurred(x, torch.full((4, 1, 1, 1), 1.2)), V.gaussian_blur(x, [5, 5], [1.2, 1.2]))
    torch.testing.assert_close(Changes(grey=1.0)(x, _u(4)), V.rgb_to_grayscale(x, 3), atol=2e-3, rtol=0)


def test_a_grey_picture_of_one_channel_changes_as_one_of_three() -> None:
    changes = Changes(crop=0.5, mirror=0.5, jitter_probability=1.0, grey=0.5, blur=0.5)
    x, u = torch.rand(6, 1, 8, 8), torch.rand(6, changes.numbers)
    torch.testing.assert_close(changes(x, u).expand(-1, 3, -1, -1), changes(x.expand(-1, 3, -1, -1), u))


def test_each_picture_is_changed_by_its_own_numbers() -> None:
    x, u = torch.rand(50, 3, 8, 8), _u()
    changes = Changes(0.1, 0.5, jitter_probability=0.8, grey=0.2, blur=0.5)
    together = changes(x, u)
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    for i in range(0, 50, 10):
        torch.testing.assert_close(changes(x[i : i + 1], u[i : i + 1])[0], together[i])


def test_energies_are_energies() -> None:
    model = _model(SCHEMA)
    for query in ("hue == red", "hue == red or size == 1"):
        assert isinstance(model.energy(query), Energy)
        value, gradient = model.energy(query).value_and_grad(torch.rand(2, 3, 8, 8))
        assert (value.shape, gradient.shape) == ((2,), (2, 3, 8, 8))

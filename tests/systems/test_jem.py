"""JEM: what is true of its energies, its training and its samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lace_lightning.data.batches import TensorBatches
from lace_lightning.energies import Joint
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.pixel_ebm.jem import JEM
from lace_lightning.systems.pixel_ebm.jem_network import JEMNetwork

HUE, SIZE, AGE = (
    Attribute("hue", "discrete", 3, ("red", "green", "blue")),
    Attribute("size"),
    Attribute("age", "continuous"),
)
ONE, SCHEMA = Schema("one", (HUE,)), Schema("many", (HUE, SIZE, AGE))


def _model(schema: Schema = ONE, **options) -> JEM:
    torch.manual_seed(0)
    defaults = {
        "network": {"depth": 10, "widen": 1},
        "chain": {"num_steps": 2},
        "buffer": {"size": 60},
        "shape": (3, 8, 8),
        "warmup_steps": 1,
        "sampling": {"num_steps": 3},
        "learning_rate": 1e-3,
    }
    return JEM(schema, **{**defaults, **options})


def _pictures(count: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of one colour in one channel, with noise."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    x = torch.randint(0, 60, (count, 3, 8, 8), generator=random)
    x[torch.arange(count), labels] += 180
    return x.byte(), labels[:, None].float()


def _fit(
    model: JEM, data: tuple[torch.Tensor, ...], folder: Path, epochs: int, resume: str | None = None
) -> pl.Trainer:
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


def test_the_published_network_has_its_parameters() -> None:
    with torch.device("meta"):
        network = JEMNetwork(10, depth=28, widen=10, published=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 36_478_389
    assert len(network.state_dict()) == 62
    assert {
        "f.conv1.weight",
        "f.layer2.0.shortcut.0.weight",
        "f.layer3.3.conv2.bias",
        "f.linear.weight",
        "energy_output.bias",
        "class_output.weight",
    } <= set(network.state_dict())


def test_a_block_is_what_it_says_it_is() -> None:
    block = JEMNetwork(2, 10, 1).f.layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.shortcut[0].stride) == ((1, 1), (2, 2), (2, 2))
    for convolution in (block.conv1, block.conv2):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    # Without its branch, the block is its shortcut of the input as it is, negative values and all.
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), block.shortcut(x))


def test_bfloat16_is_near() -> None:
    network, x = JEMNetwork(3, 10, 1), torch.randn(4, 3, 8, 8)
    other = JEMNetwork(3, 10, 1, bf16=True)
    other.load_state_dict(network.state_dict())
    assert other(x).dtype == torch.float32
    torch.testing.assert_close(other(x), network(x), atol=5e-3, rtol=5e-2)


def test_logits_are_energies() -> None:
    """p(c|x) = exp(E(x) - E(x, c)), Σ_c exp(-E(x, c)) = exp(-E(x)),
    and a constant more on all logits moves E(x) alone.
    """
    f = torch.randn(5, 3, dtype=torch.float64)
    free = Joint(Labels.constant(ONE, 1))(f)
    each = torch.stack([Joint(Labels(ONE, torch.full((5, 1), float(c))))(f) for c in range(3)], 1)
    torch.testing.assert_close((free[:, None] - each).exp(), f.softmax(1))
    torch.testing.assert_close((-each).exp().sum(1), (-free).exp())
    torch.testing.assert_close(each, -f)
    shift = torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(Joint(Labels.constant(ONE, 1))(f + shift), free - shift[:, 0])
    torch.testing.assert_close((f + shift).softmax(1), f.softmax(1))


def test_the_gradient_of_the_marginal_is_the_mean_of_those_of_the_classes() -> None:
    model, x = _model().double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    p = model.network(x).softmax(1)
    _, gradient = model.joint().pullback(model.network).value_and_grad(x)
    each = [
        model.joint(Labels(ONE, torch.full((4, 1), float(c)))).pullback(model.network).value_and_grad(x)[1]
        for c in range(3)
    ]
    mean = sum(p[:, c, None, None, None] * each[c] for c in range(3))
    torch.testing.assert_close(gradient, mean.detach())


def test_what_is_not_known_is_summed_out() -> None:
    f = torch.randn(4, SCHEMA.num_logits, dtype=torch.float64)
    codes = Labels.constant(SCHEMA, 4, hue=1.0, age=0.3)
    both = [Joint(Labels.constant(SCHEMA, 4, hue=1.0, size=float(s), age=0.3))(f) for s in range(2)]
    torch.testing.assert_close((-Joint(codes)(f)).exp(), sum((-energy).exp() for energy in both))
    # An integral over the continuous one leaves a constant: E(x) does not see it.
    changed = f.clone()
    changed[:, 5] += 1
    torch.testing.assert_close(Joint(Labels.constant(SCHEMA, 1))(changed), Joint(Labels.constant(SCHEMA, 1))(f))
    with pytest.raises(LaceError, match="E\\(x\\) is constant"):
        _model(Schema("s", (AGE,)))


def test_an_energy_head_replaces_the_marginal_alone() -> None:
    f = torch.randn(4, 4)
    codes = Labels(ONE, torch.tensor([[0.0], [1.0], [2.0], [0.0]]))
    torch.testing.assert_close(Joint(Labels.constant(ONE, 1), energy_head=True)(f), -f[:, 3])
    difference = Joint(codes, energy_head=True)(f) - Joint(Labels.constant(ONE, 1), energy_head=True)(f)
    torch.testing.assert_close(difference, Joint(codes)(f) - Joint(Labels.constant(ONE, 1))(f))
    model = _model(network={"depth": 10, "widen": 1, "energy_head": True})
    model.log_dict = lambda *_, **__: None
    model.training_step(_pictures(6), 0).backward()
    assert model.network.energy_output.weight.grad.abs().sum() > 0


def test_a_query_on_codes_is_the_code() -> None:
    model, x = _model(SCHEMA), torch.randn(4, 3, 8, 8)
    codes = Labels.constant(SCHEMA, 4, hue=torch.tensor([0.0, 1.0, 2.0, 1.0]), size=1.0)
    query = model.energy("hue == * and size == 1", codes)
    torch.testing.assert_close(query(x), model.joint(codes).pullback(model.network)(x))


def test_equal_negatives_leave_no_gradient() -> None:
    model = _model(weights=(1.0, 0.0, 0.0), input_noise=0.0)
    model.log_dict = lambda *_, **__: None
    images, labels = _pictures(8)
    model.negatives = lambda *_: images / 127.5 - 1
    loss = model.training_step((images, labels), 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in model.network.parameters() if p.grad is not None) < 1e-6


def test_the_joint_objective_is_the_sum_of_the_others() -> None:
    """E(x, c) - E(x⁻, c⁻) = E(x) - log p(c|x) - (E(x⁻) - log p(c⁻|x⁻)), for every picture."""
    model, (images, labels) = _model(input_noise=0.0), _pictures(9)
    x, codes = images / 127.5 - 1, Labels(ONE, labels)
    u = model.network(x)
    torch.testing.assert_close(
        model.joint(codes)(u).mean(), model.joint()(u).mean() + model.classification_loss(u, codes)
    )


@pytest.mark.parametrize("options", [{"weights": (0.0, 0.0, 1.0)}, {"class_conditional": True}, {"separate": True}, {}])
def test_every_mode_trains_and_keeps_its_chains(options: dict, tmp_path: Path) -> None:
    model = _model(**options)
    before = model.buffer.points.clone()
    _fit(model, _pictures(), tmp_path, 1)
    assert int(model.batches) == 4
    assert model.buffer.blocks == (3 if options.get("class_conditional") or "weights" in options else 1)
    changed = (model.buffer.points != before).flatten(1).any(1)
    assert 10 < int(changed.sum()) <= 32


def test_chains_of_labels_stay_in_their_blocks() -> None:
    model = _model(SCHEMA, weights=(0.0, 0.0, 1.0))
    codes = Labels(SCHEMA, torch.tensor([[2.0, 1.0, 0.5]]).repeat(4, 1))
    before = model.buffer.points.clone()
    model.negatives(4, torch.Generator().manual_seed(0), codes)
    changed = (model.buffer.points != before).flatten(1).any(1).nonzero()[:, 0]
    assert model.buffer.blocks == 6
    # Class 2 of three and 1 of two is the last of six blocks of ten.
    assert set((changed // 10).tolist()) == {5}


def test_halves_serve_the_two_losses() -> None:
    model = _model(separate=True, input_noise=0.0, weights=(0.0, 1.0, 0.0))
    model.log_dict = lambda *_, **__: None
    images, labels = _pictures(8)
    labels[:4] = 99
    expected = model.classification_loss(model.network(images[4:] / 127.5 - 1), Labels(ONE, labels[4:]))
    torch.testing.assert_close(model.training_step((images, labels), 0), expected)


def test_a_resumed_training_goes_on_as_it_would_have(tmp_path: Path) -> None:
    data = _pictures()
    whole = _model(class_conditional=True)
    _fit(whole, data, tmp_path, 2)
    half = _model(class_conditional=True)
    _fit(half, data, tmp_path, 1).save_checkpoint(tmp_path / "half.ckpt")
    rest = _model(class_conditional=True, seed=0)
    _fit(rest, data, tmp_path, 2, str(tmp_path / "half.ckpt"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    assert not torch.equal(half.buffer.points, rest.buffer.points)


def test_accuracy_is_that_of_known_labels(tmp_path: Path) -> None:
    model, (images, labels) = _model(input_noise=0.0), _pictures(20)
    known = torch.arange(20)[:, None] < 13
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    figures = trainer.validate(model, TensorBatches((images, labels, known), 6), verbose=False)[0]
    u = model.network(images / 127.5 - 1).detach()
    assert figures["val_accuracy/hue"] == pytest.approx(float((u.argmax(1) == labels[:, 0])[:13].float().mean()))
    assert figures["val_energy"] == pytest.approx(float(-u.logsumexp(1).mean()), rel=1e-5)


def test_training_tells_classes_apart_and_data_from_noise(tmp_path: Path) -> None:
    model, data = _model(), _pictures(64)
    _fit(model, data, tmp_path, 8)
    x = data[0] / 127.5 - 1
    u = model.network(x).detach()
    assert float((u.argmax(1) == data[1][:, 0]).float().mean()) > 0.9
    noise = model.network(torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1).detach()
    assert float(model.joint()(u).mean()) < float(model.joint()(noise).mean()) - 0.5
    # A chain on E(x, c) goes where the classifier sees c, more than where it began.
    codes = Labels(ONE, (torch.arange(30) % 3)[:, None].float())
    model.drawing.chain.num_steps, model.drawing.start = 40, "noise"
    z = model.sample(codes, torch.arange(30)).z
    start = model.starts(codes, torch.arange(30))
    right = [float(model.network(points).log_softmax(1).gather(1, codes.values.long()).mean()) for points in (start, z)]
    assert right[1] > right[0] + 0.3


@pytest.mark.parametrize("sampling", [{"num_steps": 3}, {"num_steps": 3, "start": "noise"}, {"conditional": "sort"}])
def test_a_sample_depends_on_its_seed_and_code_alone(sampling: dict, tmp_path: Path) -> None:
    model = _model(SCHEMA, sampling=sampling, class_conditional=True).eval()
    codes = Labels(
        SCHEMA,
        torch.tensor([[0.0, 1.0, 0.2], [1.0, 0.0, 0.9], [2.0, 1.0, 0.5], [0.0, 1.0, 0.2]]),
        torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]]).bool(),
    )
    seeds = torch.tensor([5, 9, 2, 5])
    together = model.sample(codes, seeds)
    assert together.z.shape == (4, 3, 8, 8)
    assert float(together.z.abs().max()) <= 1
    torch.testing.assert_close(together.z[0], together.z[3])
    for i in range(4):
        torch.testing.assert_close(
            model.sample(codes[i : i + 1], seeds[i : i + 1]).z[0], together.z[i], atol=1e-5, rtol=1e-5
        )
    assert not torch.equal(model.sample(codes, seeds + 100).z, together.z)
    assert together.diagnostics["conditional"] == sampling.get("conditional", "chain")
    assert together.diagnostics.get("start", "buffer") == sampling.get("start", "buffer")
    model.save(tmp_path / "jem.safetensors")
    torch.testing.assert_close(JEM.load(tmp_path / "jem.safetensors").sample(codes, seeds).z, together.z)
    with torch.inference_mode():
        torch.testing.assert_close(model.sample(codes[:], seeds.clone()).z, together.z)


def test_sorting_gives_what_the_classifier_takes_for_the_code(tmp_path: Path) -> None:
    model = _model(sampling={"conditional": "sort"}, buffer={"size": 64}).eval()
    model.buffer.points[:] = _pictures(64)[0] / 127.5 - 1
    # A classifier of the brightest channel.
    model.network.forward = lambda x: 5 * x.mean((2, 3))  # type: ignore[method-assign]
    codes = Labels(ONE, (torch.arange(9) % 3)[:, None].float())
    assert model.sample(codes, torch.arange(9)).z.mean((2, 3)).argmax(1).tolist() == [0, 1, 2] * 3
    # Where there is none, the likeliest.
    model.buffer.points[:] = torch.tensor([0.5, 0.0, -0.5])[:, None, None]
    model.buffer.points[7, 2] = 0.4
    assert torch.equal(model.sample(codes[2:3], torch.arange(1)).z[0], model.buffer.points[7])


def test_starts_and_the_buffer_renewed() -> None:
    model = _model(sampling={"num_steps": 1, "step_size": 1e-9, "noise_std": 0.0})
    starts = torch.rand(2, 3, 8, 8)
    codes = Labels.constant(ONE, 2, hue=1.0)
    torch.testing.assert_close(model.sample(codes, torch.arange(2), starts).z, starts)
    torch.testing.assert_close(model.sample_query("hue == green", torch.arange(2), starts=starts).z, starts)
    before = model.buffer.points.clone()
    model.renew_buffer(visits=3, num_steps=1, count=10, seed=1)
    assert (model.buffer.points != before).flatten(1).any(1).all()
    first = model.buffer.points.clone()
    model.renew_buffer(visits=3, num_steps=1, count=10, seed=1)
    assert torch.equal(first, model.buffer.points)
    assert model.chain.num_steps == 2


def test_published_files_are_read(tmp_path: Path) -> None:
    source = _model(network={"depth": 10, "widen": 1, "published": True}, buffer={"size": 12})
    file = tmp_path / "model.pt"
    torch.save({"model_state_dict": source.network.state_dict(), "replay_buffer": source.buffer.points + 1}, file)
    model = _model(network={"depth": 10, "widen": 1, "published": True}, buffer={"size": 12}, start=str(file))
    torch.testing.assert_close(model.buffer.points, source.buffer.points + 1)
    assert torch.equal(model.network.f.conv1.weight, source.network.f.conv1.weight)
    with pytest.raises(LaceError, match="published=true"):
        _model(start=str(file))


def test_divergence_and_wrong_input_are_refused() -> None:
    model = _model(bound=1e-3)
    model.log_dict = lambda *_, **__: None
    with pytest.raises(LaceError, match="diverged at step 0"):
        model.training_step(_pictures(4), 0)
    for wrong in (
        {"sampling": {"conditional": "sorted"}},
        {"sampling": {"start": "nowhere"}},
        {"weights": (0, 0, 0)},
        {"network": {"depth": 12}},
        {"buffer": {"size": 2}, "class_conditional": True},
    ):
        with pytest.raises(LaceError):
            _model(**wrong)
    with pytest.raises(LaceError, match="'size' was asked for"):
        model.sample(Labels.constant(SCHEMA, 1, size=1.0), torch.arange(1))
    with pytest.raises(LaceError, match="from 0 to 2"):
        model.sample(Labels.constant(ONE, 1, hue=7.0), torch.arange(1))

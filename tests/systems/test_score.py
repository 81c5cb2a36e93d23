"""Score models of pictures: training, drawing, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lace_lightning.artifacts import save_tensors
from lace_lightning.data.batches import TensorBatches
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.score.model import ScoreModel
from lace_lightning.systems.score.network import Resample, ScoreNetwork
from lace_lightning.systems.score.noisy_classifier import NoisyClassifier, label_log_p

SCHEMA = Schema("s", (Attribute("dark", "discrete", 2, ("no", "yes")), Attribute("red", "continuous")))
NETWORK = {"nf": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.1}
SDES = {"vp": {"kind": "vp", "beta_max": 10.0}, "ve": {"kind": "ve"}}
SAMPLER = {"num_steps": 12}


def model(kind: str = "vp", **options) -> ScoreModel:
    torch.manual_seed(0)
    network = NETWORK if kind == "vp" else {**NETWORK, "fir": True, "pyramid": True}
    settings = {
        "sde": SDES[kind],
        "resolution": 8,
        "network": network,
        "classifier": {"widen": 1},
        "sampler": SAMPLER,
        "warmup": 5,
        "precision": "float32",
        "learning_rate": 2e-3,
        "classifier_rate": 2e-3,
        **options,
    }
    return ScoreModel(SCHEMA, **settings)


def toy(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat pictures, dark or light, with some red; not every label is known."""
    random = torch.Generator().manual_seed(1)
    dark, red = torch.randint(2, (count,), generator=random), torch.rand(count, generator=random)
    pictures = (190 - 130 * dark)[:, None, None, None].expand(count, 3, 8, 8).clone().float()
    pictures[:, 0] = 255 * red[:, None, None]
    known = torch.rand(count, 2, generator=random) < 0.8
    return pictures.byte(), torch.stack([dark.float(), red], 1), known


def trainer(folder: Path, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=steps,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
    )


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path, kind: str) -> None:
    def batches() -> TensorBatches:
        return TensorBatches(toy(16), 8, seed=3)

    whole, second = model(kind), model(kind)
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=4)
    trainer(tmp_path, 8, checkpoint).fit(whole, batches())
    torch.rand(7)
    trainer(tmp_path, 8).fit(second, batches(), ckpt_path=str(tmp_path / "step=4.ckpt"), weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.average.parameters(), whole.networks.parameters(), strict=True)
    )
    # The first step of the warm-up is none.
    assert all(
        not torch.equal(a, b)
        for a, b in zip(whole.networks["score"].parameters(), model(kind).networks["score"].parameters(), strict=True)
        if a.requires_grad
    )


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_a_little_training_helps_both_networks(tmp_path: Path, kind: str) -> None:
    data, module = toy(64), model(kind, ema_decay=0.9, warmup=0)
    batches = TensorBatches(data, 64)
    before = trainer(tmp_path, 1).test(module, batches, verbose=False)[0]
    trainer(tmp_path, 50).fit(module, TensorBatches(data, 16, seed=0))
    after = trainer(tmp_path, 1).test(module, batches, verbose=False)[0]
    assert after["test_score"] < 0.7 * before["test_score"]
    assert after["test_classifier"] < before["test_classifier"] - 0.3
    assert after["test_accuracy"] > before["test_accuracy"]


def test_the_loss_of_the_exact_score_is_what_it_must_be() -> None:
    """For data of one picture the network that says the noise has no loss; one that says nothing has the loss of z: 1,
    or D/2.
    """
    for kind, nothing in (("vp", 1.0), ("ve", 96.0)):
        module = model(kind)
        picture = torch.full((64, 3, 8, 8), 0.2)
        own = picture[:1] if kind == "vp" else (picture[:1] + 1) / 2

        def exact(
            networks: nn.ModuleDict, x: Tensor, t: Tensor, module: ScoreModel = module, own: Tensor = own
        ) -> Tensor:
            a, s = module._times(t, x)
            return -module.sde.sign * (x - a * own) / s

        batch = (picture, torch.zeros(64, 2), torch.ones(64, 2, dtype=torch.bool))
        with torch.no_grad():
            loss = float(module._losses(module.networks, batch, ("score",))["score"])
            assert loss == pytest.approx(nothing, rel=0.05)
            module._output = exact
            assert float(module._losses(module.networks, batch, ("score",))["score"]) == pytest.approx(
                0, abs=1e-3 * nothing
            )


def test_the_average_follows_by_its_law() -> None:
    module = model()
    name, old = next((n, p.clone()) for n, p in module.average.named_parameters())
    new = dict(module.networks.named_parameters())[name]
    with torch.no_grad():
        new.add_(1)
    module.follow(1)
    torch.testing.assert_close(dict(module.average.named_parameters())[name], old + 1 - 2 / 11)
    assert not module.train().average["score"].training
    assert module.networks["score"].training


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    module = model()
    module.networks["score"].out.bias.data.fill_(torch.nan)
    with pytest.raises(LaceError, match="at step 0"):
        module.training_step(toy(4), 0)


def test_gradients_of_each_network_are_clipped_to_their_own_norm(tmp_path: Path) -> None:
    module, calls = model(clip=0.01), []
    clip = module.configure_gradient_clipping

    def watched(*arguments: object, **options: object) -> None:
        clip(None)
        calls.append(
            [
                float(torch.stack([p.grad.norm() for p in network.parameters()]).norm())
                for network in module.networks.values()
            ]
        )

    module.configure_gradient_clipping = watched
    trainer(tmp_path, 2).fit(module, TensorBatches(toy(16), 8, seed=3))
    assert len(calls) == 2
    assert calls == [[pytest.approx(0.01, rel=1e-3)] * 2] * 2


def test_parts_train_alone() -> None:
    module = model(parts=["classifier"])
    module.log_dict = lambda *_, **__: None
    module.training_step(toy(8), 0).backward()
    assert all(p.grad is None for p in module.networks["score"].parameters())
    assert all(p.grad is not None for p in module.networks["classifier"].parameters())
    assert len(module.configure_optimizers()["optimizer"].param_groups) == 1
    with pytest.raises(LaceError, match="score, classifier"):
        model(parts=["generator"])
    with pytest.raises(LaceError, match="auto, float32 or bfloat16"):
        model(precision="float16")


def excited(kind: str, **options) -> ScoreModel:
    """A model whose networks say something: at the beginning their last layers are silent."""
    module = model(kind, **options)
    for parameter in module.average.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return led(module.eval())


def led(module: ScoreModel) -> ScoreModel:
    """Add the score of data N(½, 0.3²) in [0, 1], so that what is drawn stays there."""
    mean, std = (0.0, 0.6) if module.sde.centered else (0.5, 0.3)
    network = module._output

    def output(networks: nn.ModuleDict, x: Tensor, t: Tensor) -> Tensor:
        a, s = module._times(t, x)
        return 0.1 * network(networks, x, t) - module.sde.sign * s * (x - a * mean) / ((a * std).square() + s.square())

    module._output = output
    return module


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("sampler", [SAMPLER, {"kind": "probability_flow", "method": "heun", "num_steps": 4}])
def test_a_sample_depends_on_its_seed_and_code_alone(kind: str, sampler: dict) -> None:
    module, seeds = excited(kind, sampler=sampler, guidance=30.0), torch.tensor([4, 8, 15])
    codes = Labels(
        SCHEMA,
        torch.tensor([[1, 0.2], [0, 0.9], [1, 0.5]]),
        torch.tensor([[True, True], [True, False], [False, False]]),
    )
    with torch.inference_mode():
        together = module.sample(codes, seeds)
    assert together.z.shape == (3, 3, 8, 8)
    assert float(together.z.abs().max()) <= 1
    assert together.evaluations == (24 if sampler is SAMPLER else 8)
    for index in range(3):
        alone = module.sample(codes[index : index + 1], seeds[index : index + 1])
        torch.testing.assert_close(alone.z, together.z[index : index + 1], rtol=0, atol=1e-4)
    assert not torch.allclose(module.sample(codes, seeds + 1).z, together.z, atol=1e-2)
    # What is not known says nothing, as guidance 0 does.
    free = Labels(SCHEMA, codes.values, torch.zeros(3, 2, dtype=torch.bool))
    unguided = module.sample(free, seeds)
    torch.testing.assert_close(unguided.z[2], together.z[2])
    assert not torch.allclose(unguided.z[0], together.z[0], atol=1e-3)
    assert unguided.diagnostics["classifier_evaluations"] == 0
    module.hparams["guidance"] = 0.0
    assert torch.equal(module.sample(codes, seeds).z, unguided.z)


class ExactRed(nn.Module):
    """For pixels N(½, 0.1²) in [0, 1]: p(mean of the picture|noisy picture) as the classifier says it, f and log v."""

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        kept = 0.01 / (0.01 + sigma.square())
        size = images[0].numel()
        zero = torch.zeros_like(sigma)
        return torch.stack(
            [zero, zero, 0.5 + kept * (images.mean((1, 2, 3)) - 0.5), (kept * sigma.square() / size).log()], dim=1
        )


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize(
    "sampler", [{"kind": "probability_flow", "method": "heun", "num_steps": 150}, {"num_steps": 250}]
)
def test_guided_pictures_are_of_the_posterior(kind: str, sampler: dict) -> None:
    """Pixels N(½, 0.1²) whose mean m is seen with error σ: p(m|c) is Gaussian, with the share q/(q + σ²) of c, q =
    0.1²/192.
    """
    module, sigma, count = model(kind, sampler=sampler, sigma=0.005, sde={"kind": kind}).eval(), 0.005, 200
    module.average["classifier"] = ExactRed()

    def output(networks: nn.ModuleDict, x: Tensor, t: Tensor) -> Tensor:
        a, s = module._times(t, x)
        mean, std = (0.0, 0.2) if kind == "vp" else (0.5, 0.1)
        return -module.sde.sign * s * (x - a * mean) / ((a * std).square() + s.square())

    module._output = output
    q = 0.01 / 192
    for wanted in (0.56, 0.47):
        drawn = module.sample(Labels.constant(SCHEMA, count, red=wanted), torch.arange(count))
        means = (drawn.z.mean((1, 2, 3)) + 1) / 2
        spread = (q * sigma**2 / (q + sigma**2)) ** 0.5
        assert float(means.mean()) == pytest.approx(0.5 + q / (q + sigma**2) * (wanted - 0.5), abs=2e-3)
        assert float(means.std()) == pytest.approx(spread, rel=0.2)
        assert drawn.diagnostics["classifier_evaluations"] == drawn.evaluations


def test_codes_are_read_by_name_and_others_are_refused() -> None:
    module = model()
    turned = Schema("t", (SCHEMA["red"], Attribute("age", "continuous"), SCHEMA["dark"]))
    codes = Labels(turned, torch.tensor([[0.3, 0.0, 1.0]]), torch.tensor([[True, False, True]]))
    seeds = torch.arange(1)
    assert torch.equal(
        module.sample(codes, seeds).z, module.sample(Labels.constant(SCHEMA, 1, dark=1, red=0.3), seeds).z
    )
    with pytest.raises(LaceError, match="'age' was asked for"):
        module.sample(Labels(turned, codes.values), seeds)


def test_the_classifier_sees_the_same_whatever_the_diffusion() -> None:
    """At equal signal and noise the VP and the VE model ask one network one thing."""
    vp, ve = excited("vp"), excited("ve")
    ve.average["classifier"].load_state_dict(vp.average["classifier"].state_dict())
    t, images = torch.tensor([0.2, 0.4]), torch.rand(2, 3, 8, 8)
    a, s = vp._times(t, images)
    sigma = s / (2 * a)
    times = ((sigma / 0.01).log() / torch.tensor(5000.0).log()).flatten()
    noisy = images + sigma * torch.randn_like(images)
    torch.testing.assert_close(
        vp._logits(vp.average, a * (2 * noisy - 1), t), ve._logits(ve.average, noisy, times), rtol=1e-3, atol=1e-4
    )


def test_a_picture_is_seen_relative_to_itself() -> None:
    torch.manual_seed(0)
    network, x, sigma = NoisyClassifier(3, widen=1), torch.randn(2, 3, 8, 8), torch.tensor([0.1, 2.0])
    shifted = network.mean + network.std * (5 * (x - network.mean) / network.std + 7)
    torch.testing.assert_close(network(shifted, sigma), network(x, sigma), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(network(x, 2 * sigma), network(x, sigma), atol=1e-4)
    with pytest.raises(LaceError, match="6n \\+ 4"):
        NoisyClassifier(depth=12)


def test_the_likelihood_of_labels_by_hand() -> None:
    output = torch.tensor([[0.0, 1.0, 0.4, -20.0], [2.0, 0.0, 0.5, 0.0]])
    values, known = torch.tensor([[1.0, 0.6], [9.0, 0.7]]), torch.tensor([[True, True], [False, True]])
    log_p = label_log_p(SCHEMA, output, values, known, 0.1)
    assert float(log_p[0, 0]) == pytest.approx(float(torch.tensor([0.0, 1.0]).log_softmax(0)[1]))
    constant = float(torch.log(torch.tensor(2 * torch.pi))) / 2
    for row, variance in ((0, 0.01), (1, 1.01)):
        normal = torch.distributions.Normal(float(output[row, 2]), variance**0.5)
        assert float(log_p[row, 1]) == pytest.approx(float(normal.log_prob(values[row, 1])) + constant, abs=1e-4)
    assert float(log_p[1, 0]) == 0


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_what_is_saved_draws_the_same(tmp_path: Path, kind: str) -> None:
    module = excited(kind)
    module.save(tmp_path / "m.safetensors")
    again = led(ScoreModel.load(tmp_path / "m.safetensors"))
    codes, seeds = Labels.constant(SCHEMA, 2, dark=1), torch.arange(2)
    assert torch.equal(again.sample(codes, seeds).z, module.sample(codes, seeds).z)
    started = model(kind, start=str(tmp_path / "m.safetensors"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(started.networks.state_dict().values(), module.average.state_dict().values(), strict=True)
    )
    with pytest.raises(LaceError, match="give the same networks"):
        model(kind, start=str(tmp_path / "m.safetensors"), classifier={"widen": 2})


def test_the_density_of_what_a_silent_network_knows() -> None:
    """A silent score leaves the diffusion's own flow: x is stretched by a(1)/a(end), in the preserving one, and the
    prior's density.
    """
    module, images = model(), torch.rand(2, 3, 8, 8) * 2 - 1
    module.average["score"].out.weight.zero_()
    module.average["score"].out.bias.zero_()
    stretch = float(module.sde.mean(torch.ones([])) / module.sde.mean(torch.tensor(module.sde.end)))
    expected = torch.distributions.Normal(0, 1).log_prob(images * stretch).sum((1, 2, 3)) + 192 * torch.log(
        torch.tensor(stretch)
    )
    torch.testing.assert_close(module.log_density(images, torch.arange(2), 1e-3, 1e-3), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "count", "modules"),
    [({}, 61_804_419, 0), ({"fir": True, "pyramid": True, "embedding": "fourier"}, 62_758_915, 128)],
)
def test_the_full_networks_are_the_published_ones(settings: dict, count: int, modules: int) -> None:
    with torch.device("meta"):
        network = ScoreNetwork(nf=128, multipliers=(1, 2, 2, 2), blocks=4, **settings)
    assert sum(parameter.numel() for parameter in network.parameters()) + modules == count


@pytest.mark.parametrize("name", ["vp_sde", "vp_sde_full", "ve_sde", "ve_sde_full"])
def test_every_configuration_builds(name: str) -> None:
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base=None):
        settings = OmegaConf.to_container(compose("config", overrides=[f"model={name}"]).model, resolve=True)
    assert settings.pop("_target_") == f"{ScoreModel.__module__}.{ScoreModel.__name__}"
    with torch.device("meta"):
        module = ScoreModel(SCHEMA, **settings)
    count = sum(parameter.numel() for parameter in module.networks["score"].parameters())
    assert count == {"vp_sde_full": 61_804_419, "ve_sde_full": 62_758_787}.get(name, count)
    assert count < 2e6 or name.endswith("full")
    assert dict(module.hparams).keys() - settings.keys() == {"schema", "channels"}


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_published_checkpoint_is_read_by_the_order_of_its_average(tmp_path: Path, kind: str, legacy: bool) -> None:
    source = excited(kind).average["score"]
    entries = {"module.sigmas": torch.zeros(1000)}
    if kind == "ve":
        entries["module.all_modules.0.W"] = source.features.frequencies
    checkpoint = {
        "optimizer": {
            "state": {0: {"step": 3, "exp_avg": torch.zeros(2)}},
            "param_groups": [{"lr": 2e-4, "betas": (0.9, 1)}],
        },
        "model": entries,
        "step": 1_300_000,
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": [p.clone() for p in source.parameters()]},
    }
    path = tmp_path / "checkpoint_8.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    module = model(kind, start=str(path), parts=["classifier"])
    for networks in (module.networks, module.average):
        assert all(
            torch.equal(value, networks["score"].state_dict()[name]) for name, value in source.state_dict().items()
        )
    with pytest.raises(LaceError, match="is the first that differs"):
        model("ve" if kind == "vp" else "vp", start=str(path))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(LaceError, match="with model and ema"):
        model(kind, start=str(path))


def test_filtered_resampling_by_hand() -> None:
    x = torch.zeros(1, 2, 8, 8)
    x[0, 0, 2, 4] = 1
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    up = Resample(True, True)(x)
    torch.testing.assert_close(up[0, 0, 3:7, 7:11], 4 * torch.outer(taps, taps))
    assert float(up.sum()) == pytest.approx(4)
    down = Resample(False, True)(x)
    # Output pixel i looks at 2i - 1 .. 2i + 2.
    torch.testing.assert_close(
        down[0, 0, :3, 1:3], torch.outer(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 3.0])) / 64
    )
    inside = Resample(True, True)(torch.ones(1, 1, 8, 8))[..., 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize("pyramid", [False, True])
def test_a_network_of_patches_is_one_of_their_channels(pyramid: bool) -> None:
    settings = {**NETWORK, "dropout": 0.0, "pyramid": pyramid, "fir": pyramid}
    patched = ScoreNetwork(resolution=16, channels=1, patch=2, **settings).eval()
    plain = ScoreNetwork(resolution=8, channels=4, **settings).eval()
    with torch.no_grad():
        for parameter in patched.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain.load_state_dict(patched.state_dict())
    x, level = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 3.0])
    four = torch.stack([x[:, 0, i::2, j::2] for i in range(2) for j in range(2)], dim=1)
    with torch.no_grad():
        output, expected = patched(x, level), plain(four, level)
    for index, (i, j) in enumerate((i, j) for i in range(2) for j in range(2)):
        assert torch.allclose(output[:, 0, i::2, j::2], expected[:, index], atol=1e-5)


def test_a_file_of_one_network_leaves_the_others_first_weights(tmp_path: Path) -> None:
    module = model()
    tensors = {name: value for name, value in module.saved_state().items() if name.startswith("score.")}
    save_tensors(tmp_path / "score.safetensors", {name: value + 1 for name, value in tensors.items()}, {})
    started = model(start=str(tmp_path / "score.safetensors"))
    for name, value in started.average.state_dict().items():
        expected = module.networks.state_dict()[name] + name.startswith("score.")
        assert torch.equal(value, expected), name


def test_a_network_that_cannot_be_is_refused() -> None:
    with pytest.raises(LaceError, match="can be halved 2 times"):
        ScoreNetwork(resolution=18)
    with pytest.raises(LaceError, match="positional, fourier"):
        ScoreNetwork(embedding="learned")

"""Large pictures: strips, chunks, and the memory that they are said to need."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lace_lightning.generators import StyleGAN2Generator, StyleGAN2Network, StyleGAN3Generator, StyleGAN3Network
from lace_lightning.generators.stylegan2_networks import SynthesisBlock
from lace_lightning.generators.stylegan3_layers import Resampler
from lace_lightning.numerics.precision import compute_dtype


def stylegan2(resolution: int = 64, seed: int = 0, **synthesis) -> StyleGAN2Network:
    torch.manual_seed(seed)
    network = StyleGAN2Network(
        16,
        16,
        img_resolution=resolution,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 1024, "channel_max": 32, **synthesis},
    )
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength") or (
            name.endswith("bias") and "affine" not in name and "mapping" not in name
        ):
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(False)


def stylegan3(resolution: int = 32, channels: int = 16) -> StyleGAN3Network:
    torch.manual_seed(0)
    return StyleGAN3Network(
        16,
        16,
        img_resolution=resolution,
        synthesis_kwargs={"channel_base": 64 * channels, "channel_max": channels, "num_layers": 6},
    )


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_strips_are_the_rows_of_the_whole(monkeypatch, architecture: str, noise: str) -> None:
    network = stylegan2(architecture=architecture, conv_clamp=256.0)
    ws = network.broadcast(network.mapping(torch.randn(2, 16)))
    monkeypatch.setattr(SynthesisBlock, "budget", 2**30)
    whole = network.synthesis(ws, noise)
    monkeypatch.setattr(SynthesisBlock, "budget", 1)
    assert network.synthesis.b64.rows_at_once(ws.device) == 16
    torch.testing.assert_close(network.synthesis(ws, noise), whole, atol=1e-5 * float(whole.abs().max()), rtol=0)


def test_gradients_take_the_whole_map(monkeypatch) -> None:
    network, gradients = stylegan2(), []
    ws = network.broadcast(network.mapping(torch.randn(1, 16)))
    for budget in (1, 2**30):
        monkeypatch.setattr(SynthesisBlock, "budget", budget)
        x = ws.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network.synthesis(x).square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_half_precision_is_for_the_four_highest_resolutions() -> None:
    network = stylegan2(128)
    assert [network.synthesis._dtype(block, torch.bfloat16) for block in network.synthesis.blocks] == [
        *[torch.float32] * 2,
        *[torch.bfloat16] * 4,
    ]
    assert network.synthesis._dtype(network.synthesis.b4, torch.float64) == torch.float64
    ws = network.broadcast(network.mapping(torch.randn(4, 16)))
    exact = network.synthesis(ws)
    error = (network.synthesis(ws, dtype=torch.bfloat16) - exact).abs().mean()
    assert error < 0.01 * exact.std()


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: StyleGAN2Generator(stylegan2(), **o),
        lambda **o: StyleGAN2Generator(stylegan2(), noise="none", **o),
        lambda **o: StyleGAN3Generator(stylegan3(), **o),
    ],
    ids=["stylegan2", "without noise", "stylegan3"],
)
def test_chunks_change_no_picture(make) -> None:
    few, auto = make(max_batch=2), make()
    auto.chunks.memory = 3.5 * auto.bytes_per_picture() / 2**30
    w = few.mapping(few.prior(7))
    assert [len(part) for part in few.parts(w)] == [2, 2, 2, 1]
    assert [len(part) for part in auto.parts(w)] == [3, 3, 1]
    images = few.render(few.broadcast(w))
    for generator in (few, auto):
        torch.testing.assert_close(generator.synthesis(w), images, atol=2e-5, rtol=0)
        pictures = generator.pictures(w)
        assert pictures.dtype == torch.uint8
        assert (pictures.float() - (images + 1) * 127.5).abs().max() < 0.51


def test_what_runs_out_of_memory_is_drawn_in_halves(monkeypatch) -> None:
    generator, calls = StyleGAN2Generator(stylegan2(16), max_batch=6), []
    w = generator.mapping(generator.prior(8))
    expected, render = generator.synthesis(w), generator.render

    def small(ws: torch.Tensor) -> torch.Tensor:
        calls.append(len(ws))
        if len(ws) > 3:
            raise torch.OutOfMemoryError
        return render(ws)

    monkeypatch.setattr(generator, "render", small)
    with pytest.warns(UserWarning, match="going on with 3"):
        torch.testing.assert_close(generator.synthesis(w), expected, atol=1e-5, rtol=0)
    assert calls == [6, 3, 3, 2]


def peak(function) -> int:
    """Return the most bytes that were allocated at a time beyond those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    most = now = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("make", "budget"),
    [
        (lambda: StyleGAN2Generator(stylegan2(128)), 2**21),
        (lambda: StyleGAN2Generator(stylegan2(128)), 2**15),
        (lambda: StyleGAN2Generator(stylegan2(128), precision="bfloat16"), 2**15),
        (lambda: StyleGAN3Generator(stylegan3(64, 64)), 2**30),
        (lambda: StyleGAN3Generator(stylegan3(64, 64)), 1),
    ],
    ids=["whole", "strips", "bfloat16", "stylegan3", "stylegan3 in groups"],
)
@pytest.mark.parametrize("count", [1, 4])
def test_the_memory_is_what_was_said(request, monkeypatch, make, budget: int, count: int) -> None:
    native = compute_dtype("auto", torch.device("cpu")) == torch.bfloat16
    if "bfloat16" in request.node.name and not native:
        pytest.skip("a processor without bfloat16 computes its convolutions in copies of the inputs")
    for part in (SynthesisBlock, Resampler):
        monkeypatch.setattr(part, "budget", budget)
    generator = make()
    ws = generator.broadcast(generator.mapping(generator.prior(count)))
    generator.render(ws)
    ratio = peak(lambda: generator.render(ws)) / (generator.bytes_per_picture() * count)
    assert 0.5 < ratio < 1.1


def test_the_limit_is_respected() -> None:
    network = stylegan2(128)
    free = StyleGAN2Generator(network)
    w = free.mapping(free.prior(16))
    peaks = []
    for pictures in (2, 6):
        limit = pictures * free.bytes_per_picture()
        generator = StyleGAN2Generator(network, memory=limit / 2**30)
        peaks.append(peak(lambda g=generator: [None for _ in g.parts(w)]))
        assert 0.5 * limit < peaks[-1] < 1.1 * limit
    assert peaks[0] < 0.5 * peaks[1]

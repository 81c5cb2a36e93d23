"""What the synthesis layers keep of frozen weights, and the convolutions against one kernel a sample."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lace_lightning.generators.stylegan2_layers import SynthesisLayer
from lace_lightning.numerics.weight_cache import WeightCache


def one_kernel_a_sample(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """Return the layer's features with the weights modulated and demodulated themselves."""
    rows = []
    for row, style in zip(x, layer.affine(w), strict=True):
        kernel = layer.weight * style[None, :, None, None]
        kernel = kernel * (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if layer.up:
            wide = F.conv_transpose2d(row[None], kernel.transpose(0, 1), stride=2)
            y = F.conv2d(wide, (layer.resample_filter * 4).expand(len(kernel), 1, 4, 4), padding=1, groups=len(kernel))
        else:
            y = F.conv2d(row[None], kernel, padding=1)
        rows.append(y + layer.noise_const * layer.noise_strength + layer.bias[:, None, None])
    return F.leaky_relu(torch.cat(rows), 0.2) * 2**0.5


@pytest.fixture(params=[False, True], ids=["same", "up"])
def layer(request) -> SynthesisLayer:
    torch.manual_seed(0)
    layer = SynthesisLayer(6, 5, 7, 8 if request.param else 4, up=request.param)
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.constant_(layer.noise_strength, 0.3)
    return layer.eval().requires_grad_(False)


def test_one_kernel_serves_the_batch(layer: SynthesisLayer) -> None:
    x, w = torch.randn(3, 6, 4, 4), torch.randn(3, 7)
    torch.testing.assert_close(layer(x, w, "const"), one_kernel_a_sample(layer, x, w), atol=1e-5, rtol=0)


def test_what_is_kept_follows_the_weights(layer: SynthesisLayer) -> None:
    x, w = torch.randn(2, 6, 4, 4), torch.randn(2, 7)
    state = {key: torch.randn_like(value) for key, value in layer.state_dict().items() if key != "resample_filter"}
    with torch.inference_mode():
        layer(x, w, "const")
    layer.weight.mul_(2).add_(0.1)
    torch.testing.assert_close(layer(x, w, "const"), one_kernel_a_sample(layer, x, w), atol=1e-5, rtol=0)
    layer.load_state_dict(state, strict=False)
    torch.testing.assert_close(layer(x, w, "const"), one_kernel_a_sample(layer, x, w), atol=1e-5, rtol=1e-5)
    layer.weight = torch.nn.Parameter(torch.randn_like(layer.weight), requires_grad=False)
    torch.testing.assert_close(layer(x, w, "const"), one_kernel_a_sample(layer, x, w), atol=1e-5, rtol=1e-5)
    twin = copy.deepcopy(layer)
    twin.weight.neg_()
    torch.testing.assert_close(twin(x, w, "const"), one_kernel_a_sample(twin, x, w), atol=1e-5, rtol=1e-5)


def test_gradients_pass_by_what_inference_kept(layer: SynthesisLayer) -> None:
    x = torch.randn(2, 6, 4, 4)
    with torch.inference_mode():
        layer(x, torch.randn(2, 7), "const")
    w = torch.randn(2, 7, requires_grad=True)
    gradients = [
        torch.autograd.grad(features.square().sum(), w)[0]
        for features in (layer(x, w, "const"), one_kernel_a_sample(layer, x, w))
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_a_weight_in_training_keeps_nothing() -> None:
    kept, weight = WeightCache(), torch.ones(2, requires_grad=True)
    value = kept("double", weight, lambda w: 2 * w)
    assert value.requires_grad
    frozen = torch.ones(2)
    first = kept("double", frozen, lambda w: 2 * w)
    assert kept("double", frozen, lambda w: 2 * w) is first
    frozen.add_(1)
    assert kept("double", frozen, lambda w: 2 * w).tolist() == [4.0, 4.0]

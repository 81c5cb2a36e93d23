"""The obvious implementation of everything that is measured: what the package is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdiffeq import odeint_adjoint

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.classifiers.latent import LatentMLP
from lace_lightning.generators.stylegan2 import read_network
from lace_lightning.generators.stylegan2_networks import StyleGAN2Network, SynthesisBlock
from lace_lightning.generators.stylegan3_layers import AliasFreeLayer
from lace_lightning.generators.stylegan3_networks import StyleGAN3Network
from lace_lightning.labelers import Labeler

BETA_MIN, BETA_MAX = 0.1, 20.0


# ---------------------------------------------------------------------------------------------- generator


def modulated(
    x: Tensor, weight: Tensor, style: Tensor, taps: Tensor, up: bool = False, demodulate: bool = True
) -> Tensor:
    """Convolve every sample with a kernel of its own: one grouped convolution; upsampling by zero insertion and a
    filter.
    """
    batch, channels, height, width = x.shape
    kernel = weight[None] * style[:, None, :, None, None]
    if demodulate:
        kernel = kernel * (kernel.square().sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
    x = x.reshape(1, batch * channels, height, width)
    if not up:
        y = F.conv2d(x, kernel.flatten(0, 1), padding=weight.shape[-1] // 2, groups=batch)
        return y.reshape(batch, -1, height, width)
    y = F.conv_transpose2d(x, kernel.transpose(1, 2).flatten(0, 1), stride=2, groups=batch)
    y = y.reshape(batch, -1, 2 * height + 1, 2 * width + 1)
    return F.conv2d(y, (taps * 4).expand(y.shape[1], 1, 4, 4), padding=1, groups=y.shape[1])


def enlarge(image: Tensor, taps: Tensor) -> Tensor:
    """Upsample pictures: zeros between the pixels, then the filter."""
    batch, channels, height, width = image.shape
    wide = image.new_zeros(batch, channels, height, 2, width, 2)
    wide[:, :, :, 0, :, 0] = image
    padded = F.pad(wide.reshape(batch, channels, 2 * height, 2 * width), (2, 1, 2, 1))
    return F.conv2d(padded, (taps * 4).expand(channels, 1, 4, 4), groups=channels)


class PlainGenerator(nn.Module):
    """z -> w -> pictures with the weights of a trained network, float32, contiguous,
    one grouped convolution a layer.
    """

    def __init__(self, name: str | StyleGAN2Network) -> None:
        super().__init__()
        if isinstance(name, StyleGAN2Network):
            self.network = name
            return
        state, settings = read_network(name)
        self.network = StyleGAN2Network(**settings["network"]).eval().requires_grad_(False)
        self.network.load_state_dict(state)

    def mapping(self, z: Tensor) -> Tensor:
        return self.network.mapping(z)  # equalised learning rates are multiplied in at every call

    def _layer(self, layer: nn.Module, x: Tensor, w: Tensor) -> Tensor:
        x = modulated(x, layer.weight, layer.affine(w), layer.resample_filter, up=layer.up)
        x = x + layer.noise_const * layer.noise_strength
        return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * math.sqrt(2)

    def synthesis(self, w: Tensor) -> Tensor:
        x, image = None, None
        for resolution in self.network.synthesis.resolutions:
            block: SynthesisBlock = getattr(self.network.synthesis, f"b{resolution}")
            x = block.const.expand(len(w), -1, -1, -1) if x is None else self._layer(block.conv0, x, w)
            x = self._layer(block.conv1, x, w)
            style = block.torgb.affine(w) * block.torgb.weight_gain
            rgb = (
                modulated(x, block.torgb.weight, style, block.resample_filter, demodulate=False)
                + block.torgb.bias[:, None, None]
            )
            image = rgb if image is None else enlarge(image, block.resample_filter) + rgb
        assert image is not None
        return image.clamp(-1, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z))


def resampled(x: Tensor, taps: Tensor | None, up: int, down: int, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Put up - 1 zeros after every pixel, pad (or crop), filter with gain up², keep every `down`-th pixel."""
    batch, channels, height, width = x.shape
    x = F.pad(x[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1)).reshape(batch, channels, height * up, width * up)
    x = F.pad(x, (*padding, *padding))
    if taps is not None and taps.ndim == 2:
        x = F.conv2d(x, (taps.flip(0, 1) * up**2).expand(channels, 1, -1, -1), groups=channels)
    elif taps is not None:
        line = (taps.flip(0) * up).expand(channels, 1, 1, -1)
        x = F.conv2d(F.conv2d(x, line.transpose(2, 3), groups=channels), line, groups=channels)
    return x[:, :, ::down, ::down]


def alias_free(layer: AliasFreeLayer, x: Tensor, w: Tensor) -> Tensor:
    """Apply a layer of StyleGAN3: one kernel a sample; leaky-ReLU between a filtered upsampling and a filtered
    downsampling.
    """
    style, weight, resample = layer.affine(w), layer.weight, layer.resample
    if layer.to_rgb:
        style = style / math.sqrt(weight.shape[1])
    else:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        style = style * style.square().mean(1, keepdim=True).rsqrt()
    kernel = weight[None] * style[:, None, :, None, None]
    if not layer.to_rgb:
        kernel = kernel * (kernel.square().sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
    kernel = kernel * layer.magnitude_ema.rsqrt()
    batch, _, height, width = x.shape
    y = F.conv2d(x.reshape(1, -1, height, width), kernel.flatten(0, 1), padding=layer.size - 1, groups=batch)
    y = y.reshape(batch, -1, *y.shape[2:]) + layer.bias[:, None, None]
    taps = 1 if layer.up_filter is None else len(layer.up_filter)
    total = resample.inner_size - y.shape[-1] * resample.up + taps - 1
    low = (total + resample.up) // 2
    y = resampled(y, layer.up_filter, resample.up, 1, (low, total - low))
    y = y if layer.to_rgb else F.leaky_relu(y, 0.2) * math.sqrt(2)
    return resampled(y.clamp(-layer.conv_clamp, layer.conv_clamp), layer.down_filter, 1, resample.down)


def plain_stylegan3(network: StyleGAN3Network, ws: Tensor) -> Tensor:
    """Turn ws (B, L, Dw) into pictures, float32, contiguous; Fourier features as they are."""
    synthesis = network.synthesis
    x = synthesis.input(ws[:, 0])
    for index, name in enumerate(synthesis.layer_names, start=1):
        x = alias_free(getattr(synthesis, name), x.contiguous(), ws[:, index])
    return x * synthesis.output_scale


# ---------------------------------------------------------------------------------------------- sampling


def networks_of(classifier: AttributeClassifier) -> list[nn.Sequential]:
    """Return one nn.Sequential an attribute with the weights of a classifier (one for all where it is a single
    network).
    """
    mlp = classifier.network
    assert isinstance(mlp, LatentMLP)
    outputs = [sum(mlp.head_sizes)] if mlp.mode == "single" else mlp.head_sizes
    result = []
    for number, size in enumerate(outputs):
        layers: list[nn.Module] = []
        for index in range(mlp.num_hidden + 1):
            weight, bias = (
                getattr(mlp, f"weight{index}").detach()[number],
                getattr(mlp, f"bias{index}").detach()[number],
            )
            if index == mlp.num_hidden:
                weight, bias = weight[:, :size], bias[:size]
            linear = nn.Linear(*weight.shape, device=weight.device)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias.clone()
            layers += [linear] if index == mlp.num_hidden else [linear, nn.LeakyReLU(0.2)]
        result.append(nn.Sequential(*layers))
    return result


class PlainField(nn.Module):
    """The field of LACE-ODE (Eq. 7) the obvious way: a fresh graph at each call, mapping and network again for every
    attribute.

    `conditions` holds (network, first column, classes, target (B,)) of every attribute; no classes: a continuous one.
    """

    def __init__(self, generator: PlainGenerator, conditions: Sequence[tuple[nn.Module, int, int, Tensor]]) -> None:
        super().__init__()
        self.generator, self.conditions = generator, conditions
        self.evaluations = 0

    def log_prob(self, z: Tensor) -> Tensor:
        total = torch.zeros(len(z), device=z.device)
        for network, first, classes, target in self.conditions:
            logits = network(self.generator.mapping(z))
            if classes:
                total = (
                    total + logits[:, first : first + classes].log_softmax(1).gather(1, target.long()[:, None])[:, 0]
                )
            else:
                total = total - (target - logits[:, first]).square() / (2 * 0.1**2)
        return total

    def gradient(self, z: Tensor, prior: bool = False) -> Tensor:
        self.evaluations += 1
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            objective = self.log_prob(z)
            if prior:
                objective = objective - 0.5 * z.square().sum(1)
            return torch.autograd.grad(objective.sum(), z)[0]

    def forward(self, t: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        return (-0.5 * (BETA_MIN + t * (BETA_MAX - BETA_MIN)) * self.gradient(state[0]),)


def plain_ode(
    field: PlainField,
    z: Tensor,
    atol: float = 1e-3,
    rtol: float = 1e-3,
    method: str = "dopri5",
    step_size: float = 0.01,
) -> Tensor:
    """Integrate from t = 1 to 0 behind the adjoint wrapper."""
    times = torch.tensor([1.0, 0.0], device=z.device)
    options = {} if method == "dopri5" else {"options": {"step_size": step_size}}
    (path,) = odeint_adjoint(field, (z.clone(),), times, atol=atol, rtol=rtol, method=method, **options)
    return path[-1].detach()


def plain_langevin(field: PlainField, z: Tensor, num_steps: int = 100) -> Tensor:
    """LACE-LD (Eq. 2) with the prior inside the graph."""
    for _ in range(num_steps):
        z = z + 0.01 * field.gradient(z, prior=True) + 0.01 * torch.randn_like(z)
    return z


def plain_predictor_corrector(
    field: PlainField, z: Tensor, num_steps: int = 100, corrections: int = 2, snr: float = 0.16
) -> Tensor:
    """LACE-PC (Eq. 6): a step of the reverse diffusion, then Langevin corrections with its score."""
    betas = torch.linspace(BETA_MIN / num_steps, BETA_MAX / num_steps, num_steps, device=z.device)
    for index in reversed(range(num_steps)):
        beta = betas[index]
        alpha = 1 - beta
        score = field.gradient(z, prior=True)
        z = (2 - alpha.sqrt()) * z + beta * score + beta.sqrt() * torch.randn_like(z)
        for _ in range(corrections):
            noise = torch.randn_like(z)
            step = 2 * alpha * (snr * noise.norm(dim=1).mean() / score.norm(dim=1).mean()) ** 2
            z = z + step * score + (2 * step).sqrt() * noise
    return z


# ---------------------------------------------------------------------------------------------- pairs and training


def plain_pairs(
    generator: PlainGenerator, labeler: Labeler, count: int, batch_size: int = 100
) -> tuple[Tensor, Tensor]:
    """Draw latents, generate, label; the labeler's network in float32 as it stands. Returns (w, labels)."""
    ws, labels = [], []
    with torch.no_grad():
        for first in range(0, count, batch_size):
            w = generator.mapping(torch.randn(min(batch_size, count - first), generator.network.z_dim))
            logits = labeler.classifier(generator.synthesis(w))
            ws.append(w)
            labels.append(labeler.schema.decode(logits).values)
    return torch.cat(ws), torch.cat(labels)


def plain_training(
    networks: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int],
    epochs: int,
    batch_size: int,
    workers: int,
    learning_rate: float = 1e-3,
) -> None:
    """Train one network an attribute, one after another: a DataLoader, Adam, a loss that is read at every step."""
    for column, (network, size) in enumerate(zip(networks, sizes, strict=True)):
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        loader = DataLoader(
            TensorDataset(x, y[:, column]), batch_size=batch_size, shuffle=True, num_workers=workers, drop_last=True
        )
        for _ in range(epochs):
            for u, target in loader:
                logits = network(u)
                loss = F.cross_entropy(logits, target.long()) if size > 1 else F.mse_loss(logits[:, 0], target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()  # what loops that print a loss do

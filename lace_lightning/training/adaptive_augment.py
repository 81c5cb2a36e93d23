"""Differentiable augmentation of real and generated pictures, applied with an adaptive probability."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augment(images: Tensor, probability: Tensor | float) -> Tensor:
    """Change each picture of (B, C, H, W) by colour, shift and cut-out, each with `probability`, differentiably."""
    batch, _, height, width = images.shape
    device = images.device

    def chosen() -> Tensor:
        return (torch.rand(batch, 1, 1, 1, device=device) < probability).float()

    def amount(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, device=device)

    images = images + chosen() * amount(-0.5, 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + chosen() * amount(-1, 1))
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + chosen() * amount(-0.5, 0.5))
    reach = max(1, height // 8)
    shift = (torch.randint(-reach, reach + 1, (2, batch), device=device).float() * chosen()[:, 0, 0, 0]).long()
    rows = (torch.arange(height, device=device)[None] + shift[0][:, None] + reach)[:, :, None]
    columns = (torch.arange(width, device=device)[None] + shift[1][:, None] + reach)[:, None]
    padded = F.pad(images, (reach,) * 4).permute(0, 2, 3, 1)
    images = padded[torch.arange(batch, device=device)[:, None, None], rows, columns].permute(0, 3, 1, 2)
    centre = torch.randint(0, height, (2, batch, 1, 1), device=device)
    inside = ((torch.arange(height, device=device)[:, None] - centre[0]).abs() <= height // 6) & (
        (torch.arange(width, device=device) - centre[1]).abs() <= width // 6
    )
    return images * (1 - inside[:, None].float() * chosen())


class AdaptiveAugment(nn.Module):
    """Raise the augmentation probability while the discriminator is too sure of the real pictures.

    The signal is r = mean sign(D(real)) (StyleGAN2-ADA, section 3): p moves by ±batch/(1000·`kimg`) towards r =
    `target`. A target of 1 leaves augmentation out: where no picture comes twice there is nothing to learn by heart.
    """

    probability: Tensor
    signal: Tensor

    def __init__(self, target: float = 0.6, kimg: float = 500.0, maximum: float = 0.8) -> None:
        super().__init__()
        self.target, self.kimg, self.maximum = target, kimg, maximum
        self.register_buffer("probability", torch.zeros([]))
        self.register_buffer("signal", torch.zeros([]))

    def forward(self, images: Tensor) -> Tensor:
        return images if self.target >= 1 else augment(images, self.probability)

    @torch.no_grad()
    def adapt(self, real_logits: Tensor) -> None:
        """Update the running signal and the probability from the logits (B,) of real pictures."""
        self.signal.lerp_(real_logits.sign().mean().float(), 0.05)
        step = real_logits.numel() / (1000 * self.kimg)
        direction = (self.signal - self.target).sign()
        self.probability.add_(direction * step).clamp_(0, self.maximum)

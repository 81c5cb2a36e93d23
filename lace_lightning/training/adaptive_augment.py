"""Differentiable augmentation of real and generated pictures, applied with an adaptive probability."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augment(images: Tensor, probability: Tensor | float) -> Tensor:
    """Change each picture by colour, shift and cut-out, each with a probability, differentiably.

    The order is brightness, saturation, contrast, shift and cut-out. A shift is at most an eighth of the height, and at
    least 1 pixel is allowed. Cut-out sets a rectangle to 0. Random numbers come from the global generator of the
    device.

    Args:
        images: pictures (B, C, H, W), in [-1, 1] during training.
        probability: the probability of each change, from 0 to 1, as a number or a scalar tensor.

    Returns:
        The changed pictures (B, C, H, W), whose values may lie outside [-1, 1].

    References:
        Differentiable augmentation for data-efficient GAN training (arXiv 2006.10738).

    Example:
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> torch.equal(augment(images, 0.0), images), augment(images, 1.0).shape
        (True, torch.Size([2, 3, 8, 8]))
    """
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
    """Augmentation with a probability that rises while the discriminator overfits the real pictures.

    The signal is r = mean sign(D(real)), a moving average over batches, in [-1, 1]. After each batch of B pictures the
    probability p changes by B/(1000·`kimg`): it rises where r is above `target` and falls where r is below.

    Args:
        target: the value of r that is aimed at. From 1 on, pictures are not changed: a data set that never repeats a
            picture needs no augmentation.
        kimg: thousands of pictures over which p may go from 0 to 1, above 0.
        maximum: the largest p, from 0 to 1.

    References:
        Section 3 of StyleGAN2-ADA (arXiv 2006.06676).

    Example:
        >>> augmentation = AdaptiveAugment(target=0.6, kimg=0.5)
        >>> for _ in range(40):
        ...     augmentation.adapt(torch.ones(50))
        >>> round(float(augmentation.probability), 4)
        0.8
    """

    probability: Tensor
    signal: Tensor

    def __init__(self, target: float = 0.6, kimg: float = 500.0, maximum: float = 0.8) -> None:
        super().__init__()
        self.target, self.kimg, self.maximum = target, kimg, maximum
        self.register_buffer("probability", torch.zeros([]))
        self.register_buffer("signal", torch.zeros([]))

    def forward(self, images: Tensor) -> Tensor:
        """Return pictures (B, C, H, W) augmented with the present probability."""
        return images if self.target >= 1 else augment(images, self.probability)

    @torch.no_grad()
    def adapt(self, real_logits: Tensor) -> None:
        """Update the running signal and the probability from the logits (B,) of real pictures."""
        self.signal.lerp_(real_logits.sign().mean().float(), 0.05)
        step = real_logits.numel() / (1000 * self.kimg)
        direction = (self.signal - self.target).sign()
        self.probability.add_(direction * step).clamp_(0, self.maximum)

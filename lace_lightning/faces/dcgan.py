"""Generator of the DCGAN tutorial of PyTorch, 64x64."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class DCGAN(nn.Module):
    """Generator z (B, z_dim, 1, 1) -> pictures (B, channels, 64, 64) in [-1, 1], with five transposed convolutions.

    Args:
        z_dim: size of a latent z.
        widths: channels of the four feature maps, 4x4 to 32x32.
        channels: channels of a picture.

    References:
        Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
        Adversarial Networks", ICLR 2016.

    Example:
        >>> import torch
        >>> tuple(DCGAN(4, widths=(2, 2, 2, 2))(torch.zeros(3, 4, 1, 1)).shape)
        (3, 3, 64, 64)
    """

    def __init__(self, z_dim: int = 100, widths: Sequence[int] = (512, 256, 128, 64), channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inside, outside) in enumerate(zip((z_dim, *widths), widths, strict=False)):
            placed = (1, 0) if index == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(inside, outside, 4, *placed, bias=False),
                nn.BatchNorm2d(outside),
                nn.ReLU(inplace=True),
            ]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = self.main(z)
        return result

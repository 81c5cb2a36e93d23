"""First convolutions of networks of pictures."""

from __future__ import annotations

from torch import nn

from ..errors import LaceError


def patch_convolution(in_channels: int, out_channels: int, patch: int = 1) -> nn.Conv2d:
    """Return a convolution that divides height and width by `patch`, with filters of twice that size.

    Args:
        in_channels: channels of the input, at least 1.
        out_channels: channels of the output, at least 1.
        patch: stride p in pixels, 1 or even. The filters have 2p by 2p pixels, and 3 by 3 for a stride of 1.

    Returns:
        The convolution, from (B, in_channels, H, W) to (B, out_channels, H/p, W/p).

    Raises:
        LaceError: for another stride.

    Example:
        >>> import torch
        >>> patch_convolution(1, 4, patch=4)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 4, 8, 8])
    """
    if patch < 1 or (patch > 1 and patch % 2):
        raise LaceError(f"patch must be 1 or an even number of pixels, received {patch}: take 1, 2 or 4.")
    if patch == 1:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return nn.Conv2d(in_channels, out_channels, 2 * patch, patch, patch // 2)

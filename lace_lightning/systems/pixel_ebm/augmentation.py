"""Random changes of pictures between rounds of chains: crop, mirror, colours, grey, blur."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import LaceError

# Weights of red, green and blue in the luminance (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)


class Changes:
    """Random changes of pictures (B, C, H, W) in [0, 1] as a function of uniform numbers (B, 17).

    Pictures have three channels, or one, which saturation, hue and grey leave as it is. The order is: crop and mirror
    image; brightness, contrast, saturation and hue in random order; grey; blur. A crop has an aspect ratio between 3:4
    and 4:3 and is resized to the whole picture. The blur is Gaussian, 5x5 pixels, with a standard deviation from 0.1 to
    2 pixels. The class attribute `numbers` is 17.

    Args:
        crop: smallest share of the area that a crop keeps, above 0, at most 1; 1 for no crops.
        mirror: probability of a mirror image, from 0 to 1.
        jitter: strengths of brightness, contrast and saturation (factors from max(0, 1 - s) to 1 + s) and of hue (turns
            of up to s of the circle), each 0 or more.
        jitter_probability: probability that all four colour changes are applied, from 0 to 1.
        grey: probability of a grey picture, from 0 to 1.
        blur: probability of a blur, from 0 to 1.

    Raises:
        LaceError: for shares outside [0, 1], a crop of 0, and other than four strengths from 0.

    References:
        The augmentations of improved contrastive divergence (arXiv 2012.01316).

    Example:
        >>> changes = Changes(grey=1.0)
        >>> x = torch.rand(2, 3, 8, 8)
        >>> y = changes(x, torch.rand(2, changes.numbers))
        >>> y.shape, torch.equal(y[:, 0], y[:, 2]), torch.equal(Changes()(x, torch.rand(2, 17)), x)
        (torch.Size([2, 3, 8, 8]), True, True)
    """

    numbers = 17

    def __init__(
        self,
        crop: float = 1.0,
        mirror: float = 0.0,
        jitter: Sequence[float] = (0.8, 0.8, 0.8, 0.4),
        jitter_probability: float = 0.0,
        grey: float = 0.0,
        blur: float = 0.0,
    ) -> None:
        shares = {"crop": crop, "mirror": mirror, "jitter_probability": jitter_probability, "grey": grey, "blur": blur}
        if not crop > 0 or not all(0 <= share <= 1 for share in shares.values()) or len(jitter) != 4 or min(jitter) < 0:
            raise LaceError(
                "Changes of pictures require shares from 0 to 1, a crop above 0 and four strengths of jitter from 0, "
                f"received {shares} and {list(jitter)}: set a share of 0, or a crop of 1, to leave a change out."
            )
        self.crop, self.mirror, self.jitter, self.jitter_probability = crop, mirror, tuple(jitter), jitter_probability
        self.grey, self.blur = grey, blur

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Return changed pictures (B, C, H, W) for values (B, `numbers`) in [0, 1)."""
        if self.crop < 1 or self.mirror:
            x = self._placed(x, u[:, :5])
        rows = u[:, 5] < self.jitter_probability
        # Each of the four rounds applies one change to every picture, in the picture's own order.
        order = u[:, 6:10].argsort(1)
        for turn in range(4) if self.jitter_probability else ():
            for index, change in enumerate((_brightness, _contrast, _saturation, _hue)):
                x = _where(rows & (order[:, turn] == index), x, change, self._strength(u[:, 10 + index], index))
        x = _where(u[:, 14] < self.grey, x, lambda part, _: _luminance(part).expand_as(part), u[:, 14])
        # Resampled and blurred values are means of pixels and leave [0, 1] by rounding only.
        return _where(u[:, 15] < self.blur, x, _blurred, 0.1 + 1.9 * u[:, 16]).clamp(0, 1)

    def drawn(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Return changed pictures for numbers from a generator on the device of the pictures."""
        return self(x, torch.rand(len(x), self.numbers, generator=random, device=x.device))

    def _strength(self, u: Tensor, index: int) -> Tensor:
        reach = self.jitter[index]
        if index == 3:
            return (2 * u - 1) * reach
        low = max(0.0, 1 - reach)
        return low + (1 + reach - low) * u

    def _placed(self, x: Tensor, u: Tensor) -> Tensor:
        """Return pictures that are cropped, resized and mirrored in one resampling."""
        area, ratio = self.crop + (1 - self.crop) * u[:, 0], ((2 * u[:, 1] - 1) * math.log(4 / 3)).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        if self.crop == 1:
            width, height = torch.ones_like(width), torch.ones_like(height)
        transform = x.new_zeros(len(x), 2, 3)
        transform[:, 0, 0] = width * torch.where(u[:, 4] < self.mirror, -1.0, 1.0)
        transform[:, 1, 1] = height
        transform[:, 0, 2], transform[:, 1, 2] = (1 - width) * (2 * u[:, 2] - 1), (1 - height) * (2 * u[:, 3] - 1)
        grid = F.affine_grid(transform, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _where(rows: Tensor, x: Tensor, change: Callable[[Tensor, Tensor], Tensor], strength: Tensor) -> Tensor:
    """Return x with the rows (B,) bool changed by their strength (B,)."""
    if not bool(rows.any()):
        return x
    x = x.clone()
    x[rows] = change(x[rows], strength[rows][:, None, None, None])
    return x


def _luminance(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(LUMINANCE, device=x.device)[:, None, None]).sum(1, keepdim=True)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x).clamp(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luminance(x).mean((2, 3), keepdim=True)
    return (mean + factor * (x - mean)).clamp(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    grey = _luminance(x)
    return (grey + factor * (x - grey)).clamp(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the circle; lightness and chroma of the hexagonal cone are kept."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    safe = chroma.clamp(min=1e-12)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turn[:, 0]

    def channel(offset: float) -> Tensor:
        k = (sector + offset) % 6
        return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5.0), channel(3.0), channel(1.0)], 1)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    places = torch.arange(-2.0, 3.0, device=x.device)
    weights = torch.exp(-places.square() / (2 * sigma[:, :, 0].square()))
    weights = weights / weights.sum(-1, keepdim=True)
    kernel = (weights.transpose(1, 2) * weights).repeat_interleave(x.shape[1], 0)[:, None]
    flat = F.pad(x, (2,) * 4, mode="reflect").reshape(1, -1, x.shape[2] + 4, x.shape[3] + 4)
    return F.conv2d(flat, kernel, groups=kernel.shape[0]).reshape(x.shape)

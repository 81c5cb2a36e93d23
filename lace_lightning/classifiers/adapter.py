"""Image networks of others: any module that looks at pictures, behind the size and the statistics that it was trained
with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError, in_one_line
from .published import Normalized


class WrappedImageNetwork(Normalized):
    """Pictures (B, C, R, R) in [-1, 1], resized and normalised -> `body` -> features (B, F) -> `head` -> logits.

    `resolution` is the size that the body wants (None: as they come), `mean` and `std` those of pictures in [0, 1] that
    it was trained with, and `channels` is C (None: any). Raises LaceError for `mean` or `std` of other channels.
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        num_features: int,
        resolution: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        channels: int | None = 3,
    ) -> None:
        super().__init__(_of_channels("mean", mean, channels), _of_channels("std", std, channels))
        self.channels = channels
        self.body, self.fc, self.num_features, self.resolution = body, head, num_features, resolution

    def seen(self, images: Tensor) -> Tensor:
        """Return what the body sees of pictures (B, 3, R, R) in [-1, 1]."""
        if self.resolution is not None and images.shape[-1] != self.resolution:
            images = F.interpolate(
                images, size=(self.resolution, self.resolution), mode="bicubic", antialias=True
            ).clamp(-1, 1)
        return self.normalize(images)

    def features(self, images: Tensor) -> Tensor:
        return self.body(self.seen(images))


def _of_channels(name: str, values: Sequence[float], channels: int | None) -> Sequence[float]:
    """Return one number for each channel; numbers that are all the same are of any channels."""
    if len(set(values)) == 1:
        return [values[0]] * (channels or 1)
    if channels is not None and len(values) != channels:
        raise LaceError(
            f"labeler.{name} must have {channels} number{'s' if channels > 1 else ''}, one for each channel that the "
            f"network takes, received {list(values)}: set it to those of its training."
        )
    return values


@torch.no_grad()
def channels_of(model: nn.Module, resolution: int | None) -> int | None:
    """Return how many channels a network takes: 3, 1, 4 or 2, None for any; 3 where it fails with all of them."""
    taken = []
    for channels in (3, 1, 4, 2):
        try:
            model.eval()(example_of(channels, resolution))
        except Exception:
            continue
        taken.append(channels)
    return None if len(taken) > 1 else taken[0] if taken else 3


def example_of(channels: int | None, resolution: int | None) -> Tensor:
    """Return two pictures of noise, of 3 channels where any are taken, and of 64 pixels a side where any size is."""
    side = resolution or 64
    return torch.randn(2, channels or 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(model: nn.Module, example: Tensor) -> Tensor:
    """Return what a model answers to an example (B, C, R, R). Raises LaceError unless that is finite numbers (B, L)."""
    try:
        whole = model.eval()(example)
    except Exception as error:
        raise LaceError(
            f"An image network must take pictures {tuple(example.shape)}, and {type(model).__name__} does not "
            f"({in_one_line(error, 120)}): set labeler.resolution to its size."
        ) from None
    if not isinstance(whole, Tensor) or whole.ndim != 2 or not whole.isfinite().all():
        what = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
        raise LaceError(
            f"An image network must return finite logits (B, L), and {type(model).__name__} returns {what}: wrap it."
        )
    return whole


@torch.no_grad()
def split_head(model: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Linear]:
    """Return (body, head) with head(body(x)) = model(x): its last linear layer and all before it, else itself and the
    identity.

    Raises LaceError for a model that does not turn the example (B, 3, R, R) into finite numbers (B, L).
    """
    whole = logits_of(model, example)
    for name, linear in reversed([(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]):
        if linear.out_features == whole.shape[1]:
            owner = model.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], nn.Identity())
            try:
                features = model(example)
                if torch.allclose(linear(features), whole, atol=1e-4, rtol=1e-4) and features.shape == (
                    len(example),
                    linear.in_features,
                ):
                    return model, linear
            except RuntimeError:
                pass  # something after it wants its outputs
            setattr(owner, name.rpartition(".")[2], linear)
    return model, linear_of(torch.eye(whole.shape[1]))


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return the linear layer with this weight (L, F) and bias (L,)."""
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return head


def select_outputs(head: nn.Linear, outputs: Sequence[int] | None, wanted: int, name: str) -> nn.Linear:
    """Return the head with these outputs alone, in this order (None: all). Raises LaceError unless `wanted` remain."""
    rows = list(range(head.out_features)) if outputs is None else [int(row) for row in outputs]
    if len(rows) != wanted or not all(0 <= row < head.out_features for row in rows):
        raise LaceError(
            f"The schema needs {wanted} outputs of {name}, which has {head.out_features}, and {len(rows)} were chosen: "
            f"set "
            "labeler.outputs to their numbers, in the order of the schema's classes."
        )
    return linear_of(head.weight[rows], None if head.bias is None else head.bias[rows])

"""Adapters for image networks of other programs: resizing, normalisation, and the split into features and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError, in_one_line
from ..generators.arguments import is_number, is_whole
from ..source import user_line
from .published import Normalized


class WrappedImageNetwork(Normalized):
    """Pictures (B, C, R, R) in [-1, 1], resized and normalised -> `body` -> features (B, F) -> `head` -> logits.

    Args:
        body: network of normalised pictures (B, C, R, R) that returns features (B, F).
        head: linear layer from features (B, F) to logits (B, L).
        num_features: the number F of features.
        resolution: side in pixels that pictures are resized to (bicubic, antialiased), at least 1; None for pictures
            as they are.
        mean: mean of each channel of pictures in [0, 1] that the body was trained with.
        std: standard deviation of each channel of pictures in [0, 1] that the body was trained with, above 0.
        channels: number C of channels that the body takes; None for any.

    Raises:
        LaceError: for `mean` or `std` of another number of channels, and for one that is no number.

    Example:
        >>> body = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        >>> network = WrappedImageNetwork(body, nn.Linear(12, 2), 12, resolution=8)
        >>> tuple(network.features(torch.zeros(1, 3, 16, 16)).shape), tuple(network(torch.zeros(1, 3, 16, 16)).shape)
        ((1, 12), (1, 2))
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
        super().__init__(_of_channels("mean", mean, channels), _of_channels("std", std, channels, above=0))
        self.channels = channels
        self.body, self.fc, self.num_features, self.resolution = body, head, num_features, resolution

    def seen(self, images: Tensor) -> Tensor:
        """Return the inputs of the body: pictures (B, 3, R, R) in [-1, 1], resized and normalised."""
        if self.resolution is not None and images.shape[-1] != self.resolution:
            images = F.interpolate(
                images, size=(self.resolution, self.resolution), mode="bicubic", antialias=True
            ).clamp(-1, 1)
        return self.normalize(images)

    def features(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(self.seen(images))
        return result


def _of_channels(
    name: str, values: Sequence[float], channels: int | None, above: float | None = None
) -> Sequence[float]:
    """Return one number for each channel; numbers that are all the same are of any channels."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    if not (is_list and all(is_number(value) and (above is None or value > above) for value in values)):
        raise LaceError(
            f"labeler.{name} must be a list of numbers{'' if above is None else f' above {above:g}'}, one for each "
            f"channel, received {values!r}: correct it."
        )
    if len(set(values)) == 1:
        return [values[0]] * (channels or 1)
    if channels is not None and len(values) != channels:
        raise LaceError(
            f"labeler.{name} must have {channels} number{'s' if channels > 1 else ''}, one for each channel that the "
            f"network takes, received {list(values)}: set it to those of its training."
        )
    return values


@torch.no_grad()
def channels_of(model: nn.Module, resolution: int | None, image_shape: Sequence[int] | None = None) -> int | None:
    """Return how many channels a network takes: 3, 1, 4 or 2, None for any.

    Where it fails with all of them, the number is that of `image_shape`, 3 without one.

    Args:
        model: network of pictures (B, C, R, R), which is put into evaluation mode.
        resolution: side in pixels of the pictures that are tried; None for those of `image_shape`.
        image_shape: (C, H, W) of the pictures that it is for; None where it is not known.
    """
    own, taken = 3 if image_shape is None else image_shape[0], []
    for channels in dict.fromkeys((own, 3, 1, 4, 2)):
        try:
            model.eval()(example_of(channels, resolution, image_shape))
        except Exception:
            continue
        taken.append(channels)
    return None if len(taken) > 1 else taken[0] if taken else own


def example_of(channels: int | None, resolution: int | None, image_shape: Sequence[int] | None = None) -> Tensor:
    """Return two pictures of noise (2, C, R, R), or (2, C, H, W) without a resolution.

    Args:
        channels: number C of channels; None for that of `image_shape`, 3 without one.
        resolution: side R in pixels; None for those of `image_shape`, 64 without one.
        image_shape: (C, H, W) of the pictures that a network is for; None where it is not known.

    Raises:
        LaceError: for a resolution below 1.

    Example:
        >>> example_of(None, None, (1, 28, 20)).shape
        torch.Size([2, 1, 28, 20])
    """
    if resolution is not None and not (is_whole(resolution) and resolution >= 1):
        raise LaceError(
            f"labeler.resolution must be a whole number of pixels of at least 1 or null, received {resolution!r}: "
            "correct it."
        )
    known, height, width = (3, 64, 64) if image_shape is None else image_shape
    sides = (height, width) if resolution is None else (resolution, resolution)
    return torch.randn(2, channels or known, *sides, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(model: nn.Module, example: Tensor) -> Tensor:
    """Return the outputs of a model on an example; the model is put into evaluation mode.

    Args:
        model: network of pictures (B, 3, R, R).
        example: pictures (B, 3, R, R).

    Returns:
        Logits (B, L).

    Raises:
        LaceError: when the model does not take the example, or does not return finite numbers (B, L).

    Example:
        >>> logits_of(nn.Flatten(), torch.zeros(2, 3, 1, 1)).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    try:
        whole = model.eval()(example)
    except Exception as error:
        raise LaceError(
            f"An image network must take pictures {tuple(example.shape)}, and {type(model).__name__} does not "
            f"({in_one_line(error, 120)}{user_line(error)}): set labeler.resolution to its size."
        ) from None
    if not isinstance(whole, Tensor) or whole.ndim != 2 or not whole.isfinite().all():
        received = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
        raise LaceError(
            f"An image network must return finite logits (B, L), and {type(model).__name__} returns {received}: wrap "
            "it in a module that returns the logits alone."
        )
    return whole


@torch.no_grad()
def split_head(model: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Linear]:
    """Return (body, head) with head(body(x)) = model(x): the last linear layer, and all layers before it.

    Where the logits are not the outputs of a linear layer, the body is the model and the head is the identity.

    Args:
        model: network of pictures (B, 3, R, R) that returns logits (B, L). Its last linear layer is replaced by the
            identity in place.
        example: pictures (B, 3, R, R) on which head(body(x)) and model(x) are compared.

    Returns:
        The body, which returns features (B, F), and the head, a linear layer from features to logits (B, L).

    Raises:
        LaceError: when the model does not turn the example into finite numbers (B, L).

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> body, head = split_head(model, torch.randn(2, 3, 2, 2))
        >>> tuple(body(torch.zeros(1, 3, 2, 2)).shape), head.out_features
        ((1, 5), 2)
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
                pass  # A later layer needs the outputs of this one.
            setattr(owner, name.rpartition(".")[2], linear)
    return model, linear_of(torch.eye(whole.shape[1]))


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return the linear layer of a weight and a bias.

    Args:
        weight: weight (L, F).
        bias: bias (L,); None for a layer without bias.

    Returns:
        A layer from features (B, F) to logits (B, L).

    Example:
        >>> linear_of(2 * torch.eye(2))(torch.ones(1, 2)).tolist()
        [[2.0, 2.0]]
    """
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return head


def select_outputs(head: nn.Linear, outputs: Sequence[int] | None, wanted: int, name: str) -> nn.Linear:
    """Return a head with some of the outputs of another one.

    Args:
        head: linear layer with L outputs.
        outputs: numbers of the chosen outputs in their new order, from 0 to L - 1; None for all.
        wanted: the number of outputs that is required.
        name: name of the network in messages.

    Returns:
        A linear layer with `wanted` outputs.

    Raises:
        LaceError: when the chosen outputs are not `wanted` in number, or one does not exist.

    Example:
        >>> select_outputs(linear_of(torch.eye(3)), [2, 0], 2, "network")(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[3.0, 1.0]]
    """
    rows = list(range(head.out_features)) if outputs is None else [int(row) for row in outputs]
    if len(rows) != wanted or not all(0 <= row < head.out_features for row in rows):
        raise LaceError(
            f"The schema needs {wanted} outputs of {name}, which has {head.out_features}, and {len(rows)} were chosen: "
            "set labeler.outputs to their numbers, in the order of the schema's classes."
        )
    return linear_of(head.weight[rows], None if head.bias is None else head.bias[rows])

"""Outputs of a layer inside of a network, which is computed no further than that layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import LaceError, suggest


class _Reached(BaseException):
    """The output of a layer, on its way out of the network; no error, so that no handler of errors keeps it."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def layer_named(network: nn.Module, name: str) -> nn.Module:
    """Return a submodule of a network.

    Args:
        network: the network.
        name: its dotted name, such as decoder.2.

    Raises:
        LaceError: where there is none of that name.

    Example:
        >>> layer_named(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "1")
        ReLU()
    """
    known = [own for own, _ in network.named_modules() if own]
    if name not in known:
        some = f"such as {', '.join(known[:8])}" if known else "and it has none"
        raise LaceError(
            f"The features of a generator must be the output of a submodule, {some}, received '{name}': correct "
            f"generator.features.{suggest(name, known)}"
        )
    return network.get_submodule(name)


def layer_output(layer: nn.Module, run: Callable[[Tensor], Any], inputs: Tensor, name: str) -> Tensor:
    """Return the first output of a layer while a function runs on inputs, flat.

    Args:
        layer: the layer.
        run: function that runs a network with this layer; it is ended at the layer.
        inputs: inputs (B, ...) of the function.
        name: name of the layer, for messages.

    Returns:
        Features (B, F): the tensor that the layer returns, or the first one of several.

    Raises:
        LaceError: for a layer that is not run, and for an output that is no tensor of B rows.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (3, 1)), nn.Flatten())
        >>> layer_output(network[1], network, torch.zeros(5, 2), "1").shape
        torch.Size([5, 3])
    """

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        raise _Reached(output)

    handle = layer.register_forward_hook(stop)
    try:
        run(inputs)
    except _Reached as reached:
        output = reached.output
    else:
        raise LaceError(
            f"The features of a generator must be the output of a layer that makes pictures, and '{name}' is not run: "
            "name another submodule as generator.features."
        )
    finally:
        handle.remove()
    parts = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else [output]
    )
    features = next((part for part in parts if isinstance(part, Tensor)), None)
    if features is None or features.ndim < 2 or len(features) != len(inputs):
        received = type(output).__name__ if features is None else f"the shape {tuple(features.shape)}"
        raise LaceError(
            f"The features of a generator must have a row for each of {len(inputs)} latents, and '{name}' returns "
            f"{received}: name another submodule as generator.features."
        )
    return features.flatten(1)

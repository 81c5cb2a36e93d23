"""Networks of latent classifiers: multilayer perceptrons with leaky ReLU of slope 0.2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import LaceError
from ..numerics.mlp import Layer, leaky_mlp, linearized_leaky_mlp
from ..numerics.weight_cache import WeightCache

MODES = ("single", "separate")


class LatentMLP(nn.Module):
    """Latents (B, D) -> logits (B, ΣL_i) for attributes with L_i logits each.

    The activation is a leaky ReLU of slope 0.2. Weights are (K, in, out) for K networks, initialised as nn.Linear.
    Separate networks are computed together in batched products.

    Args:
        input_dim: dimension D of the latents, at least 1.
        head_sizes: number L_i of logits of each attribute, at least 1.
        hidden: width of each hidden layer, at least 1.
        mode: single for one network with a head for each attribute, separate for one network for each attribute.

    Raises:
        LaceError: when the mode is unknown; when latents of another dimension are given.

    References:
        The latent classifier of LACE, d-384-256-128-#logits (arXiv 2110.10873).

    Example:
        >>> network = LatentMLP(input_dim=4, head_sizes=[2, 1], hidden=[8], mode="separate")
        >>> u = torch.zeros(5, 4)
        >>> logits, vjp = network.linearize(u)
        >>> tuple(network(u).shape), tuple(vjp(torch.ones(5, 3)).shape)
        ((5, 3), (5, 4))
    """

    columns: Tensor

    def __init__(
        self, input_dim: int, head_sizes: Sequence[int], hidden: Sequence[int] = (384, 256, 128), mode: str = "single"
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise LaceError(
                f"A latent classifier's mode must be {' or '.join(MODES)}, received '{mode}': set "
                "classifier.arguments.mode."
            )
        self.input_dim, self.mode, self.head_sizes, self.hidden = input_dim, mode, list(head_sizes), list(hidden)
        networks = [sum(head_sizes)] if mode == "single" else list(head_sizes)
        self.num_networks, self.num_hidden = len(networks), len(hidden)
        widths = [input_dim, *hidden, max(networks)]
        for index in range(len(widths) - 1):
            bound = 1 / math.sqrt(widths[index])
            shape = (self.num_networks, widths[index], widths[index + 1])
            self.register_parameter(f"weight{index}", nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
            self.register_parameter(
                f"bias{index}", nn.Parameter(torch.empty(shape[0], shape[2]).uniform_(-bound, bound))
            )
        self.register_buffer("columns", _padded_columns(networks), persistent=False)
        self.kept = WeightCache()

    def part(self, heads: Sequence[int]) -> LatentMLP:
        """Return a frozen copy with some of the heads, without the other networks where they are separate.

        Args:
            heads: numbers of the attributes, from 0.
        """
        with torch.device("meta"):
            result = LatentMLP(self.input_dim, [self.head_sizes[head] for head in heads], self.hidden, self.mode)
        sizes = result.head_sizes
        if self.mode == "separate":
            networks, columns, outputs = list(heads), list(range(max(sizes))), sizes
        else:
            starts = [sum(self.head_sizes[:head]) for head in heads]
            networks, outputs = [0], [sum(sizes)]
            columns = [start + column for start, size in zip(starts, sizes, strict=True) for column in range(size)]
        for index in range(self.num_hidden + 1):
            weight, bias = (getattr(self, f"{name}{index}").detach()[networks] for name in ("weight", "bias"))
            if index == self.num_hidden:
                weight, bias = weight[..., columns], bias[..., columns]
            setattr(result, f"weight{index}", nn.Parameter(weight, requires_grad=False))
            setattr(result, f"bias{index}", nn.Parameter(bias, requires_grad=False))
        result.columns = _padded_columns(outputs).to(self.columns.device)
        return result

    @torch.no_grad()
    def scale_outputs(self, factors: Tensor) -> None:
        """Multiply the logits by factors, in the weights of the last layer.

        Args:
            factors: a factor (ΣL_i,) for each logit.
        """
        weight, bias = getattr(self, f"weight{self.num_hidden}"), getattr(self, f"bias{self.num_hidden}")
        padded = torch.ones_like(bias).flatten()
        padded[self.columns] = factors.to(padded)
        weight.mul_(padded.view_as(bias)[:, None])
        bias.mul_(padded.view_as(bias))

    def _layer(self, index: int) -> Layer:
        weight, bias = getattr(self, f"weight{index}"), getattr(self, f"bias{index}")
        return (weight[0], bias[0]) if self.num_networks == 1 else (weight, bias)

    def _hidden_layers(self) -> list[Layer]:
        return [self._layer(index) for index in range(self.num_hidden)]

    def _inputs(self, u: Tensor) -> Tensor:
        u = u.flatten(1)
        if u.shape[1] != self.input_dim:
            raise LaceError(
                f"The classifier needs latents of {self.input_dim} numbers, received {u.shape[1]}: give latents of "
                "the generator and the space that it was trained on."
            )
        return u if self.num_networks == 1 else u.expand(self.num_networks, *u.shape)

    def _head(self, h: Tensor) -> Tensor:
        weight, bias = self._layer(self.num_hidden)
        if self.num_networks == 1:
            return torch.addmm(bias, h, weight)
        return torch.baddbmm(bias[:, None], h, weight).transpose(0, 1).flatten(1)[:, self.columns]

    def forward(self, u: Tensor) -> Tensor:
        """Return the logits (B, ΣL_i) of latents (B, D)."""
        return self._head(leaky_mlp(self._inputs(u), self._hidden_layers()))

    @torch.no_grad()
    def linearize(self, u: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the logits and their vector-Jacobian product in closed form, both detached.

        Args:
            u: latents (B, D).

        Returns:
            Logits (B, ΣL_i), and the function g ↦ gᵀ·∂logits/∂u from (B, ΣL_i) to the shape of u.
        """
        h, inner = linearized_leaky_mlp(
            self._inputs(u), [(w.detach(), b.detach()) for w, b in self._hidden_layers()], kept=self.kept
        )
        weight = self._layer(self.num_hidden)[0].detach()

        def vjp(gradient: Tensor) -> Tensor:
            if self.num_networks == 1:
                return inner(gradient @ weight.mT).reshape(u.shape)
            full = gradient.new_zeros(len(gradient), self.num_networks * weight.shape[2])
            full[:, self.columns] = gradient
            blocks = full.reshape(len(gradient), self.num_networks, -1).transpose(0, 1)
            return inner(blocks @ weight.mT).sum(0).reshape(u.shape)

        return self._head(h), vjp


def _padded_columns(outputs: Sequence[int]) -> Tensor:
    """Return the columns of outputs where networks with fewer outputs are padded to the widest."""
    return torch.tensor(
        [network * max(outputs) + column for network, size in enumerate(outputs) for column in range(size)]
    )

"""StyleGAN2 as a frozen generator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..artifacts import digest, load_tensors, save_tensors
from ..errors import LaceError
from ..numerics.mlp import Layer, leaky_mlp, linearized_leaky_mlp
from ..numerics.precision import check_precision, compute_dtype
from ..numerics.weight_cache import WeightCache
from ..weights import weight_path
from .base import Generator
from .stylegan2_layers import SQRT_2
from .stylegan2_networks import MappingNetwork, StyleGAN2Network, StyleNetwork, normalize


class TruncatedMapping(nn.Module):
    """w = w̄ + ψ(g(z) - w̄): the mapping network with truncation ψ, (B, Dz) -> (B, Dw), for one condition c.

    Gains are folded into the weights once: √2·leaky-ReLU(Wx + b) = leaky-ReLU(√2·Wx + √2·b).
    """

    w_avg: Tensor
    embedded: Tensor | None

    def __init__(self, network: MappingNetwork, truncation: float = 1.0, condition: Tensor | None = None) -> None:
        super().__init__()
        if network.c_dim > 0 and condition is None:
            raise LaceError(
                f"The generator is conditional on {network.c_dim} numbers and received none: set condition to a "
                "class number or to a list of that length."
            )
        self.truncation, self.num_layers, self.kept = float(truncation), network.num_layers, WeightCache()
        self.register_buffer("w_avg", network.w_avg.detach().clone(), persistent=False)
        embedded = None if condition is None else normalize(network.embed(condition[None].float())).detach()
        self.register_buffer("embedded", embedded, persistent=False)
        for index in range(network.num_layers):
            layer = getattr(network, f"fc{index}")
            self.register_buffer(
                f"weight{index}", (layer.weight.detach() * layer.weight_gain * SQRT_2).T.contiguous(), persistent=False
            )
            self.register_buffer(f"bias{index}", layer.bias.detach() * layer.bias_gain * SQRT_2, persistent=False)

    def _layers(self) -> list[Layer]:
        return [(getattr(self, f"weight{index}"), getattr(self, f"bias{index}")) for index in range(self.num_layers)]

    def _inputs(self, x: Tensor) -> Tensor:
        return x if self.embedded is None else torch.cat([x, self.embedded.expand(len(x), -1)], dim=1)

    def _truncate(self, w: Tensor) -> Tensor:
        return w if self.truncation == 1 else self.w_avg.lerp(w, self.truncation)

    def forward(self, z: Tensor) -> Tensor:
        return self._truncate(leaky_mlp(self._inputs(normalize(z)), self._layers()))

    def linearize(self, z: Tensor) -> tuple[Tensor, Any]:
        """Return w and the function g ↦ gᵀ·∂w/∂z in closed form, detached."""
        z = z.detach()
        scale = torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        w, inner = linearized_leaky_mlp(self._inputs(z * scale), self._layers(), kept=self.kept)

        def vjp(gradient: Tensor) -> Tensor:
            gradient = inner(gradient * self.truncation)[:, : z.shape[1]]
            along = (gradient * z).mean(1, keepdim=True)
            return scale * gradient - scale**3 * along * z

        return self._truncate(w), vjp


class StyleGAN2Generator(Generator):
    """A trained StyleGAN2 network for use: truncation, fixed noise, precision, pictures clamped to [-1, 1].

    `truncation` ψ moves w towards its mean inside g, so that the classifier sees what is drawn; with
    `truncation_cutoff` only the first so many style layers are truncated, when they are given their w. `condition` is
    the class number or vector of a conditional network. `precision` is that of the synthesis features; "auto" is
    bfloat16 where the processor or the GPU computes it natively, float32 elsewhere and wherever gradients run through
    the pictures. `max_batch` and `memory` are those of `Generator`.
    """

    network_class: ClassVar[type[StyleNetwork]] = StyleGAN2Network

    def __init__(
        self,
        network: StyleNetwork,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        condition: int | Sequence[float] | None = None,
        noise: str = "const",
        precision: str = "float32",
        max_batch: int | str = "auto",
        memory: float | None = None,
    ) -> None:
        resolution = network.synthesis.img_resolution
        super().__init__(
            network.z_dim,
            network.w_dim,
            (network.synthesis.img_channels, resolution, resolution),
            network.num_ws,
            max_batch=max_batch,
            memory=memory,
        )
        if noise not in ("const", "none"):
            raise LaceError(f"The noise of a frozen generator must be const or none, received '{noise}'.")
        self.network = network
        self.noise, self.precision = noise, check_precision(precision)
        self.truncation, self.truncation_cutoff = truncation, truncation_cutoff
        self.condition = _condition(network.c_dim, condition)
        self.mapping = TruncatedMapping(
            network.mapping, 1.0 if truncation_cutoff is not None else truncation, self.condition
        )
        self.frozen()

    def describe(self) -> dict[str, Any]:
        condition = None if self.condition is None else self.condition.tolist()
        return {
            **super().describe(),
            "truncation": self.truncation,
            "truncation_cutoff": self.truncation_cutoff,
            "condition": condition,
            "noise": self.noise,
        }

    def digest_for(self, space: str) -> str:
        # What a w looks like does not depend on how far it was moved towards the mean.
        untruncated = {**self.describe(), "truncation": 1.0, "truncation_cutoff": None}
        return digest({"settings": untruncated, "state": dict(self.state_dict())}) if space == "w" else self.digest

    def broadcast(self, w: Tensor) -> Tensor:
        ws = super().broadcast(w)
        if self.truncation_cutoff is None or self.truncation == 1:
            return ws
        cut = self.truncation_cutoff
        mean = self.network.mapping.w_avg
        return torch.cat([mean.lerp(ws[:, :cut], self.truncation), ws[:, cut:]], dim=1)

    def bytes_per_picture(self) -> int:
        return self.network.synthesis.bytes_per_picture(compute_dtype(self.precision, self.device), self.device)

    def render(self, ws: Tensor) -> Tensor:
        # Solvers with error control need gradients as exact as their tolerance.
        exact = self.precision == "auto" and ws.requires_grad
        dtype = torch.float32 if exact else compute_dtype(self.precision, ws.device)
        images = self.network.synthesis(ws, self.noise, dtype)
        return images.clamp(-1, 1) if images.requires_grad else images.clamp_(-1, 1)

    @classmethod
    def from_weights(cls, weights: str | os.PathLike[str], **options: Any) -> StyleGAN2Generator:
        """Load shipped weights by name, or a file that `save_network` wrote. Raises LaceError for missing or damaged
        weights.
        """
        tensors, config = read_network(weights, cls.network_class.kind)
        network = cls.network_class(**config["network"])
        network.load_state_dict(tensors)
        return cls(network, **{**config.get("options", {}), **options})


def read_network(
    weights: str | os.PathLike[str], kind: str = StyleGAN2Network.kind
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a network and its configuration. Raises LaceError for missing or damaged weights, and another
    kind.
    """
    tensors, config = load_tensors(weight_path(weights))
    if config.get("kind") != kind:
        raise LaceError(
            f"The weights '{weights}' must be a {kind.replace('stylegan', 'StyleGAN')} generator and are of kind "
            f"'{config.get('kind')}'."
        )
    return tensors, config


def save_network(
    network: StyleNetwork,
    config: Mapping[str, Any],
    path: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network built with `type(network)(**config)` in `dtype` (None: as it is); `options` are defaults for use.

    Half precision is not for StyleGAN3: the frequencies of its Fourier features lose so many digits that pictures move.
    """
    save_tensors(
        path, network.state_dict(), {"kind": network.kind, "network": config, "options": dict(options or {})}, dtype
    )


def _condition(c_dim: int, condition: int | Sequence[float] | None) -> Tensor | None:
    if condition is None:
        return None
    vector = (
        torch.eye(c_dim)[condition]
        if isinstance(condition, int) and condition < c_dim
        else torch.as_tensor(condition, dtype=torch.float32)
    )
    if vector.shape != (c_dim,):
        raise LaceError(f"The condition must be a class number below {c_dim} or {c_dim} numbers, received {condition}.")
    return vector

"""Frozen StyleGAN2 generators, and their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..artifacts import digest, load_config, load_tensors, save_tensors
from ..errors import LaceError, in_one_line, quoted
from ..numerics.mlp import Layer, leaky_mlp, linearized_leaky_mlp
from ..numerics.precision import check_precision, compute_dtype
from ..numerics.weight_cache import WeightCache
from ..weights import weight_path
from .arguments import checked_table, is_whole, names_of, require_choice, require_number, require_whole
from .base import Generator
from .stylegan2_layers import SQRT_2
from .stylegan2_networks import MappingNetwork, StyleGAN2Network, StyleNetwork, network_from, normalize


class TruncatedMapping(nn.Module):
    """The mapping network with truncation for one condition: w = w̄ + ψ(g(z) - w̄), z (B, Dz) -> w (B, Dw).

    The weights are copied, with gains folded into them: √2·leaky-ReLU(Wx + b) = leaky-ReLU(√2·Wx + √2·b).

    Args:
        network: the mapping network g, with its mean w̄ (Dw,).
        truncation: ψ; 1 leaves w as it is, 0 gives w̄.
        condition: vector c (c_dim,) of a conditional network; None for an unconditional one.

    Raises:
        LaceError: when the network is conditional and no condition is given.

    References:
        Appendix B of StyleGAN (arXiv 1812.04948) for the truncation.

    Example:
        >>> mapping = TruncatedMapping(MappingNetwork(4, 0, 6, num_layers=2), truncation=0.0)
        >>> mapping(torch.randn(1, 4)).tolist()
        [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
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
        """Return w (B, Dw) and the function g (B, Dw) ↦ gᵀ·∂w/∂z (B, Dz) in closed form, both detached."""
        z = z.detach()
        scale = torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        w, inner = linearized_leaky_mlp(self._inputs(z * scale), self._layers(), kept=self.kept)

        def vjp(gradient: Tensor) -> Tensor:
            gradient = inner(gradient * self.truncation)[:, : z.shape[1]]
            along = (gradient * z).mean(1, keepdim=True)
            return scale * gradient - scale**3 * along * z

        return self._truncate(w), vjp


class StyleGAN2Generator(Generator):
    """A frozen StyleGAN2 generator with truncation, fixed noise and pictures clamped to [-1, 1].

    Truncation is part of the mapping, so that a classifier of w is given the w that is rendered.

    Args:
        network: the network, for example a `StyleGAN2Network`. It is used itself, and frozen.
        truncation: ψ, a finite number, moves w towards its mean: 1 leaves w as it is, 0 gives the mean.
        truncation_cutoff: number of the first style layers that are truncated, at least 0. They are truncated in
            `broadcast`, and not in the mapping. None truncates all of them in the mapping.
        condition: class number from 0, or vector of c_dim numbers, of a conditional network; None for an unconditional
            one.
        noise: "const" adds the stored noise of each layer, "none" adds none.
        precision: format of the synthesis features: float32, bfloat16, float16 or auto. "auto" is bfloat16 where the
            device computes it natively, and float32 elsewhere and where w requires a gradient.
        max_batch: pictures computed at a time, at least 1, or "auto" for as many as fit into `memory`.
        memory: GiB above 0 for "auto"; None for half of the free memory.

    Raises:
        LaceError: for a missing or unsuitable condition, and a value of another argument that is out of range.

    References:
        StyleGAN2 (arXiv 1912.04958).

    Example:
        >>> network = StyleGAN2Network(4, 6, img_resolution=8, synthesis_kwargs={"channel_base": 32})
        >>> generator = StyleGAN2Generator(network, truncation=0.7)
        >>> z = generator.prior(2, seed=0)
        >>> generator.mapping(z).shape, generator.num_ws, generator(z).shape
        (torch.Size([2, 6]), 4, torch.Size([2, 3, 8, 8]))
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
        require_choice("noise", noise, ("const", "none"))
        truncation = float(require_number("truncation", truncation) or 0.0)
        if truncation_cutoff is not None:
            truncation_cutoff = require_whole("truncation_cutoff", truncation_cutoff, 0)
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
        # The picture of a given w does not depend on the truncation.
        untruncated = {**self.describe(), "truncation": 1.0, "truncation_cutoff": None}
        return (
            digest({"settings": untruncated, "state": dict(self.state_dict())})
            if space == "w"
            else super().digest_for(space)
        )

    def broadcast(self, w: Tensor) -> Tensor:
        ws = super().broadcast(w)
        if self.truncation_cutoff is None or self.truncation == 1:
            return ws
        cut = self.truncation_cutoff
        mean = self.network.mapping.w_avg
        return torch.cat([mean.lerp(ws[:, :cut], self.truncation), ws[:, cut:]], dim=1)

    def bytes_per_picture(self) -> int:
        result: int = self.network.synthesis.bytes_per_picture(compute_dtype(self.precision, self.device), self.device)
        return result

    @property
    def feature_network(self) -> nn.Module:
        """The network, with its parts `mapping` and `synthesis`."""
        return self.network

    def render_exactly(self, ws: Tensor) -> Tensor:
        images: Tensor = self.network.synthesis(ws, self.noise, torch.float32)
        return images.clamp(-1, 1)

    def render(self, ws: Tensor) -> Tensor:
        # Solvers with error control need gradients as exact as their tolerance.
        exact = self.precision == "auto" and ws.requires_grad
        dtype = torch.float32 if exact else compute_dtype(self.precision, ws.device)
        images = self.network.synthesis(ws, self.noise, dtype)
        result: Tensor = images.clamp(-1, 1) if images.requires_grad else images.clamp_(-1, 1)
        return result

    @classmethod
    def from_weights(cls, weights: str | os.PathLike[str], **options: Any) -> StyleGAN2Generator:
        """Return the generator of shipped weights by name, or of a file that `save_network` wrote.

        `options` are arguments of the class, in place of those stored in the file. Raises LaceError for missing or
        damaged weights, for another kind of generator, and for a configuration in the file that makes none.
        """
        tensors, config = read_network(weights, cls.network_class.kind)
        network = network_from(cls.network_class, config.get("network"), tensors, "get the file again")
        stored = checked_table("options", config.get("options"), names_of(cls.__init__, without=("self", "network")))
        return cls(network, **{**stored, **options})


def read_network(
    weights: str | os.PathLike[str], kind: str = StyleGAN2Network.kind
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the configuration of a network that `save_network` wrote.

    Args:
        weights: name of shipped weights, or the path of a .safetensors file.
        kind: required kind, "stylegan2" or "stylegan3".

    Returns:
        Tensors by the names of the network, float32 where they were stored in half precision, and the configuration:
        `kind`, `network` (constructor arguments) and `options` (arguments of the generator).

    Raises:
        LaceError: for missing or damaged weights, and for another kind.

    Example:
        >>> tensors, config = read_network("cifar10_generator")
        >>> config["network"]["z_dim"]
        128
    """
    path = weight_path(weights)
    found = own_kind(path)
    if found != kind:
        raise LaceError(
            f"The weights '{weights}' must be a {kind.replace('stylegan', 'StyleGAN')} generator and are of kind "
            f"{quoted(found)}: give another file."
        )
    return load_tensors(path)


def own_kind(path: str | os.PathLike[str]) -> str:
    """Return the kind of the network in a file of this program.

    Args:
        path: a .safetensors file.

    Raises:
        LaceError: for a file that is missing, damaged or of another program, and for a configuration without a kind.

    Example:
        >>> own_kind(weight_path("cifar10_generator"))
        'stylegan2'
    """
    try:
        config = load_config(path)
        if isinstance(config, dict) and isinstance(config.get("kind"), str):
            result: str = config["kind"]
            return result
        reason = "is no table with a kind"
    except RecursionError as error:
        reason = f"cannot be read ({in_one_line(error, 60)})"
    raise LaceError(
        f"The weights '{path}' must have a configuration of this program, and theirs {reason}: get the file again."
    )


def save_network(
    network: StyleNetwork,
    config: Mapping[str, Any],
    path: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network as a safetensors file that `load_generator` reads.

    StyleGAN3 needs float32: in half precision the frequencies of its Fourier features lose so many digits that the
    pictures move.

    Args:
        network: a network built as `type(network)(**config)`.
        config: its constructor arguments, plain values.
        path: the file, which ends in .safetensors.
        options: default arguments of the generator, such as the truncation; None for none.
        dtype: type in which the tensors are stored; None keeps each one's own.

    Raises:
        LaceError: when the file cannot be written.

    Example:
        >>> import tempfile
        >>> config = {"z_dim": 4, "w_dim": 4, "img_resolution": 8, "synthesis_kwargs": {"channel_base": 32}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_network(StyleGAN2Network(**config), config, f"{folder}/g.safetensors", {"truncation": 0.7})
        ...     StyleGAN2Generator.from_weights(f"{folder}/g.safetensors").truncation
        0.7
    """
    save_tensors(
        path, network.state_dict(), {"kind": network.kind, "network": config, "options": dict(options or {})}, dtype
    )


def _condition(c_dim: int, condition: int | Sequence[float] | None) -> Tensor | None:
    if condition is None:
        return None
    if is_whole(condition) and 0 <= condition < c_dim:
        return torch.nn.functional.one_hot(torch.tensor(int(condition)), c_dim).float()
    try:
        vector = torch.as_tensor(condition, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        vector = torch.empty(0, 0)
    if not c_dim or vector.shape != (c_dim,) or not vector.isfinite().all():
        raise LaceError(
            f"The condition must be a class number from 0 below {c_dim} or {c_dim} finite numbers, received "
            f"{quoted(condition)[1:-1]}: {'correct the condition' if c_dim else 'set condition to null'}."
        )
    return vector

"""Who is in the picture: unit vectors that are near each other for pictures of one person."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artifacts import digest, load_tensors, save_tensors
from ..errors import LaceError
from .networks import build_network


class IdentityEmbedding(nn.Module):
    """Pictures (B, 3, R, R) in [-1, 1] -> unit vectors (B, size): an image network whose head is the embedding."""

    def __init__(self, network: str = "resnet9", arguments: Mapping[str, Any] | None = None, size: int = 64) -> None:
        super().__init__()
        self.network_name, self.arguments, self.size = network, dict(arguments or {}), size
        self.network = build_network(network, num_logits=size, **self.arguments)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(images).float(), dim=1)

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return ‖e(first) - e(second)‖ (B,), from 0 (one person) to 2, for two batches of pictures."""
        return (self(first) - self(second)).norm(dim=1)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of configuration and weights."""
        return digest({"config": self._config(), "state": dict(self.network.state_dict())})

    def _config(self) -> dict[str, Any]:
        return {"kind": "identity", "network": self.network_name, "arguments": self.arguments, "size": self.size}

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **metadata: Any) -> None:
        """Write weights and configuration as safetensors, atomically."""
        save_tensors(path, self.network.state_dict(), {**self._config(), "metadata": metadata}, dtype)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> IdentityEmbedding:
        """Read what `save` wrote, frozen. Raises LaceError for missing, damaged or other weights."""
        tensors, config = load_tensors(path)
        if config.get("kind") != "identity":
            raise LaceError(f"The weights '{path}' must be an identity embedding and are of kind '{config.get('kind')}'.")
        result = cls(config["network"], config["arguments"], config["size"])
        result.network.load_state_dict(tensors)
        return result.eval().requires_grad_(False)

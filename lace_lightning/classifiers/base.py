"""A network together with what it was trained for: schema, space, generator."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..artifacts import digest, load_tensors, save_tensors
from ..energies import Energy, build
from ..errors import LaceError, in_one_line, quoted, suggest
from ..query import Query, parse
from ..schema import Labels, Schema
from .latent import LatentMLP
from .networks import IMAGE_NETWORKS

SPACES = ("z", "w", "x")
Loaded = TypeVar("Loaded", bound=Any)
# Largest number in the settings of a classifier in a file.
MAX_SIZE = 2**17


def build_classifier_network(network: str, schema: Schema, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a new network with the outputs of `schema`: `mlp` on latents, or an image network by name."""
    names = ("mlp", *IMAGE_NETWORKS)
    if network not in names:
        raise LaceError(
            f"The classifier networks are {', '.join(names)}, received '{network}'.{suggest(network, names)}"
        )
    if network == "mlp":
        return LatentMLP(head_sizes=[attribute.num_logits for attribute in schema], **arguments)
    return IMAGE_NETWORKS[network](num_logits=schema.num_logits, **arguments)


class AttributeClassifier(nn.Module):
    """u ↦ logits (B, schema.num_logits), u in `space`: z, w, or x (pictures (B, C, H, W) in [-1, 1]).

    `network` is the name of one, built from `arguments`, or a module of one's own, which `arguments` describe and no
    file can hold. `generator` is the digest of the generator whose latents it was trained on (None for pictures of the
    world), `metadata` what its file says beside that.
    """

    def __init__(
        self,
        schema: Schema,
        space: str,
        network: str | nn.Module = "mlp",
        arguments: Mapping[str, Any] | None = None,
        generator: str | None = None,
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise LaceError(f"A classifier's space must be one of {', '.join(SPACES)}, received '{space}'.")
        self.schema, self.space, self.generator = schema, space, generator
        self.network_name, self.arguments = (
            network if isinstance(network, str) else type(network).__name__,
            dict(arguments or {}),
        )
        self.metadata: dict[str, Any] = {}
        self.network = (
            build_classifier_network(network, schema, self.arguments) if isinstance(network, str) else network
        )
        if hasattr(self.network, "linearize"):
            self.linearize = self.network.linearize

    def forward(self, u: Tensor) -> Tensor:
        return self.network(u)

    def scale_logits(self, factors: Mapping[str, float]) -> None:
        """Multiply the logits of these attributes from now on, in the weights. Raises LaceError where the last layer is
        not linear.
        """
        columns = torch.ones(self.schema.num_logits)
        for name, factor in factors.items():
            columns[self.schema.slices[self.schema[name].name]] = factor
        self.network.scale_outputs(columns)  # type: ignore[operator]

    def part(self, names: Sequence[str]) -> AttributeClassifier:
        """Return the classifier for these attributes alone, which of separate networks needs no others; itself where it
        has no parts.
        """
        schema = self.schema.part(names)
        if not isinstance(self.network, LatentMLP) or len(schema) == len(self.schema):
            return self
        with torch.device("meta"):
            result = AttributeClassifier(schema, self.space, self.network_name, self.arguments, self.generator)
        part = self.network.part([self.schema.index(name) for name in schema.names])
        result.network = part
        result.linearize = part.linearize  # type: ignore[assignment]
        return result.train(self.training)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of configuration and weights."""
        return digest({"config": self._config(), "state": dict(self.network.state_dict())})

    def energy(
        self,
        query: str | Query,
        free: Labels | None = None,
        logic: str = "exact",
        sigma: float = 0.1,
        temperature: float = 1.0,
        paper_temperature: bool = False,
        weight: float = 1.0,
        hard: bool = False,
    ) -> Energy:
        """Return the energy of a query on u (B, D); see `lace_lightning.energies.build` for the options."""
        query = parse(query, self.schema) if isinstance(query, str) else query.on(self.schema)
        return build(query, free, logic, sigma, temperature, paper_temperature, weight, hard).pullback(self)

    def check_generator(self, generator_digest: str) -> None:
        """Refuse (LaceError) a generator other than the one it was trained on."""
        if self.generator is not None and self.generator != generator_digest:
            raise LaceError(
                f"The classifier was trained on the latents of generator {self.generator} and was given generator "
                f"{generator_digest}: train one for this generator, or load the other generator."
            )

    def _config(self) -> dict[str, Any]:
        return {
            "kind": "classifier",
            "schema": self.schema.to_config(),
            "space": self.space,
            "network": self.network_name,
            "arguments": self.arguments,
            "generator": self.generator,
        }

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **metadata: Any) -> None:
        """Write weights, configuration and metadata as safetensors, atomically. Raises LaceError for a network of one's
        own.
        """
        if self.network_name not in ("mlp", *IMAGE_NETWORKS):
            raise LaceError(
                f"A file can hold networks that are built by name, and {self.network_name} is not: keep its own file."
            )
        save_tensors(
            path, self.network.state_dict(), {**self._config(), "metadata": {**self.metadata, **metadata}}, dtype
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttributeClassifier:
        """Read what `save` wrote, ready for use (frozen). Raises LaceError for missing, damaged or other weights."""
        tensors, config = load_tensors(path)
        kind = config.get("kind") if isinstance(config, Mapping) else type(config).__name__
        if kind != "classifier":
            raise LaceError(f"The weights '{path}' must be a classifier and are of kind {quoted(kind)}.")

        def build() -> AttributeClassifier:
            return cls(
                Schema.from_config(config["schema"]),
                config["space"],
                config["network"],
                config["arguments"],
                config.get("generator"),
            )

        result = load_built(build, config, tensors, f"The weights '{path}' must be a classifier")
        result.metadata = config.get("metadata") or {}
        return result.eval().requires_grad_(False)


def load_built(
    build: Callable[[], Loaded], config: Mapping[str, Any], tensors: Mapping[str, Tensor], required: str
) -> Loaded:
    """Return what is built from the settings of a file, with the tensors of the file in its `network`.

    Args:
        build: function that builds it from the settings.
        config: the settings.
        tensors: tensors by the names of the network.
        required: the beginning of the message.

    Raises:
        LaceError: for settings that build nothing, or a network of other tensors; they take no more memory than those.
    """
    try:
        _check_sizes(config, len(tensors))
        # Without memory first: a configuration cannot ask for more than its tensors take.
        with torch.device("meta"):
            wanted = {name: tuple(value.shape) for name, value in build().network.state_dict().items()}
        received = {name: tuple(value.shape) for name, value in tensors.items()}
        differing = [name for name in (*wanted, *received) if wanted.get(name) != received.get(name)]
        if differing:
            raise LaceError(f"its tensor {quoted(differing[0])} is missing, left over or of another shape")
        result = build()
        result.network.load_state_dict(tensors)
    except (ArithmeticError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise LaceError(
            f"{required} with the settings that it was written with, and these make none ({in_one_line(error)}): get "
            "the file again."
        ) from error
    return result


def _check_sizes(value: Any, count: int, name: str = "", depth: int = 0) -> None:
    """Refuse (LaceError) numbers and lists in a file that no network of so many tensors has."""
    if depth > 8:
        raise LaceError("its settings lie too deep in each other")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "metadata":
                _check_sizes(inner, count, str(key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_sizes(inner, count, name, depth + 1)
    elif isinstance(value, (int, float)) and not abs(value) <= (count if name in ("depth", "blocks") else MAX_SIZE):
        raise LaceError(f"its setting {quoted(name)} is {quoted(value)[1:-1]}")

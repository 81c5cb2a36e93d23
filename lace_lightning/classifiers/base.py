"""Attribute classifiers: a network with the schema, the space and the generator that it was trained for."""

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

SPACES = ("z", "w", "x", "features")
Loaded = TypeVar("Loaded", bound=Any)
# Largest number in the settings of a classifier in a file.
MAX_SIZE = 2**17


def build_classifier_network(network: str, schema: Schema, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a new network with the outputs of a schema.

    Args:
        network: mlp for latents, or the name of an image network (a key of `IMAGE_NETWORKS`).
        schema: the attributes; the network has one output for each class and for each continuous value.
        arguments: further arguments of the network's class.

    Returns:
        An untrained network from u (B, ...) to logits (B, schema.num_logits).

    Raises:
        LaceError: when the name is unknown, or the network's class refuses the value of an argument.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> tuple(build_classifier_network("mlp", schema, {"input_dim": 4})(torch.zeros(5, 4)).shape)
        (5, 3)
    """
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

    `metadata` holds further plain values of the file that the classifier was loaded from.

    Args:
        schema: the attributes.
        space: z or w for latents (B, D), x for pictures, features for the output (B, F) of a layer of the generator.
        network: mlp (`LatentMLP`), the name of an image network (a key of `IMAGE_NETWORKS`), or a module of another
            program, which `save` cannot write.
        arguments: further arguments of the network's class; of a module of another program plain values that describe
            it, which count in the digest.
        generator: digest of the generator whose latents or pictures it was trained on; None for photographs.

    Raises:
        LaceError: when the space or the name of the network is unknown, or the network's class refuses the value of an
            argument.

    References:
        The classifier f of Eq. 4 of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> classifier = AttributeClassifier(schema, "w", "mlp", {"input_dim": 4, "hidden": [8]})
        >>> tuple(classifier(torch.zeros(5, 4)).shape), tuple(classifier.energy("hat == 1")(torch.zeros(5, 4)).shape)
        ((5, 3), (5,))
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
            raise LaceError(
                f"A classifier's space must be one of {', '.join(SPACES)}, received '{space}': set classifier.space."
            )
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
        """Return the logits (B, L) of u (B, ...)."""
        result: Tensor = self.network(u)
        return result

    def scale_logits(self, factors: Mapping[str, float]) -> None:
        """Multiply the logits of some attributes by factors, in the weights of the last layer.

        Args:
            factors: factor by name of the attribute; the inverse of a temperature.

        Raises:
            LaceError: when an attribute is unknown, or the last layer is not linear.
        """
        columns = torch.ones(self.schema.num_logits)
        for name, factor in factors.items():
            columns[self.schema.slices[self.schema[name].name]] = factor
        self.network.scale_outputs(columns)  # type: ignore[operator]

    def part(self, names: Sequence[str]) -> AttributeClassifier:
        """Return the classifier of some attributes, without the networks of the others where it has separate ones.

        Args:
            names: names of the attributes.

        Returns:
            A frozen copy; this object where it is no `LatentMLP` or all attributes are chosen.

        Raises:
            LaceError: when an attribute is unknown.
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
        """Digest of configuration and weights, 16 hexadecimal digits."""
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
        """Return the energy of a query on u; see `lace_lightning.energies.build`.

        Args:
            query: the condition, as text or parsed.
            free: values (B, K) of the query's free attributes; None where it has none.
            logic: exact for the exact algebra of events, paper for the paper's OR and NOT.
            sigma: the classifier's error on continuous attributes, in units of the attribute, above 0.
            temperature: divides the logits of discrete attributes, above 0.
            paper_temperature: divide the logit of the wanted class alone, as the paper's code does.
            weight: γ of the target p^γ.
            hard: return the hard region of the query, in which every decision is right, with p^γ as its guide.

        Returns:
            The energy, u (B, ...) -> (B,).

        Raises:
            LaceError: when the query does not fit the schema, or `build` refuses it.
        """
        query = parse(query, self.schema) if isinstance(query, str) else query.on(self.schema)
        return build(query, free, logic, sigma, temperature, paper_temperature, weight, hard).pullback(self)

    def check_generator(self, generator_digest: str) -> None:
        """Check that a generator is that of the training.

        Args:
            generator_digest: digest of the generator.

        Raises:
            LaceError: when the classifier was trained on the latents of another generator.
        """
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
        """Write weights, configuration and metadata as safetensors, atomically.

        Args:
            path: file to write.
            dtype: type of the stored weights; None for their own.
            metadata: further plain values, which `load` gives back as `metadata`.

        Raises:
            LaceError: when the network is a module of another program.
        """
        if self.network_name not in ("mlp", *IMAGE_NETWORKS):
            raise LaceError(
                f"A file can hold networks that are built by name, and {self.network_name} is not: keep the file that "
                "it was loaded from."
            )
        save_tensors(
            path, self.network.state_dict(), {**self._config(), "metadata": {**self.metadata, **metadata}}, dtype
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttributeClassifier:
        """Return the classifier of a file that `save` wrote, frozen and in evaluation mode.

        Args:
            path: safetensors file.

        Raises:
            LaceError: when the file is missing, damaged or no classifier.
        """
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

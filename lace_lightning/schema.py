"""What a picture is described by: attributes, the schema that lists them, and tables of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import LaceError, suggest

KINDS = ("discrete", "continuous")


@dataclass(frozen=True)
class Attribute:
    """One property of a picture: `discrete` with `num_classes` classes, or `continuous` scaled to [0, 1].

    Raises LaceError for an unknown kind, fewer than two classes, or class names that do not match their number.
    """

    name: str
    kind: str = "discrete"
    num_classes: int = 2
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        if not self.name.isidentifier():
            raise LaceError(
                f"An attribute's name must be a word of letters, digits and underscores, received '{self.name}': "
                "rename it."
            )
        if self.kind not in KINDS:
            raise LaceError(
                f"Attribute '{self.name}' must be discrete or continuous, received '{self.kind}'."
                f"{suggest(self.kind, KINDS)}"
            )
        if self.kind == "discrete" and self.num_classes < 2:
            raise LaceError(f"Attribute '{self.name}' must have at least 2 classes, received {self.num_classes}.")
        if self.class_names and len(set(self.class_names)) != self.num_classes:
            raise LaceError(
                f"Attribute '{self.name}' has {self.num_classes} classes and {len(self.class_names)} different "
                "class names: give one name a class."
            )

    @property
    def num_logits(self) -> int:
        """Columns of a classifier's output: one a class, or one for a continuous value."""
        return self.num_classes if self.kind == "discrete" else 1

    def agrees_with(self, other: Attribute) -> bool:
        """Whether labels of one are labels of the other: the same but for class names that one of them leaves out."""
        unnamed = replace(self, class_names=()) == replace(other, class_names=()) and not (
            self.class_names and other.class_names
        )
        return self == other or unnamed

    def class_name(self, index: int) -> str:
        """Return the name of class `index`, or the index itself when classes have no names."""
        return self.class_names[index] if self.class_names else str(index)

    def describe(self, value: float) -> str:
        """Return a value in a word or two: the name of a class that has one, otherwise the attribute and the value."""
        if self.kind == "continuous":
            return f"{self.name} {value:.2f}"
        name = self.class_name(int(value))
        if name in ("no", "yes") or not self.class_names:
            return f"{'no ' if name == 'no' else ''}{self.name}{'' if self.class_names else f' {name}'}"
        return name

    def class_index(self, text: str) -> int:
        """Return the index of a class given by name or number. Raises LaceError when there is no such class."""
        if text in self.class_names:
            return self.class_names.index(text)
        if text.isdigit() and int(text) < self.num_classes:
            return int(text)
        known = ", ".join(self.class_names) or f"0 to {self.num_classes - 1}"
        raise LaceError(
            f"Attribute '{self.name}' has the classes {known}, and '{text}' was asked for."
            f"{suggest(text, self.class_names)}"
        )


@dataclass(frozen=True)
class Schema:
    """The attributes of a data set, in the order of a classifier's output columns."""

    name: str
    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(self.attributes))
        if not self.attributes or len(set(self.names)) != len(self.attributes):
            raise LaceError(
                f"Schema '{self.name}' needs at least one attribute and no name twice, received "
                f"{', '.join(self.names) or 'none'}."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def num_logits(self) -> int:
        return sum(attribute.num_logits for attribute in self.attributes)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The logit columns of each attribute."""
        result, first = {}, 0
        for attribute in self.attributes:
            result[attribute.name] = slice(first, first + attribute.num_logits)
            first += attribute.num_logits
        return result

    def part(self, names: Iterable[str]) -> Schema:
        """Return the schema of these attributes alone, in this schema's order. Raises LaceError for an unknown name."""
        chosen = [self[name] for name in names]
        return Schema(self.name, tuple(attribute for attribute in self if attribute in chosen))

    def __getitem__(self, name: str) -> Attribute:
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise LaceError(
            f"The schema '{self.name}' has the attributes {', '.join(self.names)}, and '{name}' was asked for."
            f"{suggest(name, self.names)}"
        )

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self.attributes)

    def __len__(self) -> int:
        return len(self.attributes)

    def index(self, name: str) -> int:
        """Return the column of attribute `name` in a table of labels."""
        return self.attributes.index(self[name])

    def decode(self, logits: Tensor) -> Labels:
        """Decide from logits (B, num_logits): the class with the largest logit, the value clamped to [0, 1]."""
        columns = [
            logits[:, self.slices[a.name]].argmax(1).float()
            if a.kind == "discrete"
            else logits[:, self.slices[a.name]][:, 0].float().clamp(0, 1)
            for a in self
        ]
        return Labels(self, torch.stack(columns, dim=1))

    def agrees_with(self, other: Schema) -> bool:
        """Whether both have the same attributes in one order, but for class names that one of them leaves out."""
        return len(self) == len(other) and all(a.agrees_with(b) for a, b in zip(self, other, strict=True))

    def covers(self, other: Schema) -> bool:
        """Whether every attribute of the other is one of these, but for class names that one of them leaves out."""
        return all(a.name in self.names and a.agrees_with(self[a.name]) for a in other)

    def to_config(self) -> dict[str, Any]:
        """Return plain containers that `from_config` turns back into an equal schema."""
        return {
            "name": self.name,
            "attributes": [
                {
                    "name": a.name,
                    "kind": a.kind,
                    **(
                        {"num_classes": a.num_classes, "class_names": list(a.class_names)}
                        if a.kind == "discrete"
                        else {}
                    ),
                }
                for a in self
            ],
        }

    @classmethod
    def of(cls, schema: Schema | Mapping[str, Any]) -> Schema:
        """Return a schema, given as one or as plain containers."""
        return schema if isinstance(schema, Schema) else cls.from_config(schema)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """Build a schema from plain containers: {"name": ..., "attributes": [{"name": ..., "kind": ...}, ...]}."""
        try:
            attributes = tuple(
                Attribute(**{str(key): value for key, value in entry.items()}) for entry in config["attributes"]
            )
            return cls(str(config["name"]), attributes)
        except (KeyError, TypeError) as error:
            raise LaceError(
                "A schema needs 'name' and 'attributes', each attribute 'name', 'kind' and for discrete ones "
                f"'num_classes' and 'class_names'; received {dict(config)} ({error})."
            ) from error


class Labels:
    """A table of labels: `values` (N, K) float32, one column an attribute, and `known` (N, K) bool.

    Discrete columns hold class indices, continuous ones values in [0, 1]. What is not known is said by the mask alone.
    """

    def __init__(self, schema: Schema, values: Tensor, known: Tensor | None = None) -> None:
        values = values.float()
        if values.ndim != 2 or values.shape[1] != len(schema):
            raise LaceError(
                f"Labels of schema '{schema.name}' must have shape (N, {len(schema)}), received {tuple(values.shape)}."
            )
        self.schema, self.values = schema, values
        self.known = torch.ones_like(values, dtype=torch.bool) if known is None else known.bool()

    @classmethod
    def constant(cls, schema: Schema, count: int, **columns: Tensor | float) -> Labels:
        """Labels of `count` samples in which only the given columns are known."""
        values = torch.zeros(count, len(schema))
        known = torch.zeros(count, len(schema), dtype=torch.bool)
        for name, value in columns.items():
            values[:, schema.index(name)] = torch.as_tensor(value, dtype=torch.float32)
            known[:, schema.index(name)] = True
        return cls(schema, values, known)

    def column(self, name: str) -> Tensor:
        """Return the values (N,) of one attribute."""
        return self.values[:, self.schema.index(name)]

    def part(self, schema: Schema) -> Labels:
        """Return the columns of another schema's attributes. Raises LaceError for one that is not here."""
        columns = [self.schema.index(name) for name in schema.names]
        return Labels(schema, self.values[:, columns], self.known[:, columns])

    def to(self, device: torch.device | str) -> Labels:
        return Labels(self.schema, self.values.to(device), self.known.to(device))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Labels:
        return Labels(self.schema, self.values[rows], self.known[rows])

    @staticmethod
    def cat(parts: Iterable[Labels]) -> Labels:
        """Join tables of one schema."""
        parts = list(parts)
        return Labels(parts[0].schema, torch.cat([p.values for p in parts]), torch.cat([p.known for p in parts]))

    def __repr__(self) -> str:
        names, known = ", ".join(self.schema.names), int(self.known.sum())
        return f"Labels({self.schema.name}: {names}; {len(self)} rows, {known} known)"

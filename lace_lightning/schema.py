"""Attributes of pictures, the schema that lists them, and tables of labels."""

from __future__ import annotations

import re
import unicodedata
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
    """A property of pictures: discrete with two or more classes, or continuous with values in [0, 1].

    Args:
        name: a name of letters, digits, `_`, `-` and spaces, of any alphabet.
        kind: "discrete" or "continuous".
        num_classes: number of classes of a discrete attribute, at least 2.
        class_names: different names of the classes in order; empty where they have none.

    Raises:
        LaceError: for another name or kind, fewer than two classes, or class names that do not match their number.

    Example:
        >>> label = Attribute("label", "discrete", 3, ("cat", "dog", "ship"))
        >>> label.class_index("ship"), label.num_logits
        (2, 3)
    """

    name: str
    kind: str = "discrete"
    num_classes: int = 2
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The same letter may be written by different characters: names are compared in one form.
        object.__setattr__(self, "name", unicodedata.normalize("NFC", str(self.name)))
        names = tuple(unicodedata.normalize("NFC", str(name)) for name in self.class_names)
        object.__setattr__(self, "class_names", names)
        if not re.sub("[- ]", "_", f"_{self.name}").isidentifier() or self.name.strip() != self.name or not self.name:
            raise LaceError(
                "An attribute's name must consist of letters, digits, underscores, hyphens and spaces between them, "
                f"received '{self.name}': rename it."
            )
        if self.kind not in KINDS:
            raise LaceError(
                f"Attribute '{self.name}' must be discrete or continuous, received '{self.kind}'."
                f"{suggest(self.kind, KINDS)}"
            )
        if self.kind == "discrete" and self.num_classes < 2:
            raise LaceError(
                f"Attribute '{self.name}' must have at least 2 classes, received {self.num_classes}: leave out an "
                "attribute that has one value."
            )
        if self.class_names and len(set(self.class_names)) != self.num_classes:
            raise LaceError(
                f"Attribute '{self.name}' has {self.num_classes} classes and {len(self.class_names)} different "
                "class names: give one name a class."
            )

    @property
    def num_logits(self) -> int:
        """The number of columns of a classifier's output: one for each class, or one for a continuous value."""
        return self.num_classes if self.kind == "discrete" else 1

    def agrees_with(self, other: Attribute) -> bool:
        """Return whether labels of one are labels of the other: equal, or equal but for class names that one lacks."""
        unnamed = replace(self, class_names=()) == replace(other, class_names=()) and not (
            self.class_names and other.class_names
        )
        return self == other or unnamed

    def class_name(self, index: int) -> str:
        """Return the name of class `index`, or the index itself when classes have no names."""
        return self.class_names[index] if self.class_names else str(index)

    def describe(self, value: float) -> str:
        """Return a value in words: the name of a class that has one, otherwise the attribute and the value."""
        if self.kind == "continuous":
            return f"{self.name} {value:.2f}"
        name = self.class_name(int(value))
        if name in ("no", "yes") or not self.class_names:
            return f"{'no ' if name == 'no' else ''}{self.name}{'' if self.class_names else f' {name}'}"
        return name

    def class_index(self, text: str) -> int:
        """Return the index of a class.

        Args:
            text: the name of the class, or its number.

        Raises:
            LaceError: when the attribute has no such class.
        """
        text = unicodedata.normalize("NFC", text)
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
    """The attributes of a data set, in the order of a classifier's output columns.

    Args:
        name: the name of the data set.
        attributes: at least one attribute, of different names.

    Raises:
        LaceError: without attributes, and for two of one name.

    Example:
        >>> schema = Schema("faces", (Attribute("hat"), Attribute("age", "continuous")))
        >>> schema.num_logits, schema.slices["age"], schema["hat"].num_classes
        (3, slice(2, 3, None), 2)
    """

    name: str
    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(self.attributes))
        if not self.attributes or len(set(self.names)) != len(self.attributes):
            raise LaceError(
                f"Schema '{self.name}' needs at least one attribute and no name twice, received "
                f"{', '.join(self.names) or 'none'}: give each attribute its own name."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attributes, in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def num_logits(self) -> int:
        """The number of columns of a classifier's output."""
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
        """Return the schema of some attributes, in this schema's order.

        Args:
            names: their names.

        Raises:
            LaceError: for an unknown name.
        """
        chosen = [self[name] for name in names]
        return Schema(self.name, tuple(attribute for attribute in self if attribute in chosen))

    def __getitem__(self, name: str) -> Attribute:
        """Return the attribute of a name. Raises LaceError for an unknown name."""
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
        """Return the column of an attribute in a table of labels. Raises LaceError for an unknown name."""
        return self.attributes.index(self[name])

    def decode(self, logits: Tensor) -> Labels:
        """Return the labels of logits (B, num_logits): the class of the largest logit, the value clamped to [0, 1]."""
        columns = [
            logits[:, self.slices[a.name]].argmax(1).float()
            if a.kind == "discrete"
            else logits[:, self.slices[a.name]][:, 0].float().clamp(0, 1)
            for a in self
        ]
        return Labels(self, torch.stack(columns, dim=1))

    def agrees_with(self, other: Schema) -> bool:
        """Return whether both have the same attributes in one order, but for class names that one of them lacks."""
        return len(self) == len(other) and all(a.agrees_with(b) for a, b in zip(self, other, strict=True))

    def covers(self, other: Schema) -> bool:
        """Return whether every attribute of the other is one of these, but for class names that one of them lacks."""
        return all(a.name in self.names and a.agrees_with(self[a.name]) for a in other)

    def to_config(self) -> dict[str, Any]:
        """Return plain containers from which `from_config` builds an equal schema."""
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
        """Return a schema that is given as one or as plain containers. Raises LaceError as `from_config` does."""
        return schema if isinstance(schema, Schema) else cls.from_config(schema)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """Return the schema of plain containers.

        Args:
            config: {"name": ..., "attributes": [{"name": ..., "kind": ..., "num_classes": ..., "class_names": ...}]}.

        Raises:
            LaceError: for other keys, and for attributes that `Attribute` refuses.
        """
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
    """A table of labels: values (N, K) float32 with one column for each attribute, and a mask of the known ones.

    Values that the mask does not mark as known have no meaning.

    Args:
        schema: the attributes of the K columns.
        values: class indices of discrete attributes, values in [0, 1] of continuous ones (N, K).
        known: mask (N, K) bool; everything is known by default.

    Raises:
        LaceError: for values that are not K columns, and for a mask of another shape.

    Example:
        >>> schema = Schema("faces", (Attribute("hat"), Attribute("age", "continuous")))
        >>> labels = Labels.constant(schema, 2, hat=1)
        >>> labels, labels.column("hat").tolist()
        (Labels(faces: hat, age; 2 rows, 2 known), [1.0, 1.0])
    """

    def __init__(self, schema: Schema, values: Tensor, known: Tensor | None = None) -> None:
        values = values.float()
        if values.ndim != 2 or values.shape[1] != len(schema):
            raise LaceError(
                f"Labels of schema '{schema.name}' must have shape (N, {len(schema)}), received {tuple(values.shape)}: "
                "give one column for each attribute."
            )
        if known is not None and known.shape != values.shape:
            raise LaceError(
                f"The mask of known labels must have the shape of the values {tuple(values.shape)}, received "
                f"{tuple(known.shape)}: give one entry for each value."
            )
        self.schema, self.values = schema, values
        self.known = torch.ones_like(values, dtype=torch.bool) if known is None else known.bool()

    @classmethod
    def constant(cls, schema: Schema, count: int, **columns: Tensor | float) -> Labels:
        """Return labels of `count` samples in which only the given columns are known.

        Args:
            schema: the attributes.
            count: number of rows.
            columns: for each name of an attribute a value, or values (count,).

        Raises:
            LaceError: for an unknown name.
        """
        values = torch.zeros(count, len(schema))
        known = torch.zeros(count, len(schema), dtype=torch.bool)
        for name, value in columns.items():
            values[:, schema.index(name)] = torch.as_tensor(value, dtype=torch.float32)
            known[:, schema.index(name)] = True
        return cls(schema, values, known)

    def column(self, name: str) -> Tensor:
        """Return the values (N,) of one attribute. Raises LaceError for an unknown name."""
        return self.values[:, self.schema.index(name)]

    def part(self, schema: Schema) -> Labels:
        """Return the columns of another schema's attributes. Raises LaceError for one that this schema lacks."""
        columns = [self.schema.index(name) for name in schema.names]
        return Labels(schema, self.values[:, columns], self.known[:, columns])

    def to(self, device: torch.device | str) -> Labels:
        """Return the labels on a device."""
        return Labels(self.schema, self.values.to(device), self.known.to(device))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Labels:
        return Labels(self.schema, self.values[rows], self.known[rows])

    @staticmethod
    def cat(parts: Iterable[Labels]) -> Labels:
        """Return the rows of several tables of one schema, at least one, in order."""
        parts = list(parts)
        return Labels(parts[0].schema, torch.cat([p.values for p in parts]), torch.cat([p.known for p in parts]))

    def __repr__(self) -> str:
        names, known = ", ".join(self.schema.names), int(self.known.sum())
        return f"Labels({self.schema.name}: {names}; {len(self)} rows, {known} known)"

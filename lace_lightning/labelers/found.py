"""Labelers of any function of pictures: kinds of labels and numbers of classes are found by what it returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..classifiers import AttributeClassifier
from ..errors import LaceError
from ..generators.found import as_module
from ..schema import Attribute, Schema
from .adapters import function_labeler, label_values
from .labeler import Labeler

# More classes than this are no classes.
CLASSES = 10_000


def as_labeler(
    labeler: Labeler | AttributeClassifier | Callable[[Tensor], Any] | str | os.PathLike[str],
    attributes: str | Sequence[str] | Mapping[str, Any] | Schema | None = None,
    images: Tensor | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler of anything that labels pictures.

    Args:
        labeler: a labeler; a classifier of pictures, or the name or file of one; or a function or module from pictures
            (B, C, H, W) in [-1, 1] to labels (B,) or (B, K), a column for each attribute, or to the logits (B, L) of
            one attribute with L classes. It may return tensors, NumPy arrays or lists, and NaN for a label that is not
            known.
        attributes: what the function returns: the name of the attribute, or one name for each column; or by name its
            number of classes, the names of its classes, or "continuous"; or a schema. Of names alone the kind is found
            by `images`: whole numbers and truth values are classes, values from 0 to 1 are continuous. None for a
            labeler that knows its attributes.
        images: some pictures (B, C, H, W) in [-1, 1], by which kinds and numbers of classes are found.
        options: further arguments of `Labeler` for a function: views, precision, max_batch, name, confidence.

    Returns:
        The labeler.

    Raises:
        LaceError: for a function without attributes, one that fails, and one that returns other shapes or values.

    Example:
        >>> import torch
        >>> images = torch.linspace(-1, 1, 8)[:, None, None, None].expand(-1, 3, 4, 4)
        >>> labeler = as_labeler(lambda x: x.mean((1, 2, 3)) > 0, "bright", images)
        >>> labeler.schema["bright"].num_classes, labeler.labels(images[:2]).values.tolist()
        (2, [[0.0], [0.0]])
    """
    if isinstance(labeler, (str, os.PathLike, AttributeClassifier)):
        labeler = Labeler(labeler)
    if isinstance(labeler, Labeler):
        return labeler
    if not callable(labeler):
        raise LaceError(
            "A labeler must be a Labeler, the name of one, or a function of pictures, received "
            f"{type(labeler).__name__}: give one of these."
        )
    if attributes is None:
        raise LaceError(
            'A labelling function needs the names of what it returns, received none: give them, as "red" or '
            '["red", "bright"].'
        )
    if isinstance(attributes, Schema):
        return function_labeler(labeler, attributes, **options)
    if isinstance(attributes, Mapping):
        given = tuple(_attribute(name, classes) for name, classes in attributes.items())
        return function_labeler(labeler, Schema("labels", given), **options)
    names = [attributes] if isinstance(attributes, str) else list(attributes)
    if images is None:
        raise LaceError("Names alone need pictures by which the kinds of labels are found: give a Schema.")
    return function_labeler(labeler, _found_schema(names, label_values(as_module(labeler), images)), **options)


def _attribute(name: str, classes: Any) -> Attribute:
    """Return an attribute of the number of its classes, their names, or "continuous"."""
    if classes == "continuous":
        return Attribute(name, "continuous")
    if isinstance(classes, int):
        return Attribute(name, "discrete", classes)
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        return Attribute(name, "discrete", len(classes), tuple(classes))
    raise LaceError(
        f'An attribute is given by its number of classes, their names, or "continuous", received {classes!r} for '
        f"'{name}': give one of these."
    )


def _found_schema(names: Sequence[str], values: Tensor) -> Schema:
    """Return the schema of labels (B,) or (B, K) of K names, or of logits (B, L) of one name."""
    columns = values[:, None] if values.ndim == 1 else values
    if columns.ndim != 2 or (columns.shape[1] != len(names) and len(names) > 1):
        raise LaceError(
            f"A labelling function must return one column for each of {', '.join(names)}, received the shape "
            f"{tuple(values.shape)}: correct the function or the names."
        )
    if columns.shape[1] != len(names):
        return Schema("labels", (Attribute(names[0], "discrete", columns.shape[1]),))
    return Schema("labels", tuple(_found_attribute(*pair) for pair in zip(names, columns.unbind(1), strict=True)))


def _found_attribute(name: str, values: Tensor) -> Attribute:
    known = values[~values.isnan()]
    if not len(known):
        raise LaceError(
            f"Labels of '{name}' are required, and the labelling function returns NaN (not known) for all of "
            f"{len(values)} pictures: correct the function."
        )
    low, high = float(known.min()), float(known.max())
    if low >= 0 and bool((known == known.round()).all()) and high < CLASSES:
        return Attribute(name, "discrete", max(2, int(high) + 1))
    if low >= 0 and high <= 1:
        return Attribute(name, "continuous")
    raise LaceError(
        f"Labels must be classes 0, 1, 2, ... or values from 0 to 1, and those of '{name}' go from {low:.3g} to "
        f"{high:.3g}: return for example whether a value is above a threshold, or scale the values."
    )

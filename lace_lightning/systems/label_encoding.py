"""Labels as conditions of a network, with training rows that fill unknown values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError
from ..schema import Labels, Schema
from ..seeds import integers


class LabelEncoding(nn.Module):
    """Encoding of labels (B, K) as conditions (B, C): scaled values, numbers of classes and one-hot vectors.

    A continuous attribute and a discrete one with two classes have one number each, a discrete one with more classes
    has one number for each class. The last `num_rows` labels of the training are kept in the state dict and fill
    unknown values.

    Args:
        schema: the attributes.
        ranges: for names of continuous attributes the numbers (low, high) that stand for 0 and 1, which differ; (0, 1)
            for the others.
        num_rows: labels that are kept, at least 1.

    Raises:
        LaceError: for `num_rows` below 1, and for ranges of unknown or discrete attributes or of equal numbers.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("colour", "discrete", 3), Attribute("age", "continuous")))
        >>> encoding = LabelEncoding(schema, {"age": (0, 100)}, num_rows=4)
        >>> encoding.size, encoding.numbers(torch.tensor([[2.0, 0.5]])).tolist()
        (4, [[0.0, 0.0, 1.0, 50.0]])
    """

    values: Tensor
    known: Tensor
    seen: Tensor
    low: Tensor
    extent: Tensor

    def __init__(self, schema: Schema, ranges: Mapping[str, Sequence[float]], num_rows: int) -> None:
        super().__init__()
        if num_rows < 1:
            raise LaceError(f"num_rows must be at least 1, received {num_rows}: kept rows fill unknown values.")
        self.schema = schema
        self.widths = [a.num_classes if a.kind == "discrete" and a.num_classes > 2 else 1 for a in schema]
        self.size = sum(self.widths)
        low, high = torch.zeros(len(schema)), torch.ones(len(schema))
        for name, pair in ranges.items():
            if schema[name].kind != "continuous" or len(pair) != 2 or pair[0] == pair[1]:
                raise LaceError(
                    "A range must be two different numbers for 0 and 1 of a continuous attribute, received "
                    f"{list(pair)} for '{name}' ({schema[name].kind}): correct or remove it."
                )
            low[schema.index(name)], high[schema.index(name)] = pair
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)
        self.register_buffer("values", torch.zeros(num_rows, len(schema)))
        self.register_buffer("known", torch.zeros(num_rows, len(schema), dtype=torch.bool))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def count(self) -> int:
        """The number of rows that are kept so far."""
        return min(int(self.seen), len(self.values))

    @torch.no_grad()
    def remember(self, values: Tensor, known: Tensor) -> None:
        """Keep labels (B, K) and their mask (B, K) bool in place of the oldest ones."""
        values, known = values[-len(self.values) :], known[-len(self.values) :]
        rows = (self.seen + torch.arange(len(values), device=self.seen.device)) % len(self.values)
        self.values[rows] = torch.where(known, values, 0.0).to(self.values)
        self.known[rows] = known.to(self.known)
        self.seen += len(values)

    def filled(self, values: Tensor, known: Tensor, rows: Tensor) -> Tensor:
        """Return labels (B, K) whose unknown values are those of the kept `rows` (B,).

        If such a row does not know a value either, the next row that knows it is used. A value that no row knows is 0.
        """
        if bool(known.all()):
            return values
        columns = []
        for index in range(len(self.schema)):
            able = self.known[: self.count, index].nonzero()[:, 0]
            other = (
                self.values[able[torch.searchsorted(able, rows) % len(able)], index]
                if len(able)
                else torch.zeros(len(rows)).to(values)
            )
            columns.append(torch.where(known[:, index], values[:, index], other.to(values)))
        return torch.stack(columns, dim=1)

    def filled_by_seed(self, codes: Labels, seeds: Tensor, stream: int) -> Tensor:
        """Return the values (B, K) of codes; unknown ones are those of the kept row that each seed (B,) chooses.

        Raises LaceError for an attribute that is free and that no kept row knows.
        """
        free, kept = ~codes.known.all(0), self.known[: self.count].any(0)
        if not bool(free.any()):
            return codes.values
        never = [name for name, missing in zip(self.schema.names, (free & ~kept).tolist(), strict=True) if missing]
        if never:
            raise LaceError(
                "Free attributes are filled from kept training rows, and none is kept that knows "
                f"{', '.join(never)}: give their values, or train first."
            )
        return self.filled(
            codes.values, codes.known, integers(seeds, self.count, stream=stream, device=self.values.device)
        )

    def numbers(self, values: Tensor) -> Tensor:
        """Return the conditions (B, C) of labels (B, K). Raises LaceError for a class that does not exist."""
        columns = []
        for index, (attribute, width) in enumerate(zip(self.schema, self.widths, strict=True)):
            column = values[:, index]
            if width == 1:
                columns.append((self.low[index] + self.extent[index] * column)[:, None])
                continue
            if not bool(((column == column.round()) & (column >= 0) & (column < width)).all()):
                raise LaceError(
                    f"The classes of '{attribute.name}' are 0 to {width - 1}, received others: correct the labels."
                )
            columns.append(F.one_hot(column.long(), width).to(values))
        return torch.cat(columns, dim=1)

    def spread(self, columns: Tensor) -> Tensor:
        """Return a column (B, C) for each condition from columns (B, K) for each attribute."""
        return columns.repeat_interleave(torch.tensor(self.widths, device=columns.device), dim=1)

"""Labels as the numbers that a network is conditioned on, with training rows for what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError
from ..schema import Labels, Schema
from ..seeds import integers


class LabelEncoding(nn.Module):
    """Labels (B, K) -> numbers (B, C): a value scaled to its range, the class of two, one number per class of more.

    `ranges` {name: (number for 0, number for 1)} are [0, 1] where they are not given. The last `num_rows` labels of the
    training are kept, in the state dict, for what is not known. Raises LaceError for ranges of unknown or discrete
    attributes.
    """

    values: Tensor
    known: Tensor
    seen: Tensor
    low: Tensor
    extent: Tensor

    def __init__(self, schema: Schema, ranges: Mapping[str, Sequence[float]], num_rows: int) -> None:
        super().__init__()
        if num_rows < 1:
            raise LaceError(f"num_rows must be at least 1, received {num_rows}: training rows fill what is not known.")
        self.schema = schema
        self.widths = [a.num_classes if a.kind == "discrete" and a.num_classes > 2 else 1 for a in schema]
        self.size = sum(self.widths)
        low, high = torch.zeros(len(schema)), torch.ones(len(schema))
        for name, pair in ranges.items():
            if schema[name].kind != "continuous" or len(pair) != 2 or pair[0] == pair[1]:
                raise LaceError(
                    f"A range gives two different numbers for 0 and 1 of a continuous attribute, received {list(pair)} "
                    f"for "
                    f"'{name}' ({schema[name].kind})."
                )
            low[schema.index(name)], high[schema.index(name)] = pair
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)
        self.register_buffer("values", torch.zeros(num_rows, len(schema)))
        self.register_buffer("known", torch.zeros(num_rows, len(schema), dtype=torch.bool))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def count(self) -> int:
        """Rows that are kept."""
        return min(int(self.seen), len(self.values))

    @torch.no_grad()
    def remember(self, values: Tensor, known: Tensor) -> None:
        """Keep labels (B, K) and which of them are known, in place of the oldest ones."""
        values, known = values[-len(self.values) :], known[-len(self.values) :]
        rows = (self.seen + torch.arange(len(values), device=self.seen.device)) % len(self.values)
        self.values[rows] = torch.where(known, values, 0.0).to(self.values)
        self.known[rows] = known.to(self.known)
        self.seen += len(values)

    def filled(self, values: Tensor, known: Tensor, rows: Tensor) -> Tensor:
        """Return labels (B, K), with those of the kept `rows` (B,) where they are not known.

        Where a row does not know either it is the next one that does; what no row knows is 0.
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
        """Return the values (B, K) of codes, filled with the kept row that each seed (B,) picks. Raises LaceError where
        no row is kept.
        """
        free, kept = ~codes.known.all(0), self.known[: self.count].any(0)
        if not bool(free.any()):
            return codes.values
        never = [name for name, missing in zip(self.schema.names, (free & ~kept).tolist(), strict=True) if missing]
        if never:
            raise LaceError(
                f"What a code leaves free is filled from training rows, and none is kept that knows "
                f"{', '.join(never)}: say "
                "what it shall be, or train first."
            )
        return self.filled(
            codes.values, codes.known, integers(seeds, self.count, stream=stream, device=self.values.device)
        )

    def numbers(self, values: Tensor) -> Tensor:
        """Return the conditions (B, C) of labels (B, K). Raises LaceError for classes that there are not."""
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
        """Return (B, C) for what there is one of for each attribute, (B, K)."""
        return columns.repeat_interleave(torch.tensor(self.widths, device=columns.device), dim=1)

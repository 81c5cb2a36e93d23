"""What a system is going to sample, and the ACC to expect of it, known before the samples are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schema import Attribute, Labels, Schema

# Samples of the pilot that the expectation is averaged over.
PILOT = 128


@dataclass(frozen=True)
class Outlook:
    """What a run samples, and the figure to expect of it.

    Args:
        target: the target, and the setting that changes it, in words.
        figure: ACC, or the share of samples for which the query holds; empty where nothing is asked for.
        expected: the expected figure.
        error: its standard error over the pilot.
        samples: number of pilot samples.
        is_checked: whether a labeler checks the pictures afterwards, so that the figure is a lower one.

    Example:
        >>> print(Outlook("calibrated, N(z)·p(c|w)", "ACC", 0.62, 0.03, 128).sentence)
        target: calibrated, N(z)·p(c|w); expected ACC 0.62 ± 0.03, what the classifier says of 128 pilot samples
    """

    target: str
    figure: str = ""
    expected: float = math.nan
    error: float = math.nan
    samples: int = 0
    is_checked: bool = False

    @property
    def sentence(self) -> str:
        """One line for the user."""
        if not self.figure:
            return f"target: {self.target}"
        at_least = "at least " if self.is_checked else ""
        return (
            f"target: {self.target}; expected {self.figure} {at_least}{self.expected:.2f} ± {self.error:.2f}, what the "
            f"classifier says of {self.samples} pilot samples"
        )


def expected_scores(schema: Schema, logits: Tensor, wanted: Labels, sigma: float) -> Tensor:
    """Return for each sample the score in ACC that a classifier expects (N,).

    A class has the score of its probability, and a value c the mean of 1 - |ĉ - c| for ĉ ~ N(f, σ²). A sample has the
    mean over its wanted attributes.

    Args:
        schema: the attributes of the logits.
        logits: logits f (N, num_logits).
        wanted: wanted labels (N, K), known where something is wanted.
        sigma: the classifier's error σ on continuous attributes, above 0.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> wanted = Labels.constant(schema, 1, hat=1, age=0.5)
        >>> expected_scores(schema, torch.tensor([[0.0, 0.0, 0.5]]), wanted, sigma=0.1).round(decimals=3)
        tensor([0.7100])
    """
    scores = [
        expected_score(attribute, logits[:, schema.slices[attribute.name]], wanted.values[:, index].to(logits), sigma)
        for index, attribute in enumerate(schema)
    ]
    known = wanted.known.to(logits.device)
    return (torch.stack(scores, 1) * known).sum(1) / known.sum(1)


def expected_score(attribute: Attribute, f: Tensor, value: Tensor, sigma: float) -> Tensor:
    """Return for each sample the score in ACC that a classifier expects of one attribute (N,), see `expected_scores`.

    Args:
        attribute: the attribute.
        f: its logits (N, C), or its value (N, 1).
        value: the wanted value (N,), of the type of f.
        sigma: the classifier's error σ on continuous attributes, above 0.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> expected_score(Attribute("hat"), torch.zeros(1, 2), torch.ones(1), 0.1)
        tensor([0.5000])
    """
    if attribute.kind == "discrete":
        return f.softmax(1).gather(1, value.long()[:, None])[:, 0]
    # The mean of |x| for x ~ N(m, σ²).
    m = (f[:, 0] - value) / sigma
    mean = math.sqrt(2 / math.pi) * torch.exp(-m.square() / 2) + m * torch.erf(m / math.sqrt(2))
    return 1 - sigma * mean

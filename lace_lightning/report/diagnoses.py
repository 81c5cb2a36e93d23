"""Diagnoses of a run in words: whether its sampler is right, and what limits ACC."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..metrics.names import frechet_name

# Differences of mean p(c|w), and relative differences of the spread, below which samples are said to agree with exact
# ones.
CLOSE, SPREAD = 0.02, 0.1
# The most times the distance between exact sets that samples of a right sampler are from them.
FLOOR = 1.5
# Share of effective samples below which few samples carry the weight.
FEW = 0.1
# ACC above which nothing limits it, and the least difference of two accuracies that is worth a sentence.
HIGH, GAP = 0.95, 0.03
# Probability of a query under the generator below which it is called rare.
RARE = 1e-3
# Examples of a query among the pairs below which a classifier knows little of it.
EXAMPLES = 100
# Calibration error of a classifier, and share of labels unknown to the judge, from which they are said.
ECE, UNKNOWN = 0.05, 0.05


@dataclass(frozen=True)
class Finding:
    """One sentence about a run.

    Args:
        level: good, note, caution or problem.
        text: the sentence, with what to do where there is something to do.

    Example:
        >>> Finding("good", "The chains agree.").level
        'good'
    """

    level: str
    text: str


def sampler_findings(metrics: Mapping[str, float], protocol: Mapping[str, Any]) -> list[Finding]:
    """Return whether the samples are those of the target, as far as the figures of a run tell.

    Args:
        metrics: figures of the run by name.
        protocol: how they were measured.

    Example:
        >>> [one.level for one in sampler_findings({"confidence": 0.70, "predicted": 0.71}, {})]
        ['good']
        >>> sampler_findings({"posterior_distance": 3.0, "posterior_distance/floor": 1.0}, {})[0].text
        'The samples are 3.0 times as far from exact samples as exact samples are from each other: use smaller tolerances or more moves.'
    """  # noqa: E501
    return list(_sampler(metrics, protocol))


def _sampler(metrics: Mapping[str, float], protocol: Mapping[str, Any]) -> Iterator[Finding]:
    if reason := protocol.get("reason"):
        yield Finding("note", f"The sampler was chosen: {reason}.")
    yield from _chains(metrics, protocol)
    if {"confidence", "predicted"} <= set(metrics):
        yield _confidence(metrics["confidence"], metrics["predicted"], "target: none" in str(protocol.get("outlook")))
    if {"spread", "spread/reference"} <= set(metrics) and metrics["spread/reference"] > 0:
        yield _spread(metrics["spread"] / metrics["spread/reference"])
    floor = metrics.get("posterior_distance/floor")
    if floor and "posterior_distance" in metrics:
        ratio = metrics["posterior_distance"] / floor
        if ratio <= FLOOR:
            yield Finding(
                "good", f"The samples are {ratio:.1f} times as far from exact samples as these from each other."
            )
        else:
            yield Finding(
                "problem",
                f"The samples are {ratio:.1f} times as far from exact samples as exact samples are from each other: "
                "use smaller tolerances or more moves.",
            )
    if (share := metrics.get("ess")) is not None:
        if share < FEW:
            yield Finding(
                "problem",
                f"The weights leave {share:.1%} effective samples: few samples carry the weight. Use more steps.",
            )
        else:
            yield Finding("good", f"The weights leave {share:.0%} effective samples.")
    if (log_p := metrics.get("log_p")) is not None and math.exp(log_p) < RARE:
        yield Finding(
            "caution",
            f"The query has a probability of {math.exp(log_p):.2g} under the generator: samples have to leave the "
            "region that the classifier was trained on. sampler=annealed is made for such queries.",
        )


def _chains(metrics: Mapping[str, float], protocol: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield whether Markov chains have arrived, and whether they move."""
    chains = str(protocol.get("chains") or "")
    acceptance = metrics.get("corrector_acceptance", metrics.get("acceptance"))
    if not chains and acceptance is None:
        return
    # Imported here: a report of a run without chains is written without torch.
    from ..samplers.arrival import ARRIVED, STUCK

    if chains:
        is_wrong = metrics.get("rhat", 1.0) > ARRIVED or "not exact" in chains or "stuck" in chains
        yield Finding("problem" if is_wrong else "good", chains)
    if acceptance is not None and acceptance < STUCK and "stuck" not in chains:
        yield Finding(
            "problem", f"{acceptance:.2%} of the moves are accepted: the chains are stuck. Use smaller steps."
        )


def _confidence(ours: float, exact: float, is_flow: bool) -> Finding:
    """Return how the mean p(c|w) of the samples compares with that of exact samples."""
    pair = f"The classifier's mean p(c|w) is {ours:.3f} for the samples, and {exact:.3f} for exact samples"
    if abs(ours - exact) <= CLOSE:
        return Finding("good", f"{pair}: they agree.")
    if ours < exact:
        return Finding("caution", f"{pair}: the sampler stops short of them. Use smaller tolerances or more steps.")
    if is_flow:
        return Finding("note", f"{pair}. The flow of this sampler has no target that it samples exactly.")
    return Finding(
        "caution", f"{pair}: the samples are not those of the target. sampler=rejection draws exactly where it can."
    )


def _spread(ratio: float) -> Finding:
    if ratio < 1 - SPREAD:
        return Finding(
            "caution",
            f"The latents vary less than exact samples ({ratio:.0%} of their variance): pictures are too alike.",
        )
    if ratio > 1 + SPREAD:
        return Finding("caution", f"The latents vary more than exact samples ({ratio:.0%} of their variance).")
    return Finding("good", f"The latents vary as exact samples do ({ratio:.0%} of their variance).")


def accuracy_findings(
    metrics: Mapping[str, float], protocol: Mapping[str, Any], config: Mapping[str, Any]
) -> list[Finding]:
    """Return what limits ACC, as far as the figures of a run tell.

    Args:
        metrics: figures of the run by name.
        protocol: how they were measured.
        config: the configuration in plain containers.

    Example:
        >>> accuracy_findings({"acc": 0.8, "own/acc": 0.99}, {}, {})[0].text
        'ACC is 0.800 by the judge and 0.990 by the classifier itself: classifier and judge disagree, and no sampler can mend that. More pairs (pairs.count) or a labeler that agrees with the judge can.'
    """  # noqa: E501
    return list(_accuracy(metrics, protocol, config))


def _accuracy(
    metrics: Mapping[str, float], protocol: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Finding]:
    if partial := protocol.get("partial"):
        yield Finding("problem", f"The run is partial, and its figures are not those of its settings: {partial}.")
    if protocol.get("judged_by") == "labeler":
        note = protocol.get("judge_note") or "no independent judge was asked"
        yield Finding("caution", f"ACC is measured by the labeler that the classifier was trained on ({note}).")
    acc, own, count = metrics.get("acc"), metrics.get("own/acc"), protocol.get("num_samples")
    if acc is not None:
        yield from _limits(acc, own, metrics, config)
        yield from _classifier(metrics, config)
        yield from _parts(metrics)
    if outlook := protocol.get("outlook"):
        yield Finding("note", f"Said before sampling: {outlook}.")
    if acc is not None and isinstance(count, int) and count > 0:
        error = math.sqrt(max(acc * (1 - acc), 0.0) / count)
        if error > 0.01:
            yield Finding("caution", f"ACC is of {count} samples: its standard error is about {error:.3f}.")
    if (unknown := metrics.get("unknown", 0.0)) > UNKNOWN:
        yield Finding("caution", f"The judge has no label for {unknown:.0%} of the labels that were asked for.")
    yield from _distance(metrics, protocol)
    if (change := metrics.get("change")) is not None and change > 0.2:
        yield Finding(
            "caution", f"Edits change another attribute by up to {change:.2f}: raise editing.keep or editing.proximity."
        )


def _limits(
    acc: float, own: float | None, metrics: Mapping[str, float], config: Mapping[str, Any]
) -> Iterator[Finding]:
    if acc >= HIGH:
        yield Finding("good", f"ACC is {acc:.3f}: samples, classifier and judge agree.")
        return
    if own is None:
        yield Finding("note", f"ACC is {acc:.3f}. There is no classifier of latents to compare it with.")
        return
    if own - acc > GAP:
        yield Finding(
            "caution",
            f"ACC is {acc:.3f} by the judge and {own:.3f} by the classifier itself: classifier and judge disagree, and "
            "no sampler can mend that. More pairs (pairs.count) or a labeler that agrees with the judge can.",
        )
    if own < HIGH:
        predicted, confidence = metrics.get("predicted"), metrics.get("confidence")
        is_short = predicted is not None and confidence is not None and predicted - confidence > CLOSE
        weight = (config.get("query") or {}).get("weight") if isinstance(config.get("query"), Mapping) else None
        yield Finding(
            "caution",
            f"ACC by the classifier itself is {own:.3f}: "
            + (
                "the sampler does not reach its target. Use smaller tolerances or more steps."
                if is_short
                else "the target asks for no more. Raise the strength of the condition "
                f"(query.weight{'' if weight is None else f', {weight} here'})."
            ),
        )


def _parts(metrics: Mapping[str, float]) -> Iterator[Finding]:
    """Yield the attribute or class of lowest ACC, where one is lower than the others."""
    for slashes, what in ((1, "attribute"), (2, "class")):
        parts = {n.removeprefix("acc/"): v for n, v in metrics.items() if re.fullmatch("acc" + "/[^/]+" * slashes, n)}
        if len(parts) > 1 and (slashes == 1 or sum(n.count("/") == 1 and n.startswith("acc/") for n in metrics) == 1):
            lowest = min(parts, key=lambda name: parts[name])
            others = [value for name, value in parts.items() if name != lowest]
            if sum(others) / len(others) - parts[lowest] > GAP:
                yield Finding(
                    "caution",
                    f"The {what} of lowest ACC is {lowest} ({parts[lowest]:.3f}; the others have "
                    f"{sum(others) / len(others):.3f} in the mean).",
                )


def _classifier(metrics: Mapping[str, float], config: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in metrics.items():
        if name.startswith("classifier/accuracy/") and value < 1 - 2 * GAP and "acc/" + name.split("/")[2] in metrics:
            yield Finding(
                "caution", f"The classifier is right about {name.split('/')[2]} on {value:.1%} of the held-out pairs."
            )
        if name.startswith("classifier/ece/") and value > ECE and "acc/" + name.split("/")[2] in metrics:
            yield Finding(
                "caution",
                f"The probabilities of {name.split('/')[2]} are off by {value:.2f} in the mean: set "
                "classifier.calibrate=true.",
            )
    # How many examples of the query the classifier has seen.
    pairs = config.get("pairs")
    count, log_p = (pairs.get("count") if isinstance(pairs, Mapping) else None), metrics.get("log_p")
    if isinstance(count, int) and log_p is not None and count * math.exp(log_p) < EXAMPLES:
        yield Finding(
            "caution",
            f"Among the {count} pairs are about {count * math.exp(log_p):.0f} examples of the query: raise "
            "pairs.count.",
        )


def _distance(metrics: Mapping[str, float], protocol: Mapping[str, Any]) -> Iterator[Finding]:
    name = frechet_name(metrics)
    if name is None:
        return
    alone, value = metrics.get(f"{name}/unconditional"), metrics[name]
    if alone is not None and alone > 0:
        level = "caution" if value > 1.5 * alone else "note"
        yield Finding(level, f"The Fréchet distance is {value:.4g}, and that of the generator alone {alone:.4g}.")
    frechet = protocol.get("frechet") or {}
    features, count = re.search(r"(\d+) features", str(frechet.get("network", ""))), frechet.get("samples")
    if features is not None and isinstance(count, int) and count < 2 * int(features[1]):
        yield Finding(
            "caution",
            f"A Fréchet distance over {features[1]} features from {count} samples is biased upwards: compare it with "
            "distances of as many samples alone.",
        )

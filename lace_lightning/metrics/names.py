"""Names of all figures, each with its titles, the tables that show it and the figure of the paper beside it.

A metric of a user needs no entry here: an unknown name is its own title, stands at the end of a run's table and is a
column of results.csv.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

# Tables that show a figure; the table of one run shows all but `file`.
PLACES = {
    "main": "the table of a sweep, and a record",
    "beside": "a record, after the main figures",
    "exact": "a record that compares with exact samples",
    "last": "a record, in its last columns",
    "run": "no table of several runs",
    "file": "no table: metrics.json and results.csv alone",
}
# Regular expressions of the parts of a pattern that are not any text without a slash.
PARTS = {"class": ".+", "side": ".+", "figure": ".+", "k": r"\d+", "i": r"\d+", "tau": r"[\d.e+-]+"}


@dataclass(frozen=True)
class Figure:
    """Titles of one figure, or of all figures of one pattern, and where tables show it.

    Args:
        name: Name in metrics.json; `{part}` in it stands for a part that varies, as in `acc/{attribute}`.
        title: Title of the row in the table of one run. A row below another (`under`) need not repeat its title.
        column: Title of the column in the record of an experiment.
        place: Key of `PLACES`: which tables show it.
        under: Name of the figure below which the row of this one stands, indented.
        paper: Keys of the paper's figure that this one stands beside, the best first; its own name where none is given.
        unless: Name of a figure that is shown in place of this one where a run has both.
        unless_equal: Name of a figure that replaces this one where both have the same value.
        hide_zero: Whether the row is left out where the value is 0.
        format: Format specification of its value in the table of a run and of a sweep.
        known: Whether the name has an entry in `FIGURES`.

    Example:
        >>> figure = figure_of("acc/smile")
        >>> figure.title, figure.under, figure.place
        ('smile', 'acc', 'main')
        >>> figure_of("brightness").title, figure_of("brightness").known
        ('brightness', False)
    """

    name: str
    title: str
    column: str
    place: str = "run"
    under: str = ""
    paper: tuple[str, ...] = ()
    unless: str = ""
    unless_equal: str = ""
    hide_zero: bool = False
    format: str = ".4g"
    known: bool = True

    @property
    def is_pattern(self) -> bool:
        """Whether the name has parts that vary."""
        return "{" in self.name

    def text(self, value: Any) -> str:
        """Return a value of this figure as text.

        Args:
            value: A number; None and an empty text are a dash, any other text is itself.

        Returns:
            The number in `format`.
        """
        if value is None or value == "":
            return "-"
        return format(value, self.format) if isinstance(value, float) else str(value)

    def beside(self, paper: Mapping[str, Any]) -> str | None:
        """Return the paper's figure beside this one as text, marked where it is FID and this one is something else.

        Args:
            paper: The paper's figures by key.

        Returns:
            The text, None where the paper has no such figure.
        """
        for key in self.paper:
            if key in paper:
                is_other_distance = key.split("/")[0] == "fid" and key != self.name
                return f"{self.text(paper[key])}{' (FID)' if is_other_distance else ''}"
        return None


# In the order of tables; rows below others follow these whatever their place here.
FIGURES = (
    Figure("acc", "ACC", "ACC", "main"),
    Figure("acc/{attribute}", "{attribute}", "{attribute}", "main", under="acc"),
    Figure("holds", "query true", "query true", "main", unless_equal="acc"),
    Figure("prior/holds", "for the generator alone", "true for the generator alone", "main", under="holds"),
    Figure("branch/several", "of these more than one", "of these several", "last", under="holds"),
    Figure("branch/{side}", "of these {side}", "of these {side}", "last", under="holds"),
    Figure(
        "prior/branch/{side}",
        "for the generator alone",
        "of these {side} (generator alone)",
        "last",
        under="branch/{side}",
    ),
    Figure("acc/{attribute}/{class}", "ACC {class}", "ACC {class}"),
    Figure("unknown", "labels unknown to the judge, share", "unknown to the judge", "main"),
    Figure("probability", "judge's probability of the query", "probability", "file"),
    Figure("tau{tau}/probability", "probability at τ = {tau}", "probability at τ = {tau}", "last"),
    Figure("des", "DES, mean of the edits", "DES", "main"),
    Figure("gain", "gain of the edited attributes", "gain", "file"),
    Figure("change", "largest change of another attribute", "change", "file"),
    Figure("id", "ID", "ID", "main"),
    Figure("fid", "FID", "FID", "main"),
    Figure("fid_{count}", "FID, {count} samples", "FID, {count} samples", "main", paper=("fid_{count}", "fid")),
    Figure("fd_{network}", "Fréchet distance (fd_{network})", "distance", "main", paper=("fid",)),
    Figure("fid/unconditional", "of the generator alone", "FID of the generator alone", "beside", under="fid"),
    Figure(
        "fid_{count}/unconditional",
        "of the generator alone",
        "FID, {count} samples of the generator alone",
        "beside",
        under="fid_{count}",
        paper=("fid_{count}/unconditional", "fid/unconditional"),
    ),
    Figure(
        "fd_{network}/unconditional",
        "of the generator alone",
        "distance of the generator alone",
        "beside",
        under="fd_{network}",
        paper=("fid/unconditional",),
    ),
    Figure("own/acc", "ACC by the classifier itself", "ACC, classifier", "main"),
    Figure("own/holds", "query true by the classifier itself", "query true, classifier"),
    Figure("reward/{figure}", "reward {figure}, mean", "reward {figure}", "beside"),
    Figure(
        "prior/reward/{figure}",
        "of the generator alone",
        "{figure} of the generator",
        "beside",
        under="reward/{figure}",
    ),
    Figure("labeled_right", "query true for the labeler", "true for the labeler", "main"),
    Figure("ceiling", "of these, for the judge (ceiling)", "ceiling", "main", under="labeled_right"),
    Figure("confidence", "classifier's p(c|w), mean", "confidence", "exact"),
    Figure("predicted", "of exact samples", "predicted", "exact", under="confidence"),
    Figure("spread", "spread of latents", "spread"),
    Figure("spread/reference", "of exact samples", "spread of exact samples", under="spread"),
    Figure("posterior_distance", "distance to exact samples", "distance to exact", "main"),
    Figure("posterior_distance/floor", "of exact samples to each other", "floor", "main", under="posterior_distance"),
    Figure("log_p", "log P of the query", "log P", "main"),
    Figure("log_p/error", "standard error", "± log P", "exact", under="log_p"),
    Figure("ess", "effective samples, share", "ESS share", "exact"),
    Figure("rhat", "split R-hat of pilot chains", "split R-hat", "exact"),
    Figure("acceptance", "acceptance", "acceptance"),
    Figure("acceptance_end", "acceptance at the end", "acceptance at the end", "file"),
    Figure("corrector_acceptance", "acceptance of the corrector", "acceptance of the corrector"),
    Figure("attempts", "attempts per sample", "attempts"),
    Figure("checks", "pictures checked per sample", "pictures checked", "main"),
    Figure("evaluations", "evaluations per sample", "evaluations", "main"),
    Figure("forward", "of the energy alone", "forward passes", "main", under="evaluations", hide_zero=True),
    Figure("seconds/sampling_batch_64", "sampling, seconds per 64", "s per 64, batches of 64", paper=("seconds",)),
    Figure(
        "seconds/sampling_per_64",
        "sampling, seconds per 64",
        "s per 64",
        "main",
        paper=("seconds",),
        unless="seconds/sampling_batch_64",
    ),
    Figure("seconds/synthesis_batch_64", "synthesis, seconds per 64", "s of synthesis per 64, batches of 64"),
    Figure(
        "seconds/synthesis_per_64",
        "synthesis, seconds per 64",
        "s of synthesis per 64",
        unless="seconds/synthesis_batch_64",
    ),
    Figure("minutes/training", "training, minutes", "minutes of training", "main"),
    Figure("edit{k}/{figure}", "{figure} after edit {k}", "{figure} after edit {k}", "file"),
    Figure("tau{tau}/{figure}", "{figure} at τ = {tau}", "{figure} at τ = {tau}", "file"),
    Figure("classifier/{figure}", "classifier: {figure}", "classifier: {figure}", "file"),
    Figure("model/{figure}", "model: {figure}", "model: {figure}", "file"),
    # Tasks without samples of a query.
    Figure("train/{figure}", "{figure}, train pictures", "{figure}, train", "file"),
    Figure("val/{figure}", "{figure}, validation pictures", "{figure}, validation", "file"),
    Figure("test/{figure}", "{figure}, test pictures", "{figure}, test", "file"),
    Figure("labeler/{attribute}", "labeler right, {attribute}", "labeler, {attribute}", "file"),
    Figure("judge/{attribute}", "judge right, {attribute}", "judge, {attribute}", "file"),
    Figure("agreement/{attribute}", "labeler and judge agree, {attribute}", "agreement, {attribute}", "file"),
    Figure("layer{i}/{attribute}", "share of layer {i}, {attribute}", "layer {i}, {attribute}", "file"),
    Figure("fd/{split}", "Fréchet distance, {split} to train pictures", "distance, {split}", "file"),
    Figure("kimg", "training, thousands of pictures", "kimg", "file"),
    Figure("portraits", "portraits", "portraits", "file"),
    Figure("pictures", "pictures", "pictures", "file"),
    Figure("seconds", "seconds", "seconds", "file"),
)


def _regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern, a group for every part."""
    pieces = re.split(r"\{(\w+)\}", pattern)
    return re.compile(
        "".join(
            f"(?P<{piece}>{PARTS.get(piece, '[^/]+')})" if number % 2 else re.escape(piece)
            for number, piece in enumerate(pieces)
        ),
        re.DOTALL,
    )


_PATTERNS = [(number, entry, _regex(entry.name)) for number, entry in enumerate(FIGURES) if entry.is_pattern]
_NUMBERS = {entry.name: number for number, entry in enumerate(FIGURES) if not entry.is_pattern}


@lru_cache(maxsize=4096)
def _find(name: str) -> tuple[int, Figure]:
    """Return the number of the entry of a name, and the entry with all parts filled in."""
    if name in _NUMBERS:
        entry = FIGURES[_NUMBERS[name]]
        return _NUMBERS[name], replace(entry, paper=entry.paper or (name,))
    for number, entry, regex in _PATTERNS:
        if match := regex.fullmatch(name):
            parts = match.groupdict()
            # A title within a title is that of the inner figure.
            titles = parts | {key: figure_of(value).column for key, value in parts.items() if key == "figure"}
            return number, replace(
                entry,
                name=name,
                title=entry.title.format(**titles),
                column=entry.column.format(**titles),
                under=entry.under.format(**parts),
                paper=tuple(key.format(**parts) for key in entry.paper) or (name,),
            )
    return len(FIGURES), Figure(name, name, name, "run", paper=(name,), known=False)


def figure_of(name: str) -> Figure:
    """Return the figure of a name; an unknown name is its own title and is a row of a run's table.

    Args:
        name: Name in metrics.json, for example `acc/smile`.

    Returns:
        The entry of `FIGURES` with the parts of a pattern filled in.

    Example:
        >>> figure_of("fid_1k").title, figure_of("edit2/des").title
        ('FID, 1k samples', 'DES after edit 2')
    """
    return _find(name)[1]


def in_order(names: Iterable[str]) -> list[Figure]:
    """Return the figures of these names in the order of tables, rows below others directly after these.

    Args:
        names: Names of figures; those of one pattern, and unknown ones, keep their order.

    Returns:
        One figure for every name; an attribute's ACC only beside that of another one, that of a class only where a
        query has one attribute.

    Example:
        >>> [figure.name for figure in in_order(["mine", "evaluations", "prior/holds", "fid", "holds"])]
        ['holds', 'prior/holds', 'fid', 'evaluations', 'mine']
    """
    names = list(dict.fromkeys(names))
    position = {name: number for number, name in enumerate(names)}

    def key(name: str) -> tuple[tuple[int, int], ...]:
        number, figure = _find(name)
        # The share of samples for which several sides hold comes after the shares of the sides.
        number += figure.name == "branch/several"
        above = key(figure.under) if figure.under else ()
        return (*above, (number, position.get(name, -1)))

    attributes = sum(_is_accuracy(name, 1) for name in names)
    return [
        figure_of(name)
        for name in sorted(names, key=key)
        if not (_is_accuracy(name, 1) and attributes == 1) and not (_is_accuracy(name, 2) and attributes > 1)
    ]


def _is_accuracy(name: str, slashes: int) -> bool:
    """Return whether a name is that of an attribute's ACC (one slash) or of a class's (two)."""
    entry = FIGURES[_find(name)[0]] if figure_of(name).known else None
    return entry is not None and entry.name.startswith("acc/") and entry.name.count("/") == slashes


def depth(figure: Figure) -> int:
    """Return the level of a figure in tables: the number of figures that it is indented below.

    Args:
        figure: The figure.

    Returns:
        0 for a figure that is not indented.

    Example:
        >>> depth(figure_of("acc")), depth(figure_of("acc/smile"))
        (0, 1)
    """
    return 1 + depth(figure_of(figure.under)) if figure.under else 0


def main_figures(names: Iterable[str]) -> list[str]:
    """Return the names of the figures that a table of many runs shows, in its order.

    Args:
        names: Names of all figures of the table.

    Returns:
        Those whose `place` is `main`.

    Example:
        >>> main_figures(["evaluations", "acc", "acc/smile", "spread"])
        ['acc', 'evaluations']
    """
    return [figure.name for figure in in_order(names) if figure.place == "main"]


def distances(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of Fréchet distances of samples: `fid`, `fid_<count>`, `fd_<network>`.

    Args:
        names: Names of figures.

    Example:
        >>> list(distances(["acc", "fid_10k", "fd_judge/unconditional"]))
        ['fid_10k']
    """
    return (name for name in names if name == "fid" or (name.startswith(("fid_", "fd_")) and "/" not in name))


def frechet_name(names: Iterable[str]) -> str | None:
    """Return the first name of a Fréchet distance among names, None where there is none.

    Args:
        names: Names of figures.

    Example:
        >>> frechet_name(["acc", "fd_judge", "fd_judge/unconditional"])
        'fd_judge'
    """
    return next(distances(names), None)

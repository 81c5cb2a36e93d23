"""Charts as inline SVG: curves of a training, points and parallel axes of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

# Colours with a contrast of at least 3 to both backgrounds of the pages, in the order of a scale.
COLOURS = ((63, 111, 209), (15, 138, 157), (46, 139, 61), (176, 125, 0), (194, 84, 45))
# Values above 0 whose ratio is larger have a logarithmic axis.
RATIO = 20.0
# Points of a curve that are drawn at most.
POINTS = 400


@dataclass(frozen=True)
class Job:
    """One job of a sweep in a chart.

    Args:
        number: number of the job, the same in all charts and tables.
        values: value on each axis; text for a setting that is no number, None for a missing one.
        text: lines that are shown beside the pointer.
        link: address of the job's report, empty for none.

    Example:
        >>> Job(0, (0.1, "ode"), "sampler ode", "").values[1]
        'ode'
    """

    number: int
    values: tuple[Any, ...]
    text: str
    link: str


def colour(share: float) -> str:
    """Return a colour of the scale.

    Args:
        share: place on the scale in [0, 1].

    Example:
        >>> colour(0.0), colour(1.0)
        ('rgb(63,111,209)', 'rgb(194,84,45)')
    """
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    left = min(int(place), len(COLOURS) - 2)
    mixed = (a + (b - a) * (place - left) for a, b in zip(COLOURS[left], COLOURS[left + 1], strict=True))
    return f"rgb({','.join(str(round(value)) for value in mixed)})"


class Axis:
    """Scale of an axis: linear, logarithmic, or places of texts.

    Args:
        values: all values on it; None is passed over.
        log: whether it is logarithmic; None decides by the values.
        margin: room beyond the outermost values of a linear axis, as a share of their distance.

    Example:
        >>> axis = Axis([0.001, 0.01, 0.1])
        >>> axis.is_log, round(axis.place(0.01), 3)
        (True, 0.5)
        >>> Axis(["b", "a"]).place("b")
        1.0
    """

    def __init__(self, values: Sequence[Any], log: bool | None = None, margin: float = 0.0) -> None:
        known = [value for value in values if value is not None]
        numbers = [float(value) for value in known if _is_number(value)]
        self.texts = sorted({str(value) for value in known}) if len(numbers) < len(known) else []
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        self.is_log = not self.texts and low > 0 and (high / low > RATIO if log is None else log)
        if low == high:
            low, high = (low / 2, high * 2) if self.is_log else (low - 0.5, high + 0.5)
        room = 0.0 if self.is_log else margin * (high - low)
        self.low, self.high = low - room, high + room

    def place(self, value: Any) -> float:
        """Return the place of a value in [0, 1]."""
        if self.texts:
            return self.texts.index(str(value)) / max(len(self.texts) - 1, 1)
        if self.is_log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (float(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the places of marks and their texts."""
        if self.texts:
            return [(self.place(text), text if len(text) <= 24 else f"{text[:22]}…") for text in self.texts]
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            values = [
                factor * 10.0**power
                for power in range(first, last + 1)
                for factor in ((1, 2, 5) if last - first < 3 else (1,))
            ]
        else:
            step = _step((self.high - self.low) / 6)
            values = [step * number for number in range(math.floor(self.low / step), math.ceil(self.high / step) + 1)]
        near = (
            [value for value in values if -0.001 <= self.place(value) <= 1.001]
            if not self.is_log
            else [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
        )
        return [(self.place(value), f"{value:.4g}") for value in near or (self.low, self.high)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _tag(name: str, text: str = "", **attributes: Any) -> Markup:
    """Return an element with escaped attributes; text that is no markup is escaped too."""
    from markupsafe import Markup, escape

    named = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{named}>{escape(text)}</{name}>")


def _svg(width: int, height: int, label: str, parts: Sequence[Markup], **attributes: Any) -> Markup:
    from markupsafe import Markup

    return _tag(
        "svg", Markup("\n").join(parts), viewBox=f"0 0 {width} {height}", role="img", aria_label=label, **attributes
    )


def _frame(x: Axis, y: Axis, box: tuple[int, int, int, int], names: tuple[str, str]) -> list[Markup]:
    """Return grid lines, marks and titles of two axes; the box is left, top, right, bottom."""
    left, top, right, bottom = box
    parts = []
    for place, text in x.ticks():
        at = left + place * (right - left)
        parts.append(_tag("path", d=f"M{at:.1f} {top}V{bottom}", class_="grid"))
        parts.append(_tag("text", text, x=f"{at:.1f}", y=bottom + 16, text_anchor="middle"))
    for place, text in y.ticks():
        at = bottom - place * (bottom - top)
        parts.append(_tag("path", d=f"M{left} {at:.1f}H{right}", class_="grid"))
        parts.append(_tag("text", text, x=left - 6, y=f"{at + 4:.1f}", text_anchor="end"))
    parts.append(_tag("text", names[0], x=(left + right) / 2, y=bottom + 34, text_anchor="middle"))
    parts.append(_tag("text", names[1], x=left - 40, y=top - 10, class_="title"))
    return parts


def curves(title: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Markup:
    """Return the chart of a figure over the steps of a training.

    Args:
        title: name of the figure.
        series: name and points (step, value) of every curve.

    Example:
        >>> str(curves("loss", [("train", [(0, 1.0), (10, 0.1)])])).startswith("<svg")
        True
    """
    points = [point for _, curve in series for point in curve]
    x, y = Axis([step for step, _ in points], log=False), Axis([value for _, value in points])
    box = (52, 30, 430, 200)
    parts = _frame(x, y, box, ("step", title))
    for number, (name, curve) in enumerate(series):
        stroke, thin = colour(number / max(len(series) - 1, 1)), max(1, -(-len(curve) // POINTS))
        kept = [*curve[::thin], *curve[-1:]]
        path = "L".join(
            f"{box[0] + x.place(s) * (box[2] - box[0]):.1f} {box[3] - y.place(v) * (box[3] - box[1]):.1f}"
            for s, v in kept
        )
        parts.append(_tag("path", d=f"M{path}", class_="line", stroke=stroke))
        parts.append(
            _tag("text", name, x=box[2], y=box[1] - 10 + 14 * number, text_anchor="end", style=f"fill:{stroke}")
        )
    last = "; ".join(f"{name} ends at {curve[-1][1]:.4g}" for name, curve in series)
    return _svg(440, 245, f"{title} over the steps of the training: {last}", parts)


def scatter(
    jobs: Sequence[Job],
    names: tuple[str, str],
    groups: Sequence[Any],
    group_name: str,
    paper: tuple[float, float] | None = None,
) -> Markup:
    """Return the chart of two figures with a point for each job.

    Args:
        jobs: the jobs with two values each.
        names: titles of the two figures.
        groups: value that colours each job.
        group_name: name of these values, empty for one colour.
        paper: the paper's two figures; None for none.

    Example:
        >>> "data-job" in scatter([Job(0, (6.6, 0.97), "atol 0.1", "")], ("FID", "ACC"), [0.1], "atol")
        True
    """
    box = (60, 36, 560, 380)
    x = Axis([job.values[0] for job in jobs] + ([paper[0]] if paper else []), margin=0.05)
    y = Axis([job.values[1] for job in jobs] + ([paper[1]] if paper else []), log=False, margin=0.05)
    levels = sorted(set(groups), key=lambda value: (not _is_number(value), value if _is_number(value) else str(value)))
    shades = {value: colour(number / max(len(levels) - 1, 1)) for number, value in enumerate(levels)}
    parts = _frame(x, y, box, names)

    def spot(values: Sequence[float]) -> tuple[str, str]:
        return (
            f"{box[0] + x.place(values[0]) * (box[2] - box[0]):.1f}",
            f"{box[3] - y.place(values[1]) * (box[3] - box[1]):.1f}",
        )

    for job, group in zip(jobs, groups, strict=True):
        cx, cy = spot(job.values)
        marks = _tag("title", job.text) + _tag("circle", cx=cx, cy=cy, r=11, class_="hit")
        marks += _tag("circle", cx=cx, cy=cy, r=5, class_="dot", fill=shades[group])
        parts.append(_group(job, marks))
    if paper is not None:
        cx, cy = spot(paper)
        parts.append(
            _tag("path", d=f"M{cx} {cy}m-7 0h14m-7 -7v14", class_="paper")
            + _tag("text", "paper", x=cx, y=float(cy) - 12, text_anchor="middle")
        )
    shown = levels if len(levels) <= 14 else []
    for number, value in enumerate(shown if group_name else []):
        at = box[1] + 6 + 20 * number
        parts.append(_tag("circle", cx=582, cy=at, r=5, fill=shades[value]))
        text = f"{group_name} {value:g}" if _is_number(value) else str(value)
        parts.append(_tag("text", text if len(text) <= 28 else f"{text[:26]}…", x=594, y=at + 4))
    best = max(jobs, key=lambda job: job.values[1])
    top = f"The highest {names[1]} is {best.values[1]:.4g} at {names[0]} {best.values[0]:.4g}."
    label = f"{names[1]} against {names[0]} of {len(jobs)} jobs. {top}"
    return _svg(760, 425, label, parts, class_="jobs")


def parallel(jobs: Sequence[Job], names: Sequence[str], shares: Sequence[float]) -> Markup:
    """Return the chart with an axis for every setting and figure, and a line for each job.

    Args:
        jobs: the jobs with a value for every axis; a line has a gap where a value is None.
        names: titles of the axes.
        shares: place of each job's colour in [0, 1].

    Example:
        >>> chart = parallel([Job(0, (0.1, 0.9), "", ""), Job(1, (0.001, 0.8), "", "")], ["atol", "ACC"], [1.0, 0.0])
        >>> chart.count("data-job")
        2
    """
    width, top, bottom = max(760, 125 * len(names)), 46, 360
    axes = [Axis([job.values[number] for job in jobs]) for number in range(len(names))]
    places = [60 + (width - 140) * number / max(len(names) - 1, 1) for number in range(len(names))]
    parts: list[Any] = []
    for job, share in zip(jobs, shares, strict=True):
        points = [
            None if value is None else f"{place:.1f} {bottom - axis.place(value) * (bottom - top):.1f}"
            for value, axis, place in zip(job.values, axes, places, strict=True)
        ]
        path = "".join(
            f"{'M' if number == 0 or points[number - 1] is None else 'L'}{point}"
            for number, point in enumerate(points)
            if point
        )
        lines = _tag("title", job.text) + _tag("path", d=path, class_="hit")
        parts.append(_group(job, lines + _tag("path", d=path, class_="line", stroke=colour(share))))
    for number, (name, axis, place) in enumerate(zip(names, axes, places, strict=True)):
        parts.append(_tag("path", d=f"M{place:.1f} {top}V{bottom}", class_="grid"))
        parts.append(
            _tag("text", name, x=f"{place:.1f}", y=top - 26 + 13 * (number % 2), text_anchor="middle", class_="title")
        )
        for at, text in axis.ticks():
            parts.append(_tag("text", text, x=f"{place + 5:.1f}", y=f"{bottom - at * (bottom - top) + 4:.1f}"))
        if axis.is_log:
            parts.append(_tag("text", "log", x=f"{place:.1f}", y=bottom + 20, text_anchor="middle"))
    return _svg(
        width,
        390,
        f"Parallel axes of {', '.join(names)} with a line for each of {len(jobs)} jobs.",
        parts,
        class_="jobs",
    )


def _group(job: Job, content: Markup) -> Markup:
    return _tag("g", content, data_job=job.number, data_tip=job.text, data_link=job.link)

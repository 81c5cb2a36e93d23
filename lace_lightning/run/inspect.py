"""Tasks without a system: references of distances, checks of labelers, style layers, portraits and pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from ..artifacts import atomic_path, check_writable
from ..cache import Cache
from ..errors import LaceError
from ..labelers import Labeler
from ..metrics import LayerShares, judged_labels, layers_of
from ..metrics.feature_space import extractor_of, measure_reference
from ..pictures.convert import downscale, float_batches, to_bytes
from ..pictures.grids import labelled_grid, to_picture
from ..portraits import attribute_rows
from ..progress import steps
from ..report.text import Table
from ..seeds import RunSeeds
from ..training.losses import attribute_scores
from .outputs import write_results
from .settings import Settings
from .study import common_schema, device_of, generator_of, labeler_of


def reference(settings: Settings) -> dict[str, float]:
    """Measure the reference statistics of Fréchet distances: mean and covariance of features of real pictures.

    Args:
        settings: settings of the task `reference`; the features are those of metrics.fid, for auto those of the
            judge.

    Returns:
        Figures by name; the statistics are written as <task.export>.safetensors.

    Raises:
        LaceError: when the pictures or the network are missing.
    """
    task: Any = settings.task
    data, device = settings.dataset.module.build(), str(device_of(settings))
    data.setup("fit")
    # What has no labels has no splits.
    pictures = {split: part[0] for split, part in getattr(data, "splits", {}).items()} or {
        "train": data.train_pictures()
    }
    extractor = extractor_of(settings.metrics.fid, labeler_of(settings.judge), settings.dataset.name, device)
    file = Path(settings.paths.output) / f"{task.export}.safetensors"
    metrics = measure_reference(
        extractor, pictures, settings.dataset.name, file, data.source, Cache(settings.paths.cache)
    )
    write_results(settings, metrics, {"weights": file.name, "network": extractor.network}, None)
    return metrics


def check_labelers(settings: Settings) -> dict[str, float]:
    """Measure labeler and judge on test pictures with labels, and their agreement on pictures of the generator.

    A data set without labels leaves the first out. Labels that one of the two does not know are left out.

    Args:
        settings: settings of the task `check_labelers`.

    Returns:
        Figures "labeler/<attribute>", "judge/<attribute>" and "agreement/<attribute>", each from 0 to 1; and
        "both_know/<attribute>", the share of the generated pictures of which both know the label, where it is below 1.

    Raises:
        LaceError: when labeler, judge and data set have different attributes.
    """
    device, count, size = device_of(settings), int(settings.metrics.num_samples), int(settings.metrics.batch_size)
    generator = generator_of(settings.generator).to(device)
    labeler, judge = (labeler_of(node, generator).to(device) for node in (settings.labeler, settings.judge))
    schema, data = common_schema(labeler, judge), settings.dataset.module.build()
    if data.schema is not None and data.schema.attributes != schema.attributes:
        raise LaceError(
            f"Labeler and judge must know the attributes of the data set, {', '.join(data.schema.names)}, and know "
            f"{', '.join(schema.names)}: choose others, or another dataset.module.attributes where it has that."
        )

    def logits(network: Labeler, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([network(part.to(device)).cpu() for part in float_batches(images)])

    with torch.no_grad():
        shown, seen = [], []
        for first in range(0, count, size):
            images = generator.pictures(
                generator.mapping(generator.prior(min(size, count - first), settings.metrics.seed, first, device))
            )
            seen.append([logits(network, images) for network in (labeler, judge)])
            shown.append(downscale(images[: max(80 - first, 0)].cpu()))

    scores: dict[str, dict[str, torch.Tensor]] = {}
    num_test = 0
    if data.schema is not None:
        data.setup("fit")
        pictures, truth, *known = data.splits["test"]
        num_test = len(pictures)
        # Attributes without labels in the data set are left out.
        has_labels = known[0].any(0).tolist() if known else [True] * len(schema)
        for role, network in (("labeler", labeler), ("judge", judge)):
            measured = attribute_scores(schema, logits(network, pictures), truth, *known)
            scores[role] = {
                name: score for (name, score), used in zip(measured.items(), has_labels, strict=True) if used
            }
    labels = [judged_labels(schema, torch.cat(part)) for part in zip(*seen, strict=True)]
    both = labels[0].known & labels[1].known
    scores["agreement"] = attribute_scores(
        schema, torch.cat([part[1] for part in seen]).nan_to_num(), labels[0].values, both
    )
    if not bool(both.all()):
        scores["both_know"] = dict(zip(schema.names, both.float().mean(0), strict=True))
    metrics = {f"{role}/{name}": float(value) for role, column in scores.items() for name, value in column.items()}
    rows = [
        [
            a.name,
            "share right" if a.kind == "discrete" else "1 - mean error",
            *(float(column[a.name]) if a.name in column else None for column in scores.values()),
        ]
        for a in schema
    ]
    summary = (
        f"{f'{num_test} test pictures of {settings.dataset.name}; ' if num_test else ''}agreement on {count} pictures "
        f"of {settings.generator.name}\n"
        f"{Table(['attribute', '', *scores], rows).text()}"
    )
    grid = labelled_grid(
        list(torch.cat(shown).split(10)), [""] * -(-min(count, 80) // 10), f"{settings.generator.name}, uncurated"
    )
    write_results(
        settings,
        metrics,
        {
            "test_pictures": num_test,
            "generated_pictures": count,
            "labeler": labeler.digest,
            "judge": judge.digest,
            "generator": generator.digest,
        },
        grid,
        summary=summary,
    )
    return metrics


def style_layers(settings: Settings) -> dict[str, float]:
    """Measure which style layers carry each attribute of a generator, and print the value for editing.layers.

    Args:
        settings: settings of the task `style_layers`.

    Returns:
        Figures "layer<i>/<attribute>": share of the labeler's difference between two samples in style layer i.

    Raises:
        LaceError: for a generator without style layers.
    """
    task: Any = settings.task
    device, count, size = device_of(settings), int(settings.metrics.num_samples), int(settings.metrics.batch_size)
    generator = generator_of(settings.generator).to(device)
    labeler = labeler_of(settings.labeler, generator).to(device)
    if not generator.has_layers:
        raise LaceError(
            f"Measuring style layers needs a generator that has them, and {settings.generator.name} has one latent for "
            f"the "
            "whole picture: choose another generator."
        )
    measure = LayerShares(labeler.schema, generator.num_ws).to(device)
    rows: list[torch.Tensor] = []
    for first in steps(range(0, count, size), "style layers", "batch", settings.metrics.progress):
        number = min(size, count - first)
        with torch.no_grad():
            # Two people a sample, from seeds of their own.
            a, b = (
                generator.broadcast(
                    generator.mapping(generator.prior(number, settings.metrics.seed + offset, first, device))
                )
                for offset in (0, RunSeeds.OTHER)
            )
            states = [
                a,
                *(a.index_copy(1, torch.tensor([i], device=device), b[:, i : i + 1]) for i in range(generator.num_ws)),
                b,
            ]
            looks = []
            for ws in states:
                images = generator.pictures(ws)
                looks.append(torch.cat([labeler(part) for part in float_batches(images)]))
                if first == 0:
                    rows.append(downscale(images[: task.columns]).cpu())
        logits = torch.stack(looks)
        measure.update(logits[0], logits[-1], logits[1:-1])
    shares = measure.compute().cpu()
    schema, layers = labeler.schema, range(generator.num_ws)
    metrics = {f"layer{i}/{a.name}": float(shares[i, k]) for i in layers for k, a in enumerate(schema)}
    chosen = {a.name: layers_of(shares[:, k], task.threshold) for k, a in enumerate(schema)}
    table = Table(
        ["attribute", *(f"layer {i}" for i in layers)], [[a.name, *shares[:, k].tolist()] for k, a in enumerate(schema)]
    )
    snippet = "\n".join(f"  {name}: {value}" for name, value in chosen.items())
    grid = labelled_grid(
        rows, ["a", *(f"{i} of b" for i in layers), "b"], f"{settings.generator.name}: one style layer of b in a"
    )
    write_results(
        settings,
        metrics,
        {"pairs": count, "labeler": labeler.digest, "generator": generator.digest, "layers": chosen},
        grid,
        summary=f"Share of the difference between two people that comes with a style "
        f"layer\n{table}\n\nlayers:\n{snippet}",
    )
    return metrics


def draw_portraits(settings: Settings) -> dict[str, float]:
    """Draw a contact sheet of rendered portraits: people, and the values of each attribute.

    Args:
        settings: settings of the task `draw_portraits`.

    Returns:
        The number of portraits and the seconds.
    """
    task: Any = settings.task
    start = time.perf_counter()
    rows = attribute_rows(task.resolution, task.columns, settings.seed)
    seconds = time.perf_counter() - start
    metrics = {"portraits": float(sum(map(len, rows.values()))), "seconds": seconds}
    write_results(
        settings,
        metrics,
        {"resolution": task.resolution},
        labelled_grid([to_bytes(row) for row in rows.values()], list(rows)),
    )
    return metrics


def pictures(settings: Settings) -> dict[str, float]:
    """Write pictures of the generator to label by hand, and an empty table of labels for pairs.source.

    Args:
        settings: settings of the task `pictures`.

    Returns:
        The number of pictures.

    Raises:
        LaceError: when the table exists already, or the folder is not writable.
    """
    task: Any = settings.task
    device, count, size = device_of(settings), int(task.count), int(settings.metrics.batch_size)
    generator, folder = generator_of(settings.generator).to(device), check_writable(Path(task.folder))
    table, names = folder / "labels.csv", [folder / f"{i:06d}.png" for i in range(count)]
    if table.is_file():
        raise LaceError(
            f"The table '{table}' is there already, and what was filled in must not be lost: choose another "
            "task.folder."
        )
    shown: list[torch.Tensor] = []
    for first in steps(range(0, count, size), "pictures", "batch", settings.metrics.progress):
        part = names[first : first + size]
        if all(name.is_file() for name in part) and len(shown) > 0:
            continue
        with torch.no_grad():
            images = generator.pictures(
                generator.mapping(generator.prior(len(part), int(settings.pairs.seed), first, device))
            ).cpu()
        for name, image in zip(part, images, strict=True):
            with atomic_path(name) as temporary:
                to_picture(image).save(temporary, format="png")
        shown = shown or list(images[:80].split(10))
    with atomic_path(table) as temporary:
        temporary.write_text(
            "".join(
                f"{row}\n"
                for row in (
                    ",".join(["sample", *task.attributes]),
                    *(name.name + "," * len(task.attributes) for name in names),
                )
            ),
            encoding="utf-8",
        )
    write_results(
        settings,
        {"pictures": float(count)},
        {"generator": generator.digest, "folder": str(folder), "seed": settings.pairs.seed},
        labelled_grid(shown, [""] * len(shown), f"{settings.generator.name}, uncurated"),
        summary=f"{count} pictures and {table}: fill in its columns (classes, or numbers in [0, 1]; empty where you "
        f"cannot "
        f"tell), then pairs.source={table}",
    )
    return {"pictures": float(count)}

"""Pages of the site that are made from the code and from the record of experiments."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import yaml

import lace_lightning
from lace_lightning.artifacts import read_json
from lace_lightning.commands import CLICK, CONTEXT
from lace_lightning.configuration import USAGE
from lace_lightning.metrics.names import FIGURES, PLACES, depth
from lace_lightning.report.record import grouped
from lace_lightning.report.text import Table, mean_sd
from lace_lightning.weights import card, weight_names

# Families of experiments by the beginning of their names, with titles.
FAMILIES = {
    "cifar10": "CIFAR-10",
    "faces": "Faces",
    "portraits": "Portraits",
    "digits": "Digits",
    "table": "Systems side by side",
    "composition": "Composition",
}
# Columns of the table of results: a title, a pattern of the figure's name, and the paper's key.
COLUMNS = (
    ("ACC", r"acc", ("acc",)),
    ("query true", r"holds", ()),
    ("of the generator alone", r"prior/holds", ()),
    ("DES", r"des", ("des",)),
    ("ID", r"id", ("id",)),
    ("distance", r"fd_\w+", ("fid",)),
    ("evaluations", r"evaluations", ()),
    ("s per 64", r"seconds/sampling_per_64", ("seconds",)),
)
# Entries of a protocol that tell the settings of an experiment apart.
SETTINGS = ("space", "energy", "editing", "classifier_mode", "features", "model")


def generated_pages(root: Path) -> dict[str, str]:
    """Return the text of every generated page by its path.

    Args:
        root: folder of the checkout.
    """
    return {
        "reference/commands.md": commands_page(),
        "reference/metrics.md": metrics_page(),
        "reference/errors.md": errors_page(root / "lace_lightning"),
        **api_pages(),
        "results/index.md": results_page(root / "experiments"),
        "gallery.md": gallery_page(root / "experiments"),
        "about/licences.md": licences_page(root),
        "about/citing.md": citing_page(root / "CITATION.cff"),
    }


def title_of(path: Path) -> str:
    """Return the first heading of a page."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else path.stem


def commands_page() -> str:
    """Return the help of every command."""
    parts = [
        "# Command line",
        "`lace-lightning COMMAND` and `python -m lace_lightning COMMAND` are the same. What the commands are for: "
        "[Commands](../docs/commands.md).",
        f"## Runs\n\n```text\n{USAGE.strip()}\n```",
    ]
    for name, command in CLICK.items():
        with click.Context(command, info_name=f"lace-lightning {name}", **CONTEXT) as context:
            parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
            for sub in command.list_commands(context) if isinstance(command, click.Group) else ():
                part = command.get_command(context, sub)
                with click.Context(part, info_name=sub, parent=context, **CONTEXT) as inner:
                    parts.append(f"### {name} {sub}\n\n```text\n{part.get_help(inner)}\n```")
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Return the names and titles of all figures."""
    rows = [
        (f"`{figure.name}`", "\u2003" * depth(figure) + figure.title, figure.column, PLACES[figure.place])
        for figure in FIGURES
    ]
    return "\n\n".join(
        [
            "# Metrics",
            "The figures of metrics.json and results.csv. `{...}` is a part that varies. "
            "[Protocols](../docs/protocols.md) says what each number measures, and against what.",
            Table(("name", "in the table of a run", "column of a record", "tables that show it"), rows).markdown(),
        ]
    )


def errors_page(package: Path) -> str:
    """Return all messages of `LaceError` in the code, by the module that they come from."""
    parts = [
        "# Troubleshooting by message",
        "Every message says what was required, what was received, and what to do. This page lists the messages of the "
        "program by module. Search it for the words of your message, without its names and numbers: `‹…›` stands for "
        "these. Messages of other programs, such as those of an installation or of a GPU, are in "
        "[first steps](../docs/start.md#when-something-fails).",
    ]
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        messages = list(dict.fromkeys(_messages(tree)))
        if messages:
            name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
            about = (ast.get_docstring(tree) or "").partition("\n")[0]
            parts.append(f"## {name}\n\n{about}\n\n" + "\n".join(f"- {message}" for message in messages))
    return "\n\n".join(parts) + "\n"


def _messages(tree: ast.AST) -> Iterator[str]:
    """Yield the messages of a module in Markdown, those alone that have words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "LaceError" and node.args:
            text = " ".join(_text(node.args[0]).split())
            if len(re.findall(r"[A-Za-z]{2,}", text)) >= 3:
                yield re.sub(r"([\\`*_\[\]<>#|$~])", r"\\\1", text)


def _text(node: ast.expr) -> str:
    """Return the text of an expression, `‹name›` or `‹…›` where it is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "suggest":
        return ""
    return f"‹{node.id}›" if isinstance(node, ast.Name) else "‹…›"


def api_pages() -> dict[str, str]:
    """Return a page of the public names, and one for every module that they are in."""
    modules: dict[str, list[str]] = {}
    rows = []
    for name in lace_lightning.__all__:
        thing = getattr(lace_lightning, name)
        if isinstance(thing, ModuleType):
            modules.setdefault(name, []).extend(_public(thing))
        elif not isinstance(thing, str):
            path = _path(thing, f"lace_lightning.{lace_lightning._NAMES[name]}", name)
            modules.setdefault(lace_lightning._NAMES[name], []).append(path)
            rows.append((f"[`lace.{name}`][{path}]", (inspect.getdoc(thing) or "").partition("\n")[0]))
    seen: set[str] = set()
    pages = {}
    for module, paths in modules.items():
        own = [path for path in dict.fromkeys(paths) if path not in seen]
        seen.update(own)
        if own:
            about = (import_module(f"lace_lightning.{module}").__doc__ or "").partition("\n")[0]
            text = "\n\n".join([f"# {module}", about, *(f"::: {path}" for path in own)])
            pages[f"reference/api/{module.replace('.', '_')}.md"] = text + "\n"
    listed = "\n".join(f"- [{Path(name).stem}]({Path(name).name})" for name in pages)
    table = Table(("name", "what it is"), rows).markdown()
    about = "`import lace_lightning as lace`. [From Python](../../docs/python.md) shows how the parts go together."
    return {"reference/api/index.md": f"# Python API\n\n{about}\n\n{table}\n\n## Modules\n\n{listed}\n", **pages}


def _public(module: ModuleType) -> list[str]:
    """Return the paths of the public classes and functions of a module."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    things = [(name, getattr(module, name)) for name in names]
    return [
        _path(thing, module.__name__, name)
        for name, thing in things
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__.startswith(module.__name__)
        and inspect.getdoc(thing)
    ]


def _path(thing: Any, module: str, name: str) -> str:
    """Return where a class or function is defined."""
    return f"{getattr(thing, '__module__', module)}.{getattr(thing, '__qualname__', name)}"


def results_page(experiments: Path) -> str:
    """Return the main figures of all experiments, beside the paper's."""
    parts = [
        "# All figures",
        "Made from `experiments/*/results.json`: mean ± standard deviation where a setting was run with several seeds. "
        "Figures in italics are the paper's, of other generators, judges and features (its distance is FID). Every "
        "experiment has its command, all figures and pictures on a page of its own; [Results](../docs/results.md) "
        "has the same by subject, and [Metrics](../reference/metrics.md) the names.",
    ]
    for title, names in _families(experiments):
        rows = [row for name in names for row in _rows(name, experiments / name / "results.json")]
        if rows:
            used = [
                number
                for number in range(len(rows[0]))
                if number < 2 or any(row[number] not in ("", None) for row in rows)
            ]
            heads = ["experiment", "setting", *(title for title, *_ in COLUMNS)]
            cells = [[row[number] for number in used] for row in rows]
            parts.append(f"## {title}\n\n{Table([heads[number] for number in used], cells).markdown()}")
    return "\n\n".join(parts) + "\n"


def _families(experiments: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the experiments of every family that has a page."""
    names = sorted(path.parent.name for path in experiments.glob("*/README.md"))
    for begin, title in FAMILIES.items():
        yield title, [name for name in names if name.startswith(begin)]
    yield "Others", [name for name in names if not name.startswith(tuple(FAMILIES))]


def _rows(name: str, path: Path) -> Iterator[list[str]]:
    """Yield the rows of an experiment: one for each setting, seeds together."""
    results = read_json(path) if path.is_file() else []
    if not isinstance(results, Sequence) or not any({"acc", "holds"} & set(r["metrics"]) for r in results):
        return
    link = f"[{name}](../experiments/{name}/README.md)"
    for setting, numbers in _settings(results).items():
        metrics = [results[number]["metrics"] for number in numbers]
        paper = results[numbers[0]]["paper"]
        yield [link, setting, *(_cell(metrics, paper, pattern, keys) for _, pattern, keys in COLUMNS)]


def _settings(results: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return the numbers of the runs of each setting."""
    if "row" in results[0]:
        found: dict[str, list[int]] = {}
        for number, result in enumerate(results):
            parts = [str(result[key]).strip("`") for key in ("part", "row") if result.get(key)]
            found.setdefault(", ".join(parts), []).append(number)
        return found
    protocols = [result["protocol"] if isinstance(result["protocol"], Mapping) else {} for result in results]
    samplers = _shortened([str(protocol.get("sampler", "")) for protocol in protocols])
    found = grouped(
        [
            {
                "query": {"text": protocol.get("query")},
                "sampler": {"_target_": sampler},
                **{key: protocol[key] for key in SETTINGS if key in protocol},
            }
            for protocol, sampler in zip(protocols, samplers, strict=True)
        ]
    )
    # A setting that is null in some runs alone has no words there.
    return {
        re.sub(r"(?:, )?\b\w+ None(?=,|$)", "", setting).removeprefix(", "): runs for setting, runs in found.items()
    }


def _shortened(samplers: Sequence[str]) -> list[str]:
    """Return samplers, given as `Name(argument=value, ...)`, with the arguments alone that differ within a class."""
    calls = [ast.parse(text, mode="eval").body if text else None for text in samplers]
    values: dict[tuple[str, str | None], set[str]] = {}
    for call in calls:
        for word in call.keywords if isinstance(call, ast.Call) else ():
            values.setdefault((ast.unparse(call.func), word.arg), set()).add(ast.unparse(word.value))
    short = []
    for call in calls:
        if not isinstance(call, ast.Call):
            short.append("")
            continue
        name = ast.unparse(call.func)
        # A sampler within another has its name alone.
        words = [
            f"{word.arg}={ast.unparse(word.value.func if isinstance(word.value, ast.Call) else word.value)}"
            for word in call.keywords
            if len(values[name, word.arg]) > 1 or isinstance(word.value, ast.Call)
        ]
        short.append(f"{name}({', '.join(words)})" if words else name)
    return short


def _cell(metrics: Sequence[Mapping[str, Any]], paper: Mapping[str, Any], pattern: str, keys: Sequence[str]) -> str:
    """Return the figure of a pattern, and the paper's in italics behind it."""
    names = [name for name in metrics[0] if re.fullmatch(pattern, name)]
    values = [m[names[0]] for m in metrics if names and isinstance(m.get(names[0]), int | float)]
    theirs = next((f" *{paper[key]}*" for key in keys if key in paper), "")
    return f"{mean_sd(values) if values else ''}{theirs if values else ''}"


def gallery_page(experiments: Path) -> str:
    """Return the pictures of all experiments, each with a link to its experiment."""
    parts = [
        "# Gallery",
        "Pictures of the [experiments](experiments/README.md), made by the command on the page of each.",
    ]
    for title, names in _families(experiments):
        figures = [
            _figure(name, path, title_of(experiments / name / "README.md"))
            for name in names
            for path in _pictures(experiments / name)
        ]
        if figures:
            parts.append(f'## {title}\n\n<div class="gallery">\n' + "\n".join(figures) + "\n</div>")
    return "\n\n".join(parts) + "\n"


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures of an experiment without its diagrams; an animation stands in place of its first frame."""
    pictures = [path for kind in ("png", "webp", "gif") for path in sorted(folder.glob(f"*.{kind}"))]
    moving = {path.stem for path in pictures if path.suffix != ".png"}
    diagrams = ("acc_against_fid", "curves", "together")
    return [
        path for path in pictures if path.stem not in diagrams and (path.suffix != ".png" or path.stem not in moving)
    ]


def _figure(name: str, path: Path, title: str) -> str:
    text = (path.parent / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"!\[([^\]]+)\]\({re.escape(path.stem)}\.png\)", text)
    caption = found[1] if found and found[1] != "Samples" else title
    caption = caption.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    quoted = caption.replace('"', "")
    return (
        f'<figure><a href="experiments/{name}/index.html"><img src="experiments/{name}/{path.name}" alt="{quoted}" '
        f'loading="lazy"></a><figcaption>{name}: {caption}</figcaption></figure>'
    )


def licences_page(root: Path) -> str:
    """Return the licences of the code and of the shipped networks."""
    rows = [(f"`{name}`", card(name)["what"], card(name)["licence"]) for name in weight_names()]
    return "\n\n".join(
        [
            "# Licences",
            "Code and weights of this project are under the [MIT licence](../LICENSE). The shipped networks of other "
            "people keep theirs: [licences of networks of other people](../licences/README.md).",
            Table(("network", "what it is", "licence"), rows).markdown(),
            f"```text\n{(root / 'LICENSE').read_text(encoding='utf-8').strip()}\n```",
        ]
    )


def citing_page(path: Path) -> str:
    """Return the references of CITATION.cff as text and as BibTeX."""
    cff = yaml.safe_load(path.read_text(encoding="utf-8"))
    paper = cff["references"][0]
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    return "\n\n".join(
        [
            "# Citing",
            cff["message"],
            "```bibtex\n"
            f"@inproceedings{{lace,\n  title = {{{paper['title']}}},\n  author = {{{authors}}},\n"
            f"  booktitle = {{{paper['collection-title']}}},\n  volume = {{{paper['volume']}}},\n"
            f"  year = {{{paper['year']}}}\n}}\n\n"
            f"@software{{lace_lightning,\n  title = {{{cff['title']}}},\n  version = {{{cff['version']}}},\n"
            f"  year = {{{str(cff['date-released'])[:4]}}},\n  license = {{{cff['license']}}}\n}}\n```",
            "The same as data: [CITATION.cff](../CITATION.cff).",
        ]
    )

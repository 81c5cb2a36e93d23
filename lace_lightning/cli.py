"""The command line: finding the configuration, messages instead of tracebacks, what is there."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .artifacts import read_json, write_json
from .configuration import config_folder, describe
from .errors import LaceError, suggest
from .report import sweeps

# At import, because launchers run jobs in processes that import this module and nothing else.
sweeps.register_resolvers()

USAGE = """\
lace_lightning: control a frozen image generator by attribute.

  python -m lace_lightning +experiment=<name> [key=value ...]   run an experiment
  python -m lace_lightning -m +experiment=<name> key=a,b        sweep over values; the same command resumes
  python -m lace_lightning +experiment=<name> --cfg job         show its configuration
  debug=fast                                                    shrink any experiment to seconds
  --config-dir my_conf labeler=cats                             with YAML files of your own: my_conf/labeler/cats.yaml
  LACE_TRACEBACK=1                                              show tracebacks of errors
  LACE_OFFLINE=1                                                download no network; say where to put its file by hand

  lace-lightning convert IN OUT.safetensors [G_ema|G|g_ema|...]  another program's generator, read as data
  lace-lightning models                                         networks: shipped, published, here
  lace-lightning download NAME [--sha256 HEX | --trust-first]   a published generator, checked, for generator=NAME
"""
STOPPED = "stopped: the same command goes on from here"


def overview() -> str:
    """Return what there is: experiments, samplers, generators and the other groups, one line each."""
    parts = [USAGE]
    groups = (
        ("Experiments", "experiment"),
        ("Samplers (sampler=...)", "sampler"),
        ("Correctors of flows (corrector=...)", "corrector"),
        ("Methods: sampler, corrector and target (+method=...)", "method"),
        ("Generators (generator=...)", "generator"),
        ("Labelers (labeler=...; most are judges too, judge=...)", "labeler"),
        ("Classifiers (classifier=...)", "classifier"),
        ("Editing (editing=...)", "editing"),
        ("Models: baselines (task=model model=..., or task=edit model=styleflow)", "model"),
        ("Samplers of scores (score_sampler@model.sampler=...)", "score_sampler"),
        ("Data sets (dataset=...)", "dataset"),
        ("Tasks", "task"),
        ("Loggers (logger=...)", "logger"),
    )
    for title, group in groups:
        entries = describe(group)
        width = max(len(name) for name, _ in entries)
        parts.append("\n".join([f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in entries)]) + "\n")
    return "\n".join(parts)


def normalize(arguments: Sequence[str]) -> list[str]:
    """Accept experiment=x for +experiment=x and debug=x for +debug=x, which goes last because it wins over experiments.

    A query needs no quotes of Hydra's: `query="label == ship"` and `query.text="label == ship"` are taken as they are,
    and so are edits, with commas between: `edits="age == 0.8, glasses == 1"`.
    """
    arguments = [_quoted(argument) for argument in arguments]
    debug = ["+" + a.lstrip("+") for a in arguments if re.match(r"^\+?debug=", a)]
    others = [re.sub(r"^experiment=", "+experiment=", a) for a in arguments if not re.match(r"^\+?debug=", a)]
    # Options of Hydra's may stand anywhere, and its parser wants all overrides in one place.
    overrides = [a for a in others if a.startswith("~") or ("=" in a and not a.startswith("-"))]
    return overrides + debug + [a for a in others if a not in overrides]


def _quoted(argument: str) -> str:
    edits = re.match(r"^(?:task\.)?edits=([^\[].*|\[[^'\"]*\])$", argument)
    if edits is not None:
        texts = [text.strip() for text in edits[1].strip("[]").split(",")]
        return "task.edits=[" + ",".join(f'"{text}"' for text in texts if text) + "]"
    match = re.match(r"^query(?:\.text)?=(.*)$", argument)
    if match is None or match[1][:1] in "'\"" or re.fullmatch(r"[\w-]*(,[\w-]+)*", match[1]):
        return argument
    return f'query.text="{match[1]}"'


def check_choices(arguments: Sequence[str]) -> None:
    """Refuse (LaceError) an unknown file of a configuration group before Hydra starts."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        group = config_folder() / key.lstrip("+")
        if not value or "/" in key or not group.is_dir():
            continue
        names = [name for name, _ in describe(key.lstrip("+"))] + _own_choices(arguments, key.lstrip("+"))
        for choice in value.split(","):
            if re.fullmatch(r"[\w-]+", choice) and choice not in names and choice != "null":
                raise LaceError(
                    f"There is no {key.lstrip('+')} '{choice}': choose one of "
                    f"{', '.join(names)}.{suggest(choice, names)}"
                )


def _own_choices(arguments: Sequence[str], group: str) -> list[str]:
    """Return the files of a group in the user's own folder of configuration (--config-dir)."""
    joined = "\0".join(arguments)
    folders = re.findall(r"(?:^|\0)(?:--config-dir|-cd)[=\0]([^\0]+)", joined)
    return [path.stem for folder in folders for path in sorted((Path(folder) / group).glob("*.yaml"))]


def _fail(error: BaseException) -> None:
    """Print an error as one sentence; with LACE_TRACEBACK=1 as a traceback too."""
    if os.environ.get("LACE_TRACEBACK"):
        traceback.print_exception(error)
    cause: BaseException | None = error
    while cause is not None and not str(cause) and cause.__cause__ is not None:
        cause = cause.__cause__
    print(f"error: {' '.join(str(cause).split()) or type(cause).__name__}", file=sys.stderr, flush=True)


def job(cfg: DictConfig) -> float | None:
    """Run one job; inside a sweep skip what is done, record what fails, and go on."""
    from .run import run
    from .run.results import config_digest

    _quiet()  # Lightning sets its own level when it is imported
    hydra_config = HydraConfig.get()
    folder = Path(cfg.paths.output)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    if in_sweep:
        sweeps.mark(folder)
    if (
        in_sweep
        and (folder / "metrics.json").is_file()
        and read_json(folder / "metrics.json")["config_digest"] == config_digest(cfg)
    ):
        sweeps.OUTCOMES[folder.name] = "skipped"
        return None
    try:
        metrics = run(cfg)
        sweeps.OUTCOMES[folder.name] = "done"
        (folder / "failed.json").unlink(missing_ok=True)
        return metrics.get("acc")
    except (SystemExit, KeyboardInterrupt) as stop:
        # Lightning ends a terminated run with SystemExit without a status, which a shell would take for success.
        print(STOPPED, file=sys.stderr, flush=True)
        raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else stop.code or 143) from None
    except Exception as error:
        if not in_sweep:
            raise
        sweeps.OUTCOMES[folder.name] = "failed"
        if not isinstance(error, LaceError):
            traceback.print_exception(error)
        _fail(error)
        if folder.is_dir():
            write_json(folder / "failed.json", {"error": str(error), "kind": type(error).__name__})
        return None


def convert(arguments: Sequence[str]) -> None:
    """`convert IN OUT.safetensors [WHICH]`: write the generator of another program's file as ours."""
    from .generators import convert as convert_file

    if not 2 <= len(arguments) <= 3:
        raise LaceError(
            f"convert needs IN and OUT.safetensors, and received {len(arguments)} arguments: write for example "
            "lace-lightning convert network.pkl network.safetensors."
        )
    card = convert_file(*arguments)
    print(f"{card['what']}, {card['parameters'] / 1e6:.1f} M parameters, from {card['layout']}")
    for assumption in card["assumed"]:
        print(f"assumed: {assumption}")
    print(
        f"source sha256 {card['source_sha256']}\n{arguments[1]}: {card['bytes'] / 2**20:.1f} MiB, sha256 "
        f"{card['sha256']}"
    )


def models(arguments: Sequence[str]) -> None:
    """`models`: list the networks that are shipped and those that others published, and say which are here."""
    from .catalogue import NETWORKS, downloads_folder
    from .weights import card, weight_names

    if arguments:
        raise LaceError(f"models needs nothing, and received '{arguments[0]}': leave it out.")
    rows = [("name", "size", "", "licence", "what")]
    for name in weight_names():
        entry = card(name)
        rows.append((name, _size(entry["bytes"]), "shipped", entry["licence"].split(" (")[0], entry["what"]))
    for network in NETWORKS:
        state = "not here" if not network.path.is_file() else "here" if network.record.is_file() else "not checked"
        rows.append((network.name, _size(network.bytes) or network.size or "?", state, network.licence, network.what))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())
    print(
        f"\nlace-lightning download NAME brings one that is not here to {downloads_folder()}; generator=NAME uses it."
    )


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


def download(arguments: Sequence[str]) -> None:
    """`download NAME [--sha256 HEX | --trust-first]`: bring a published network here, or check one that was put here by
    hand.
    """
    from .artifacts import file_sha256
    from .catalogue import published, published_path

    match list(arguments):
        case [name]:
            path = published_path(name)
        case [name, "--trust-first"] | ["--trust-first", name]:
            path = published_path(name, trust_first=True)
        case [name, "--sha256", sha256] | ["--sha256", sha256, name]:
            path = published_path(name, sha256)
        case _:
            raise LaceError(
                f"download needs NAME and at most one of --sha256 HEX and --trust-first, and received "
                f"'{' '.join(arguments)}': write for example lace-lightning download stylegan2_ffhq."
            )
    print(
        f"{published(name).what}, {published(name).licence}\n{path}: {_size(path.stat().st_size)}, sha256 "
        f"{file_sha256(path)}"
    )


# What is no run: the first word of a command line that Hydra never sees.
COMMANDS = {"convert": convert, "models": models, "download": download}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m lace_lightning` and of `lace-lightning`; exits with a status other than 0 after an error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        try:
            COMMANDS[given[0]](given[1:])
        except KeyboardInterrupt:
            print(STOPPED, file=sys.stderr, flush=True)
            raise SystemExit(130) from None
        except (LaceError, OSError) as error:
            _fail(error)
            raise SystemExit(1) from None
        return
    arguments = normalize(given)
    if not arguments or any(argument in ("--help", "-h") for argument in arguments):
        print(overview())
        return
    try:
        check_choices(arguments)
        _hydra(arguments)
    except OSError as error:
        _fail(LaceError(f"A file or folder could not be used ({error}): check the path and its permissions."))
        raise SystemExit(1) from None
    except (LaceError, HydraException, OmegaConfBaseException) as error:
        _fail(error)
        raise SystemExit(1) from None
    if "failed" in sweeps.OUTCOMES.values():
        raise SystemExit(1)


def _quiet() -> None:
    """Leave the terminal to what a user asked for; LACE_VERBOSE=1 shows what the libraries say."""
    if os.environ.get("LACE_VERBOSE"):
        return
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("pytorch_lightning", "lightning.pytorch", "torch.distributed", "wandb"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec.*",
        r".*does not have many workers.*",
        r".*`weights_only` was not set.*",
        r".*Found \d+ module\(s\) in eval mode.*",
        r".*Checkpoint directory .* exists.*",
        r".*lr_scheduler.step\(\).*",
        r".*You have overridden `on_after_batch_transfer`.*",
        r".*You passed in a `val_dataloader` but.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)


def _hydra(arguments: Sequence[str]) -> None:
    _quiet()
    # Hydra would print LaceErrors with its own header and half a traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    entry = hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")(job)
    known = sys.argv
    try:
        sys.argv = [known[0], *arguments]
        entry()
    finally:
        sys.argv = known

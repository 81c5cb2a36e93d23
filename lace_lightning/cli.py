"""The command line: arguments, the start of Hydra, and errors as one sentence in place of a traceback."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .commands import COMMANDS, version
from .completion import shell_completion
from .configuration import choices, config_folder, describe, overview, own_folders
from .errors import LaceError, suggest
from .folders import INPUTS, LOCKS, LOG, discard_unused, forget_folders, note_missing
from .renamed import former_folder_advice, former_group_advice, renamed_arguments, suggest_setting
from .stopping import is_handled, stop_status, stopping_signals
from .streams import LOGGERS, MESSAGES, job_streams, lasting_streams

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMANDS", "check_choices", "describe", "job", "main", "normalize", "overview"]

# Launchers run jobs in processes that import only Hydra and this module, for `job`. Without Hydra, as for a list, the
# import of the resolvers would take a second.
if "hydra" in sys.modules:
    from .report import sweeps

    sweeps.register_resolvers()

# Options of Hydra with a value after them, and without.
VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun", "--info", "-i")  # fmt: skip
FLAGS = ("--hydra-help", "--version", "--resolve", "-r", "--run", "--multirun", "-m", "--shell-completion", "-sc",
         "--help", "-h")  # fmt: skip


def normalize(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of the command line in the form that Hydra reads.

    `experiment=x` becomes `+experiment=x`. `debug=x` becomes `+debug=x` and comes last, so that it overrides the
    experiment. Queries and edits need no quotes of Hydra: `query="label == ship"`, `edits="age == 0.8, glasses == 1"`.

    Args:
        arguments: words of the command line, without the name of the program.

    Returns:
        Overrides first, then options.

    Raises:
        LaceError: for a word that is no experiment, and for an option that does not exist.

    Example:
        >>> normalize(["debug=fast", "experiment=cifar10_ode", "query=label == ship"])
        ['+experiment=cifar10_ode', 'query.text="label == ship"', '+debug=fast']
    """
    sweep = any(a in ("-m", "--multirun") or a == "hydra.mode=MULTIRUN" for a in arguments)
    arguments = [_quoted(argument, sweep) for argument in _spoken(renamed_arguments(arguments))]
    # Several loggers are those of one run, not runs of a sweep.
    arguments = [re.sub(r"^logger=([\w-]+(?:,[\w-]+)+)$", r"logger=[\1]", argument) for argument in arguments]
    debug = ["+" + a.lstrip("+") for a in arguments if re.match(r"^\+?debug=", a)]
    others = [re.sub(r"^experiment=", "+experiment=", a) for a in arguments if not re.match(r"^\+?debug=", a)]
    # Hydra's parser requires all overrides in one place, while its options may stand anywhere.
    overrides = [a for a in others if a.startswith("~") or ("=" in a and not a.startswith("-"))]
    return overrides + debug + [a for a in others if a not in overrides]


def _spoken(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--experiment x`, `experiment x` and a bare `x` in the form of Hydra.

    Raises:
        LaceError: for a word that is no experiment and an option that does not exist.
    """
    result: list[str] = []
    words = iter(arguments)
    for word in words:
        key, equals, value = word.lstrip("-").partition("=")
        dashes = word.startswith("--")
        if word in VALUED:
            result += [word, *([following] if (following := next(words, None)) is not None else [])]
        elif (
            word in FLAGS
            or (word.startswith("-") and word.partition("=")[0] in VALUED)
            or (equals and not word.startswith("-"))
        ):
            result.append(word)
        elif dashes and equals:
            result.append(_noted(word, f"{'+' * (key in ('experiment', 'method', 'debug'))}{key}={value}"))
        elif (dashes or not word.startswith(("-", "~"))) and key and (config_folder() / key).is_dir():
            following = next(words, None)
            if following is None:
                names = choices(key, arguments)
                raise LaceError(f"{word} needs a name: write {key}=NAME with one of {', '.join(names)}.")
            plus = "+" * (key in ("experiment", "method", "debug"))
            result.append(_noted(f"{word} {following}", f"{plus}{key}={following}"))
        elif word.startswith("~"):
            result.append(word)
        elif word.startswith("-"):
            raise LaceError(f"There is no option '{word}'.{suggest(word, (*VALUED, *FLAGS))} Settings are key=value.")
        else:
            names = choices("experiment", arguments)
            if word not in names:
                raise LaceError(
                    f"There is no command and no experiment '{word}': write +experiment=NAME, key=value or one of the "
                    f"commands {', '.join(COMMANDS)}.{suggest(word, [*names, *COMMANDS])}"
                )
            result.append(_noted(word, f"+experiment={word}"))
    return result


def _noted(given: str, taken: str) -> str:
    print(f"note: {given} is read as {taken}", file=sys.stderr)
    return taken


# A text between quotes of its own, and a list of such texts, as Hydra reads it.
WHOLE = re.compile(r"""(["'])((?:(?!\1).)*)\1""")
_TEXT = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
TEXTS = re.compile(rf"\s*{_TEXT}(?:\s*,\s*{_TEXT})*\s*")


def _parts(text: str) -> list[str]:
    """Return the parts of a list whose commas stand outside of quotes and brackets."""
    parts, depth = [""], 0
    for piece in re.findall(r"""["][^"]*["]|['][^']*[']|.""", text, re.DOTALL):
        depth += (piece == "(") - (piece == ")")
        if piece == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def _quoted(argument: str, sweep: bool = False) -> str:
    edits = re.match(r"^(?:task\.)?edits=(.*)$", argument, re.DOTALL)
    if edits is not None:
        text = edits[1]
        listed = re.fullmatch(r"\[(.*)\]", text, re.DOTALL)
        if listed and TEXTS.fullmatch(listed[1]):
            return f"task.edits={text}"
        whole = WHOLE.fullmatch(text)
        parts = _parts(whole[2] if whole else listed[1] if listed else text)
        return "task.edits=[" + ",".join(map(_in_quotes, parts)) + "]"
    seeds = re.match(r"^(?:task\.)?seeds=([^'\"\[]*)$", argument)
    if seeds is not None:
        return f"task.seeds={_in_quotes(seeds[1])}"
    match = re.match(r"^(query(?:\.text)?|(?:task\.)?walk_to)=(.*)$", argument, re.DOTALL)
    if match is None:
        return _quoted_value(argument, sweep)
    whole = WHOLE.fullmatch(match[2])
    if whole is None and (TEXTS.fullmatch(match[2]) or re.fullmatch(r"[\w-]*(,[\w-]+)*", match[2])):
        return argument
    key = "query.text" if match[1].startswith("query") else "task.walk_to"
    return f"{key}={_in_quotes(whole[2] if whole else match[2])}"


def _quoted_value(argument: str, sweep: bool) -> str:
    """Return key=value with the value in quotes where Hydra's lexer refuses its characters."""
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith(("-", "~")) or value[:1] in ("", "'", '"', "[", "{") or "${" in value:
        return argument
    if re.match(r"(choice|range|interval|glob|shuffle|sort|tag|int|str|float|bool|json_str|extend_list)\(.*\)$", value):
        return argument
    if re.search(r"\\[=,:(){}\[\] ]", value):  # escaped by hand, for Hydra
        return argument
    plain = r"[A-Za-z0-9_/\-\\+.$%*@?|: ]*"
    is_path = "/" in value or (re.search(r"\.\w+$", value) is not None and not re.fullmatch(r"[-+.,\deE]*", value))
    whole = "," in value and is_path and (not sweep or Path(value).expanduser().exists())
    items = [value] if whole else value.split(",")
    return f"{key}=" + ",".join(item if re.fullmatch(plain, item) and not whole else _in_quotes(item) for item in items)


def _in_quotes(text: str) -> str:
    text = os.path.expanduser(text) if text.startswith("~/") else text
    # In Hydra's quotes a backslash is a plain character, except before a quote.
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), text) + '"'


def check_choices(arguments: Sequence[str]) -> None:
    """Check that every configuration group is set to one of its files, before Hydra starts.

    Args:
        arguments: arguments of the command line, as `normalize` returns them.

    Raises:
        LaceError: for an unknown file of a group.

    Example:
        >>> check_choices(["sampler=heum"])
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: There is no sampler 'heum'. Did you mean 'heun'?
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        group = config_folder() / key.lstrip("+")
        if not value or "/" in key or not group.is_dir():
            continue
        names = choices(key.lstrip("+"), arguments)
        for choice in value.strip("[]").split(","):
            if re.fullmatch(r"[\w-]+", choice) and choice not in names and choice != "null":
                kind, near = key.lstrip("+"), suggest(choice, names)
                if (former := former_folder_advice(kind, choice, own_folders(arguments))) is not None:
                    raise LaceError(former)
                if kind == "query" and not near:
                    near = f' A condition is a comparison, such as query="label == {choice}".'
                advice = near or f" Choose one of {', '.join(names)}."
                raise LaceError(f"There is no {kind} '{choice}'.{advice}")


def _fail(error: BaseException) -> None:
    """Print an error as one sentence; with LACE_TRACEBACK=1 as a traceback too."""
    if os.environ.get("LACE_TRACEBACK"):
        traceback.print_exception(error)
    cause: BaseException | None = error
    while cause is not None and not str(cause) and cause.__cause__ is not None:
        cause = cause.__cause__
    print(f"error: {' '.join(str(cause).split()) or type(cause).__name__}", file=sys.stderr, flush=True)


def job(cfg: DictConfig) -> float | None:
    """Run one job; inside a sweep, skip a finished job, and record a failure without raising it.

    Args:
        cfg: the composed configuration.

    Returns:
        ACC of the run, for sweepers that optimise it; None without ACC, for a skipped job and for a failed one.

    Raises:
        SystemExit: for a stopped job, and for wrong input outside of a sweep.
    """
    # Workers of launchers come here without `main`.
    with lasting_streams(), _stopped_by_its_signal():
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from .report import sweeps

        folder = Path(cfg.paths.output)
        if HydraConfig.get().mode != RunMode.MULTIRUN or os.environ.get("LACE_VERBOSE") or not folder.is_dir():
            return _job(cfg)
        with job_streams(folder / sweeps.OUTPUT):
            return _job(cfg)


@contextmanager
def _stopped_by_its_signal() -> Iterator[None]:
    """Let an error that follows a signal end with the status of the signal: Hydra would add its own lines to it.

    An import that a signal interrupts may end with any error.
    """
    try:
        yield
    except Exception as error:
        if (status := stop_status(error)) is None:
            raise
        raise SystemExit(status) from None


def _job(cfg: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from .artifacts import read_json
    from .cache import locked
    from .data.processes import in_first
    from .report import sweeps
    from .run import check, run

    _quiet()  # Lightning sets its own level of logging when it is imported.
    hydra_config = HydraConfig.get()
    folder = Path(cfg.paths.output)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    if in_sweep:
        sweeps.mark(folder)

    @contextmanager
    def nothing_left(*traces: str) -> Iterator[None]:
        """Let a run that is refused before any work leave no folder. A sweep keeps those of its jobs for its report."""
        try:
            yield
        except LaceError:
            if not in_sweep:
                discard_unused(folder, traces)
            raise

    try:
        with in_first(nothing_left(LOG)):
            settings = check(cfg)
        # The other processes of a run on several devices share the folder of the first.
        with in_first(locked(folder, "the run", waits=in_sweep)):
            done = folder / "metrics.json"
            if in_sweep and done.is_file() and read_json(done)["config_digest"] == settings.digest:
                sweeps.OUTCOMES[folder.name] = "skipped"
                return None
            with in_first(nothing_left(LOG, *INPUTS, *LOCKS)):
                metrics = run(settings)
            sweeps.OUTCOMES[folder.name] = "done"
            (folder / "failed.json").unlink(missing_ok=True)
            return metrics.get("acc")
    except BaseException as error:
        stopped = stop_status(error) or (isinstance(error, SystemExit) and (error.code or 143))
        if stopped and not (in_sweep and not is_handled()):
            # Lightning ends a terminated run with SystemExit without a status, which a shell would take for success.
            raise SystemExit(stopped) from None
        if not in_sweep:
            if not isinstance(error, LaceError):
                raise
            # Hydra would add its own lines to the sentence.
            _fail(error)
            raise SystemExit(1) from None
        if stopped:
            # The signal was for this worker. Where it was for the sweep, that one says so.
            error = LaceError(f"The job was stopped (status {stopped}): the same command runs it again.")
        else:
            if not isinstance(error, LaceError):
                traceback.print_exception(error)
            _fail(error)
        sweeps.record_failure(folder, error, list(hydra_config.overrides.task))
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: the entry of `python -m lace_lightning` and of `lace-lightning`.

    Args:
        arguments: words of the command line without the name of the program; None for those of the process.

    Raises:
        SystemExit: after an error (status 1) and a stop (130, 143 or 129).
    """
    with lasting_streams(), stopping_signals():
        try:
            _main(list(sys.argv[1:] if arguments is None else arguments))
        except LaceError as error:
            _fail(error)
            raise SystemExit(1) from None
        except OSError as error:
            if stop_status() is not None:
                raise
            _fail(LaceError(f"A file or folder could not be used ({error}): check the path and its permissions."))
            raise SystemExit(1) from None


def _main(given: list[str]) -> None:
    if given and given[0] in COMMANDS:
        following = COMMANDS[given[0]](given[1:])
        if following is None:
            return
        given = following
    if any(word in ("--shell-completion", "-sc") for word in given):
        print(shell_completion(given, list(COMMANDS)))
        return
    if "--version" in given:
        print(version())
        return
    if any(word in ("--help", "-h") for word in given) or not _without_folders(given):
        for folder in own_folders(given):
            if not folder.is_dir():
                raise LaceError(f"--config-dir needs a folder, and '{folder}' is none: check the path.")
        print(overview(given))
        return
    arguments = normalize(given)
    check_choices(arguments)
    _start(arguments)


def _without_folders(arguments: Sequence[str]) -> list[str]:
    text = "\0".join(arguments)
    return [word for word in re.sub(r"(?:^|\0)(?:--config-dir|-cd)[=\0][^\0]+", "", text).split("\0") if word]


def _start(arguments: Sequence[str]) -> None:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from .report import sweeps

    sweeps.register_resolvers()
    try:
        _hydra(arguments)
    except (HydraException, OmegaConfBaseException) as error:
        if os.environ.get("LACE_TRACEBACK"):
            traceback.print_exception(error)
        raise _explained(error, arguments) from None
    except Exception as error:
        # The launcher of a sweep gave up: a worker was killed, or a scheduler ended its job.
        if stop_status() is not None or not sweeps.end_early(error):
            raise
        _fail(LaceError(sweeps.reason_of(error)))
    finally:
        sweeps.end_progress()
    if "failed" in sweeps.OUTCOMES.values():
        raise SystemExit(1)


def _explained(error: BaseException, arguments: Sequence[str]) -> BaseException:
    """Return an error of Hydra as a LaceError."""
    launcher = next((a.partition("=")[2] for a in arguments if a.startswith("hydra/launcher=")), None)
    if launcher in ("joblib", "submitit", "submitit_local", "submitit_slurm") and "hydra/launcher" in str(error):
        extra = launcher.partition("_")[0]
        return LaceError(f'The launcher {launcher} is not installed: pip install "lace_lightning[{extra}]".')
    if (advice := former_group_advice(str(error), own_folders(arguments))) is not None:
        return LaceError(advice)
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match is None:
        text = " ".join(str(error).split()) or type(error).__name__
        return LaceError(text)
    key = match[1].partition("@")[0]
    return LaceError(f"There is no setting '{key}'.{suggest_setting(key, _known(arguments, key))}")


def _known(arguments: Sequence[str], key: str) -> list[str]:
    """Return the names of the settings that exist without the override of `key`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    overrides = [a for a in arguments if "=" in a and not a.startswith(("-", "~", "hydra")) and "," not in a]
    overrides = [a for a in overrides if a.lstrip("+").partition("=")[0].partition("@")[0] != key]
    experiments = [a for a in overrides if a.startswith("+experiment=")]
    folders = ",".join(f"file://{folder.resolve()}" for folder in own_folders(arguments))
    for tried in (overrides, experiments, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                cfg = compose("config", [*tried, *([f"hydra.searchpath=[{folders}]"] if folders else [])])
        except Exception:
            continue
        found: list[str] = []

        def walk(node: DictConfig, prefix: str, found: list[str] = found) -> None:
            for name, value in node._content.items() if isinstance(node._content, dict) else ():
                key = prefix + str(name)
                found.append(key)
                if isinstance(value, DictConfig):
                    walk(value, f"{key}.")

        walk(cfg, "")
        return found
    return []


def _quiet() -> None:
    """Hide messages of the libraries; LACE_VERBOSE=1 shows them."""
    if os.environ.get("LACE_VERBOSE"):
        return
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    last = [""]

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        # A measurement in several parts says the same of each.
        if str(message) != last[0]:
            print(f"note: {message}", file=sys.stderr)
        last[0] = str(message)

    warnings.showwarning = note


def _hydra(arguments: Sequence[str]) -> None:
    import hydra

    from .composition import composed_once

    forget_folders()
    for argument in arguments:
        if argument.startswith("hydra.run.dir="):
            note_missing(argument.partition("=")[2].strip("\"'"))
    _quiet()
    # Hydra would print LaceErrors with its own header and half a traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    entry = hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")(job)
    known = sys.argv
    try:
        sys.argv = [known[0], *arguments]
        with _parser_of_hydra(), composed_once():
            entry()
    finally:
        sys.argv = known


@contextmanager
def _parser_of_hydra() -> Iterator[None]:
    """Let Hydra build its parser where argparse checks help texts (Python 3.14): one help text of Hydra is no text."""
    import argparse

    if not hasattr(argparse.ArgumentParser, "_check_help"):
        yield
        return
    module = sys.modules["hydra.main"]
    build = module.get_args_parser

    def tolerant() -> Any:
        check = argparse.ArgumentParser._check_help  # type: ignore[attr-defined]

        def strings_alone(self: Any, action: argparse.Action) -> None:
            if isinstance(action.help, str):
                check(self, action)

        argparse.ArgumentParser._check_help = strings_alone  # type: ignore[attr-defined]
        container = argparse._ActionsContainer
        before = container.__dict__.get("_check_help")
        if before is not None:
            container._check_help = strings_alone  # type: ignore[attr-defined]
        try:
            return build()
        finally:
            argparse.ArgumentParser._check_help = check  # type: ignore[attr-defined]
            if before is not None:
                container._check_help = before  # type: ignore[attr-defined]

    module.get_args_parser = tolerant  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.get_args_parser = build  # type: ignore[attr-defined]

"""Weights & Biases: offline where its server does not answer, a new service process where the old one has died."""

from __future__ import annotations

import configparser
import os
import platform
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# Seconds that a server has for an answer.
PATIENCE = 4.0
# Environment variable of the outcome, for the processes of a sweep. It names the computer: nodes of a cluster may have
# no network where the computer that they are started from has one.
OUTCOME = "LACE_WANDB_SERVER"


def wandb_mode(logger: Mapping[str, Any], runs: str) -> str | None:
    """Return the mode that W&B has to be started in.

    Args:
        logger: the arguments of the logger, among them `offline`, `mode` and `settings.base_url`.
        runs: where offline runs will lie, for the note on how to upload them.

    Returns:
        `offline`, `disabled` or `online`; None where W&B finds it in its own files. The environment variable WANDB_MODE
        comes before the arguments, these before W&B's files.
    """
    own = _own_settings()
    chosen = os.environ.get("WANDB_MODE") or ("offline" if logger.get("offline") else logger.get("mode"))
    mode = {"dryrun": "offline", "run": "online"}.get(str(chosen), chosen)
    if (mode or own.get("mode", "online")) not in ("online", "shared") or (not mode and own.get("disabled") == "true"):
        return mode
    server = server_of(logger)
    known = _known(server)
    if known is None:
        known = answers(server)
        remember(server, known)
        if not known:
            print(
                f"note: the W&B server {server} does not answer, so runs are recorded offline: upload them with "
                f"wandb sync {runs}",
                file=sys.stderr,
                flush=True,
            )
    return mode if known else "offline"


def server_of(logger: Mapping[str, Any]) -> str:
    """Return the address of the W&B server: that of the logger, of WANDB_BASE_URL, of W&B's files, or the public one.

    Args:
        logger: the arguments of the logger.
    """
    server = (
        (logger.get("settings") or {}).get("base_url")
        or os.environ.get("WANDB_BASE_URL")
        or _own_settings().get("base_url")
        or _public_server()
    )
    return str(server).rstrip("/")


def _public_server() -> str:
    # Versions of W&B differ in it.
    from wandb import Settings

    return str(Settings().base_url)


def remember(server: str, is_there: bool) -> None:
    """Remember for this process and those that it starts whether a server answers.

    Args:
        server: address of the server.
        is_there: whether it answers.
    """
    os.environ[OUTCOME] = f"{platform.node()} {server} {'yes' if is_there else 'no'}"


def answers(server: str, patience: float = PATIENCE) -> bool:
    """Return whether a server answers, whatever it says; proxies of the environment are used.

    Args:
        server: address of the server.
        patience: seconds that it has, at most; the search for its name counts too.
    """
    found: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=patience).close()
            found.append(True)
        except urllib.error.HTTPError:
            found.append(True)
        except Exception as error:
            # A certificate that is not known here comes from a server that is there.
            found.append(isinstance(getattr(error, "reason", None), ssl.SSLError))

    # The search for a name knows no limit of time, so a thread does it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(found and found[0])


def start_anew() -> None:
    """Forget a run that could not be finished, and its service process: the next job would write into them."""
    import wandb

    with suppress(Exception, SystemExit):
        wandb.teardown(exit_code=1)
    wandb.run = None


def _known(server: str) -> bool | None:
    words = os.environ.get(OUTCOME, "").split()
    return words[2] == "yes" if words[:2] == [platform.node(), server] and len(words) == 3 else None


def _own_settings() -> dict[str, str]:
    """Return what `wandb login --host`, `wandb offline` and the like have written, the nearest file first."""
    folder = Path(os.environ.get("WANDB_DIR", "."))
    home = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([home / "settings", folder / ".wandb" / "settings", folder / "wandb" / "settings"], "utf-8")
        return dict(parser["default"]) if parser.has_section("default") else {}
    except (configparser.Error, UnicodeDecodeError):
        return {}

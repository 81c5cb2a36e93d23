"""`python -m lace_lightning` and `lace-lightning`."""

import os
import signal
import sys
from contextlib import suppress

from .stopping import stopping_signals
from .streams import lasting_streams


def main() -> None:
    """Entry of both: signals and streams are cared for before anything else is imported."""
    _find_modules_here()
    try:
        with lasting_streams(), stopping_signals():
            from .cli import main as command_line

            command_line()
    finally:
        # Libraries clean up behind this, and an interrupt there would print a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _find_modules_here() -> None:
    """Let modules of the current folder be imported, as `python -m` does and a console script does not."""
    # A folder that was removed has no path, and Python itself adds none with -P or PYTHONSAFEPATH.
    with suppress(OSError):
        here = os.getcwd()
        if not sys.flags.safe_path and here not in sys.path:
            sys.path.insert(0, here)


if __name__ == "__main__":
    main()

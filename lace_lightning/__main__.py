"""`python -m lace_lightning` and `lace-lightning`."""

import signal

from .stopping import stopping_signals
from .streams import lasting_streams


def main() -> None:
    """Entry of both: signals and streams are cared for before anything else is imported."""
    try:
        with lasting_streams(), stopping_signals():
            from .cli import main as command_line

            command_line()
    finally:
        # Libraries clean up behind this, and an interrupt there would print a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()

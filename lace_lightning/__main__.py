"""`python -m lace_lightning`."""

import sys

if __name__ == "__main__":
    try:
        from .cli import main
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    main()

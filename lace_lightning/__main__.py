"""`python -m lace_lightning`."""

from lace_lightning.cli import main

if __name__ == "__main__":
    main()

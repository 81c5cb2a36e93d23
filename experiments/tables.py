"""Command `python experiments/tables.py`: see lace_lightning.report.tables."""

from lace_lightning.report.tables import main

if __name__ == "__main__":
    main()

"""Command `python experiments/record.py`: see lace_lightning.report.record."""

from lace_lightning.report.record import main

if __name__ == "__main__":
    main()

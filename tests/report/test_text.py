"""Tables: one noun in three forms, and the table of one run."""

from __future__ import annotations

import csv
import io

import pytest

from lace_lightning.errors import LaceError
from lace_lightning.report.text import Table, format_value, mean_sd, results_table

TABLE = Table(("setting", "ACC", "n"), [("a | b", 0.123456, 3), ("", None, 12)])


def test_text_is_aligned() -> None:
    assert TABLE.text().splitlines() == [
        "setting     ACC   n",
        "-------  ------  --",
        "a | b    0.1235   3",
        "-             -  12",
    ]


def test_csv_has_all_digits_and_comes_back() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows == [["setting", "ACC", "n"], ["a | b", "0.123456", "3"], ["", "", "12"]]


def test_markdown_keeps_bars_inside_cells() -> None:
    assert TABLE.markdown().splitlines() == [
        "| setting | ACC | n |",
        "| --- | --- | --- |",
        "| a \\| b | 0.1235 | 3 |",
        "|  |  | 12 |",
    ]


def test_further_columns_and_rows_that_do_not_fit() -> None:
    assert TABLE.with_columns(["seeds"], [[1], [2]]).text().splitlines()[2].endswith("3      1")
    with pytest.raises(LaceError, match="must have 2 rows, received 1"):
        TABLE.with_columns(["seeds"], [[1]])
    with pytest.raises(LaceError, match="must have 2 cells"):
        Table(("a", "b"), [(1,)])


def test_numbers() -> None:
    assert [format_value(value) for value in (1234567.0, 5, "x", None, "")] == ["1.235e+06", "5", "x", "-", "-"]
    assert [mean_sd(values) for values in ([0.5], [1.0, 3.0], [99.0, 101.0], [])] == [
        "0.500",
        "2.000 ± 1.414",
        "100.0 ± 1.4",
        "",
    ]


def test_a_run_beside_the_paper() -> None:
    metrics = {
        "acc": 0.75,
        "holds": 0.5,
        "acc/smile": 0.9,
        "acc/age": 0.6,
        "acc/smile/yes": 0.9,
        "branch/x == 1": 0.25,
        "prior/holds": 0.125,
        "prior/branch/x == 1": 0.0625,
        "classifier/loss": 3.0,
        "fd_judge": 2.0,
        "fd_judge/unconditional": 1.0,
        "evaluations": 40.0,
        "forward": 0.0,
        "seconds/sampling_per_64": 5.0,
        "seconds/sampling_batch_64": 4.0,
        "brightness": 0.5,
    }
    lines = results_table(metrics, {"acc": 0.9, "acc/smile": 0.8, "fid": 20.5, "minutes/training": 7}).splitlines()
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "ACC 0.75 0.9",
        "smile 0.9 0.8",
        "age 0.6 -",
        "query true 0.5 -",
        "for the generator alone 0.125 -",
        "of these x == 1 0.25 -",
        "for the generator alone 0.0625 -",
        "Fréchet distance (fd_judge) 2 20.5 (FID)",
        "of the generator alone 1 -",
        "evaluations per sample 40 -",
        "sampling, seconds per 64 4 -",
        "training, minutes - 7",
        "brightness 0.5 -",
    ]
    assert lines[6].startswith("  for the")
    assert lines[8].startswith("    for the")


def test_a_query_s_truth_is_said_once() -> None:
    assert "query true" not in results_table({"acc": 0.5, "holds": 0.5})
    one = results_table({"acc": 0.5, "acc/smile": 0.5, "acc/smile/no": 0.25, "acc/smile/yes": 0.75})
    assert [line.split("  ")[0] for line in one.splitlines()[2:]] == ["ACC", "ACC no", "ACC yes"]

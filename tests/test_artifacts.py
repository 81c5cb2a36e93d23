"""Digests depend on content alone; writes are whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.artifacts import atomic_path, check_writable, digest, read_json, write_json
from lace_lightning.errors import LaceError, suggest


def test_digest_depends_on_content_not_on_order_or_spelling() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": (2, 3), "a": 1.0})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, [2]]) != digest([[1], 2])
    assert digest(torch.arange(3)) == digest(np.arange(3)) != digest(np.arange(3, dtype=np.int32))
    layer = torch.nn.Linear(2, 2)
    before = digest(layer)
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert digest(layer) != before


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_json(target, {"value": 1})

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        interrupted()
    assert read_json(target) == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_refusals_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not json")
    with pytest.raises(LaceError, match="must hold JSON"):
        read_json(tmp_path / "file")
    with pytest.raises(LaceError, match="does not exist"):
        read_json(tmp_path / "absent")
    with pytest.raises(LaceError, match="must be writable"):
        check_writable(tmp_path / "file" / "below")
    assert suggest("glases", ["yaw", "glasses"]) == " Did you mean 'glasses'?"
    assert suggest("zzz", ["yaw"]) == ""

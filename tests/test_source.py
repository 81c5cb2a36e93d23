"""The line of a user's own code in a message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lace_lightning import LaceError, ModuleGenerator
from lace_lightning.source import user_line


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 12)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.net(z).reshape(-1, 3, 7, 7)  # this line


def number_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return 1 + next(index for index, line in enumerate(lines) if line.endswith(text))


def test_the_line_of_a_module_that_fails_is_shown() -> None:
    generator = ModuleGenerator(Broken(), 4, (3, 7, 7))
    words = f"in test_source.py:{number_of('# this line')} `return self.net(z).reshape(-1, 3, 7, 7)  # this line`"
    with pytest.raises(LaceError, match=re.escape(words)):
        generator(torch.zeros(2, 4))


def test_typed_code_has_its_name_and_installed_code_none() -> None:
    typed: dict = {}
    exec("def f(x):\n    return x + torch.zeros(5)", {"torch": torch}, typed)
    with pytest.raises(RuntimeError) as caught:
        typed["f"](torch.zeros(4))
    assert user_line(caught.value) == ", in <string>:2"
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(4, 2)(torch.zeros(1, 5))
    # Without the line of this test, which is the user's, those of torch are left.
    assert user_line(caught.value.with_traceback(caught.tb.tb_next)) == ""


def test_every_kind_of_error_is_one_sentence() -> None:
    class Missing(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.nothing(z)

    with pytest.raises(LaceError, match=r"has no attribute 'nothing', in test_source.py"):
        ModuleGenerator(Missing(), 4, (3, 7, 7))(torch.zeros(2, 4))

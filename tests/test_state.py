"""One way to a state dict, whatever program wrote it and whatever it put around it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lace_lightning.errors import LaceError
from lace_lightning.unpickle.state import WRAPPERS, load_state, read_state

STATE = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "bias": torch.ones(2, dtype=torch.float64),
    "count": torch.tensor(3),
}


def write(data: object, path: Path) -> Path:
    torch.save(data, path, _use_new_zipfile_serialization=path.suffix != ".old")
    return path


@pytest.mark.parametrize("suffix", ["pt", "old"])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_same_state_out_of_every_wrapper(tmp_path: Path, suffix: str, wrapper: str | None, prefix: str) -> None:
    state: dict = {prefix + name: value for name, value in STATE.items()}
    file = write(
        state if wrapper is None else {"epoch": 3, wrapper: state, "optimizer": {"state": {}}}, tmp_path / f"n.{suffix}"
    )
    same(read_state(file))


def same(state: dict[str, torch.Tensor]) -> None:
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in STATE.items())


def test_safetensors(tmp_path: Path) -> None:
    save_file({"module." + name: value for name, value in STATE.items()}, tmp_path / "n.safetensors")
    same(read_state(tmp_path / "n.safetensors"))


def test_only_a_prefix_of_all_is_taken_away(tmp_path: Path) -> None:
    names = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_state(write(names, tmp_path / "n.pt")).keys() == names.keys()


class Wrapper(nn.Module):
    """Its own names begin with `module.`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)


@pytest.mark.parametrize("source", [Wrapper(), Wrapper().module])
@pytest.mark.parametrize("target", [Wrapper(), Wrapper().module])
def test_a_prefix_of_the_modules_own(tmp_path: Path, source: nn.Module, target: nn.Module) -> None:
    load_state(target, write(source.state_dict(), tmp_path / "n.pt"))
    for parameter, other in zip(target.parameters(), source.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_schedulers_beside_are_no_hindrance(tmp_path: Path) -> None:
    """A Lightning checkpoint keeps the milestones of its scheduler in a Counter."""
    module = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    write(
        {
            "state_dict": module.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [scheduler.state_dict()],
        },
        tmp_path / "n.ckpt",
    )
    assert read_state(tmp_path / "n.ckpt").keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"epoch": 3, "seed": 1}, "and holds epoch, seed: save"),
        ({}, "and holds nothing"),
        (torch.ones(3), "and holds a Tensor"),
        ([torch.ones(3)], "and holds a list"),
    ],
)
def test_a_file_without_a_state_is_refused(tmp_path: Path, data: object, words: str) -> None:
    write(data, tmp_path / "n.pt")
    with pytest.raises(LaceError, match=words) as caught:
        read_state(tmp_path / "n.pt")
    assert "\n" not in str(caught.value)


def test_the_state_of_another_module_is_refused(tmp_path: Path) -> None:
    write(nn.Linear(3, 4).state_dict(), tmp_path / "n.pt")
    with pytest.raises(
        LaceError, match=r"must be those of a Linear and are not \(.*size mismatch.*\): check the width\.$"
    ) as caught:
        load_state(nn.Linear(3, 2), tmp_path / "n.pt", fix="check the width")
    assert "\n" not in str(caught.value)

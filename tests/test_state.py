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


# ----------------------------------------------------------------------------------- what is chosen by content


def times(state: dict[str, torch.Tensor], factor: float, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: value * factor for name, value in state.items()}


MODULE = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
CHOICES = {
    "model and its average": lambda s: {"model": times(s, 2), "model_ema": s},
    "state_dict and its average": lambda s: {"epoch": 1, "state_dict": times(s, 2), "state_dict_ema": s},
    "an average under another word": lambda s: {"net": times(s, 2), "averaged": {"model": s}},
    "an unusual key": lambda s: {"netG_state_dict": s, "netD_state_dict": {"weight": torch.ones(2)}},
    "a prefix": lambda s: times(s, 1, "gen."),
    "torch.compile": lambda s: times(s, 1, "_orig_mod."),
    "several prefixes": lambda s: times(s, 1, "_orig_mod.module.backbone."),
    "a module of a larger one": lambda s: {"state_dict": times(s, 1, "generator.") | {"critic.weight": torch.ones(1)}},
    "an average in one table": lambda s: {"state_dict": times(s, 1, "g_ema.") | times(s, 2, "g.")},
    "AveragedModel": lambda s: times(s, 1, "module.") | {"n_averaged": torch.tensor(2)},
    "an optimiser beside": lambda s: {"optimizer": {"state": times(s, 5)}, "generator": s},
    "an optimiser of many parameters": lambda s: {
        "opt_g": {"state": {index: {"exp_avg": torch.ones(1)} for index in range(3000)}, "param_groups": []},
        "generator": s,
    },
    "parallel inside": lambda s: {name.replace("2.", "2.module."): value for name, value in s.items()},
}


@pytest.mark.filterwarnings("ignore:Of ")
@pytest.mark.parametrize("name", CHOICES)
def test_the_table_that_fits_is_loaded_and_averages_first(tmp_path: Path, name: str) -> None:
    wanted = MODULE.state_dict()
    path = write(CHOICES[name](wanted), tmp_path / "n.pth.tar")
    target = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    load_state(target, path)
    assert all(torch.equal(value, wanted[key]) for key, value in target.state_dict().items())


def test_a_choice_is_said_and_can_be_changed(tmp_path: Path) -> None:
    state = MODULE.state_dict()
    path = write({"model": times(state, 2), "model_ema": state}, tmp_path / "n.pt")
    target = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match="the average of the weights under 'model_ema' is taken, and not model"):
        load_state(target, path)
    load_state(target, path, key="model")
    assert torch.equal(target[0].weight, MODULE[0].weight * 2)
    with pytest.raises(LaceError, match="must hold 'modle' and holds model, model_ema: name one of its keys"):
        load_state(target, path, key="modle")
    path = write({"a": times(state, 2), "b": {"c": state}}, tmp_path / "two.pt")
    with pytest.raises(LaceError, match=r"holds 2 \(a, b\.c\): name one as checkpoint_key, or save it alone"):
        load_state(target, path)
    load_state(target, path, key="b.c")
    assert torch.equal(target[0].weight, MODULE[0].weight)
    path = write({"state_dict": times(state, 2, "first.") | times(state, 1, "second.net.")}, tmp_path / "one.pt")
    with pytest.raises(LaceError, match=r"holds 2 \(state_dict\.first, state_dict\.second\.net\): name one"):
        load_state(target, path)
    load_state(target, path, key="state_dict.first")
    assert torch.equal(target[0].weight, MODULE[0].weight * 2)
    load_state(target, path, key="state_dict.second.net")
    assert torch.equal(target[0].weight, MODULE[0].weight)


def test_what_is_left_over_is_another_network(tmp_path: Path) -> None:
    state = dict(MODULE.state_dict())
    path = write(state | {"3.weight": torch.ones(2, 2)}, tmp_path / "n.pt")
    target = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(LaceError, match=r"Unexpected key\(s\) in state_dict: \"3\.weight\""):
        load_state(target, path)
    load_state(target, path, strict=False)
    assert torch.equal(target[0].weight, MODULE[0].weight)


def test_names_of_files_are_escaped_and_cut(tmp_path: Path) -> None:
    for name in ("\x1b[2J\x07", "a" * 2**20, "a." * 2**18):
        for data in ({name: 3}, {name: torch.ones(1)}, {name: {"x": torch.ones(1)}}):
            path = write(data, tmp_path / "n.pt")
            with pytest.raises(LaceError) as caught:
                load_state(nn.Linear(3, 2), path)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 700


def test_tables_in_tables_end(tmp_path: Path) -> None:
    table: dict = {"weight": torch.ones(1)}
    for _ in range(4):
        table = {f"t{index}": table for index in range(20)}
    path = write(table, tmp_path / "n.pt")
    with pytest.raises(LaceError, match="must hold at most 2000 tables and holds more"):
        load_state(nn.Linear(3, 2), path)

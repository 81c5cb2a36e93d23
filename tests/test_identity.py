"""Identity of results: every setting counts or is declared not to, and code and files count by their content."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from lace_lightning import cli
from lace_lightning.artifacts import digest, read_json
from lace_lightning.cache import Cache, flat
from lace_lightning.configuration import choices, config_folder
from lace_lightning.data import make_pairs, pairs_identity
from lace_lightning.generators import ModuleGenerator
from lace_lightning.report.sweeps import register_resolvers
from lace_lightning.run.identity import (
    INDIFFERENT,
    NOT_TRAINING,
    PARTS,
    is_indifferent,
    node_identity,
    part_of_data,
    result_identity,
    training_identity,
)
from lace_lightning.run.study import Study
from lace_lightning.source import code_of, identity_of, sources_of


def plain(*overrides: str) -> dict[str, Any]:
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[*cli.normalize(overrides), "paths.output=out", "paths.cache=cache"])
    content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items() if name != "hydra"}


def changed(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value} " if isinstance(value, str) else "something"


def with_leaf(content: Any, parts: list[str], change: Any) -> Any:
    """Return a copy with one leaf changed."""
    head, rest = parts[0], parts[1:]
    items = dict(enumerate(content)) if isinstance(content, list) else dict(content)
    key: Any = int(head) if isinstance(content, list) else next(name for name in items if str(name) == head)
    items[key] = with_leaf(items[key], rest, change) if rest else change(items[key])
    return list(items.values()) if isinstance(content, list) else items


@pytest.mark.parametrize("experiment", ["cifar10_ode", "portraits_edit", "cifar10_latent_jem", "portraits_judge"])
def test_every_setting_counts_or_is_declared_to_change_no_figure(experiment: str) -> None:
    content = plain(f"+experiment={experiment}")
    before = digest(result_identity(content))
    leaves = [key for key in flat(content) if key and not key.startswith(".")]
    assert len(leaves) > 60
    for key in leaves:
        if "." in key.replace("_target_", "") and any(not part for part in key.split(".")):
            continue
        after = digest(result_identity(with_leaf(content, key.split("."), changed)))
        assert (after == before) == is_indifferent(key), key


def test_what_is_declared_to_change_no_figure_exists() -> None:
    content = plain("+experiment=cifar10_ode")
    names = set(content) | set(flat(content)) | {f"trainer.{name}" for name in inspect.signature(pl.Trainer).parameters}
    for name in INDIFFERENT:
        is_there = any(key == name or key.startswith(f"{name}.") for key in names)
        assert is_there or name.startswith("dataset.module."), name


def test_pairs_depend_on_every_argument_that_makes_them() -> None:
    """A new argument of `make_pairs` is part of the key, or is named here as one that changes no pair."""
    assert set(inspect.signature(make_pairs).parameters) - set(inspect.signature(pairs_identity).parameters) == {
        "folder",
        "batch_size",
        "progress",
    }


def test_every_argument_of_the_trainer_counts_or_is_declared(tmp_path: Path) -> None:
    def identity(**trainer: Any) -> str:
        return digest(training_identity(SimpleNamespace(trainer=trainer, callbacks={})))

    known = set(inspect.signature(pl.Trainer).parameters)
    assert set(NOT_TRAINING) | set(PARTS) <= known
    for name in known:
        is_declared = name in NOT_TRAINING or is_indifferent(f"trainer.{name}")
        assert (identity(**{name: 7}) == identity()) == is_declared, name


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        ({"fast_dev_run": True}, "trainer.fast_dev_run=True"),
        ({"limit_train_batches": 1}, "trainer.limit_train_batches=1"),
        ({"limit_train_batches": 0.5}, "trainer.limit_train_batches=0.5"),
        ({"overfit_batches": 2}, "trainer.overfit_batches=2"),
        ({"fast_dev_run": False, "limit_train_batches": 1.0, "overfit_batches": 0.0, "max_epochs": 3}, None),
    ],
)
def test_a_smoke_test_is_of_a_part_of_the_data(trainer: dict[str, Any], reason: str | None) -> None:
    assert part_of_data(SimpleNamespace(trainer=trainer)) == reason  # type: ignore[arg-type]


def test_files_that_are_named_count_by_their_content(tmp_path: Path, monkeypatch) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("sample,hat\n0,1\n")
    content = {"pairs": {"source": str(labels)}}
    first = digest(result_identity(content))
    labels.write_text("sample,hat\n0,0\n")
    os.utime(labels, ns=(0, 0))
    second = digest(result_identity(content))
    assert first != second
    labels.write_text("sample,hat\n0,1\n")
    assert digest(result_identity(content)) == first
    folder = tmp_path / "pictures"
    folder.mkdir()
    content = {"dataset": {"module": {"root": str(folder)}}}
    empty = digest(result_identity(content))
    (folder / "a.png").write_bytes(b"1")
    assert digest(result_identity(content)) != empty
    # A folder's name alone, without a separator, is a folder too.
    monkeypatch.chdir(tmp_path)
    content = {"pairs": {"source": "pictures"}}
    before = digest(result_identity(content))
    (folder / "b.npy").write_bytes(b"2")
    assert digest(result_identity(content)) != before


@pytest.fixture
def own(tmp_path: Path, monkeypatch):
    """A user's module with a module beside it, imported anew by every call."""
    (tmp_path / "my_helper.py").write_text("SCALE = 1.0\n")
    (tmp_path / "my_network.py").write_text(
        "import torch\nfrom torch import nn\nimport my_helper\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, gain=1.0):\n"
        "        super().__init__()\n"
        "        self.gain = gain\n"
        "        self.layer = nn.Linear(4, 12)\n"
        "    def forward(self, z):\n"
        "        return torch.tanh(self.gain * my_helper.SCALE * self.layer(z)).reshape(-1, 3, 2, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load() -> Any:
        for name in ("my_network", "my_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("my_network")

    yield load
    for name in ("my_network", "my_helper"):
        sys.modules.pop(name, None)


def test_a_users_module_counts_by_source_arguments_and_neighbours(own, tmp_path: Path, tiny_labeler) -> None:
    def identity(**arguments: Any) -> str:
        torch.manual_seed(0)
        return identity_of(ModuleGenerator(own().Net(**arguments), 4, (3, 2, 2)))

    first = identity()
    assert identity() == first
    # The weights are the same, and the pictures are not.
    assert identity(gain=2.0) != first
    helper, network = tmp_path / "my_helper.py", tmp_path / "my_network.py"
    helper.write_text("SCALE = 2.0\n")
    assert identity() != first
    helper.write_text("SCALE = 1.0\n")
    assert identity() == first
    network.write_text(network.read_text().replace("tanh", "sin"))
    assert identity() != first
    node = node_identity({"_target_": "my_network.Net"})
    assert node["code"]["my_network.Net"]["name"] == "my_network.Net"


def test_code_of_libraries_counts_by_name_and_version() -> None:
    assert code_of(nn.Linear) == {"name": "torch.nn.modules.linear.Linear"}
    assert code_of(ModuleGenerator) == {}
    assert "pytest" in code_of(pytest.Item)["version"]
    assert "version" not in code_of(Path)


def test_sources_follow_relative_imports(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "sources_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("X = 1\n")
    (package / "outer.py").write_text("def f():\n    from .inner import X\n    return X\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    outer = importlib.import_module("sources_package.outer")
    first = sources_of(outer)
    outer.f()
    assert sources_of(outer) == first
    (package / "inner.py").write_text("X = 2\n")
    assert sources_of(outer) != first
    for name in ("sources_package", "sources_package.outer", "sources_package.inner"):
        sys.modules.pop(name, None)


def test_a_miss_says_what_differs(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.entry("systems", {"seed": 1, "classifier": {"learning_rate": 0.1, "space": "w"}})
    assert first.why() == ""
    first.file("a", lambda path: path.write_text("a"))
    second = cache.entry("systems", {"seed": 1, "classifier": {"learning_rate": 0.2, "space": "w"}})
    assert second.why() == (
        f"the most similar one, {first.key}, differs in classifier.learning_rate (0.1 there, 0.2 here)"
    )


def test_experiments_that_ship_have_identities(tmp_path: Path) -> None:
    digests = {name: digest(result_identity(plain(f"+experiment={name}"))) for name in ("cifar10_ode", "cifar10_ld")}
    assert len(set(digests.values())) == 2
    assert set(digests) <= set(choices("experiment", []))


def test_a_smoke_test_is_never_taken_for_the_whole_training(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    command = ["+experiment=cifar10_heun", "debug=fast", "logger=csv", "metrics.fid=none", "metrics.timing_repeats=0"]

    def run(*overrides: str) -> tuple[dict[str, Any], str]:
        monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
        cli.main([*command, "hydra.run.dir=out", *overrides])
        return read_json(tmp_path / "out" / "metrics.json"), capsys.readouterr().err

    smoke, said = run("+trainer.fast_dev_run=true")
    assert "trainer.fast_dev_run=True" in smoke["protocol"]["partial"]
    assert "making 200 pairs" in said
    part, said = run("trainer.limit_train_batches=1")
    assert "trainer.limit_train_batches=1" in part["protocol"]["partial"]
    assert "found 200 pairs" in said
    whole, said = run()
    assert "partial" not in whole["protocol"]
    assert "training LACE" in said
    assert "trainer.limit_train_batches" in said
    again, said = run()
    assert re.search(r"found 200 pairs \w+, LACE \w+\n", said)
    assert again["metrics"]["acc"] == whole["metrics"]["acc"]
    none, _ = run("trainer.max_epochs=0")
    assert "no step was taken: trainer.max_epochs=0" in none["protocol"]["partial"]
    # The smoke test leaves none.
    assert len(list((tmp_path / "cache" / "systems").glob("*/system.safetensors"))) == 2


def test_trained_weights_depend_on_the_seed_and_not_on_the_random_numbers_of_loading(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["+experiment=cifar10_heun", "debug=fast", "logger=csv", "metrics.fid=none", "metrics.timing_repeats=0"]
    study, digests = Study.of.__func__, []
    for taken in (0, 7):
        monkeypatch.setenv("LACE_CACHE", str(tmp_path / str(taken)))
        monkeypatch.setattr(
            Study, "of", classmethod(lambda cls, settings, n=taken: (torch.rand(n), study(cls, settings))[1])
        )
        cli.main([*command, f"hydra.run.dir=out{taken}"])
        digests.append(read_json(tmp_path / f"out{taken}" / "metrics.json")["protocol"]["classifier"])
    assert digests[0] == digests[1]


@pytest.fixture
def held(tmp_path: Path, monkeypatch):
    """A user's module whose pictures depend on what its attributes and its globals hold."""
    (tmp_path / "my_held.py").write_text(
        "import argparse, json, torch\n"
        "from pathlib import Path\n"
        "from torch import nn\n\n"
        "LIMIT = json.loads(Path(__file__).with_name('limit.json').read_text())\n"
        "NETWORK = nn.Linear(3, 1)\n"
        "nn.init.constant_(NETWORK.weight, LIMIT[0])\n"
        "def inner(x):\n"
        "    return x - torch.tensor(LIMIT)\n"
        "def label(x):\n"
        "    return inner(x) > 0\n"
        "def by_network(x):\n"
        "    return NETWORK(x) > 0\n"
        "def silent(x):\n"
        "    return x > 0\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, kind, shift):\n"
        "        super().__init__()\n"
        "        self.parent = (self,)\n"
        "        self.held = {\n"
        "            'tensor': lambda: torch.tensor([shift]),\n"
        "            'nested': lambda: [[shift], {'a': [shift]}],\n"
        "            'object': lambda: argparse.Namespace(shift=shift),\n"
        "            'closure': lambda: lambda x: x + shift,\n"
        "            'modules': lambda: [nn.Threshold(shift, 0.0)],\n"
        "        }[kind]()\n"
        "        self.register_buffer('left_out', torch.tensor([float(kind == 'tensor')]), persistent=False)\n"
        "    def forward(self, z):\n"
        "        return z\n"
        "    def other(self, z):\n"
        "        return -z\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load(limit: float = 0.5) -> Any:
        (tmp_path / "limit.json").write_text(f"[{limit}]")
        sys.modules.pop("my_held", None)
        importlib.invalidate_caches()
        return importlib.import_module("my_held")

    yield load
    sys.modules.pop("my_held", None)


@pytest.mark.parametrize("kind", ["tensor", "nested", "object", "closure", "modules"])
def test_what_a_module_holds_counts_whatever_its_kind(held, kind: str) -> None:
    module = held()

    def identity(shift: float, **options: Any) -> str:
        return identity_of(ModuleGenerator(module.Net(kind, shift), 12, (3, 2, 2), **options))

    assert identity(0.1) == identity(0.1)
    assert identity(0.1) != identity(0.2)
    assert identity(0.1) != identity(0.1, synthesis="other")


def test_what_a_function_uses_counts_with_its_source(held) -> None:
    first, again, changed = held(), held(), held(0.7)
    for name in ("label", "by_network"):
        assert digest(code_of(getattr(first, name))) != digest(code_of(getattr(changed, name)))
    # The bias of this network is drawn at random.
    assert digest(code_of(first.label)) == digest(code_of(again.label))
    assert digest(code_of(first.silent)) == digest(code_of(changed.silent))

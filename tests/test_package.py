"""The package as a whole: what importing it costs, the example of its docstring, the wheel."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lace_lightning
from lace_lightning import weights
from lace_lightning.errors import LaceError

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_installed() -> None:
    listed = set((ROOT / "setup.cfg").read_text().split("packages =")[1].split("python_requires")[0].split())
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "lace_lightning").rglob("__init__.py")}
    assert listed == {"lace_lightning.conf", *folders}


def test_importing_pulls_in_neither_hydra_nor_lightning() -> None:
    code = (
        "import sys, lace_lightning as lace; lace.load_generator; lace.samplers.Heun; lace.load_classifier; "
        "lace.energies; "
        "print([name for name in ('hydra', 'omegaconf', 'pytorch_lightning', 'wandb', 'torch_fidelity') if name in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_of_the_package_runs() -> None:
    result = doctest.testmod(lace_lightning)
    assert result.attempted >= 7
    assert result.failed == 0


def test_every_public_name_is_there() -> None:
    for name in lace_lightning.__all__:
        assert getattr(lace_lightning, name) is not None
    with pytest.raises(AttributeError):
        _ = lace_lightning.no_such_name


@pytest.mark.parametrize(
    "name",
    [
        *(f"cifar10_{kind}" for kind in ("generator", "labeler", "judge", "reference", "classifier")),
        *(f"portraits_{kind}" for kind in ("generator", "labeler", "judge", "reference", "identity", "classifier")),
    ],
)
def test_shipped_weights_have_cards(name: str) -> None:
    card = weights.card(name)
    assert {"what", "data", "licence", "sha256", "date"} <= set(card)
    assert weights.weight_path(name).stat().st_size <= 16 * 2**20


def test_damaged_weights_are_refused(tmp_path, monkeypatch) -> None:
    for suffix in ("json", "safetensors"):
        (tmp_path / f"cifar10_judge.{suffix}").write_bytes((weights.FOLDER / f"cifar10_judge.{suffix}").read_bytes())
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    weights._verified.cache_clear()
    assert weights.weight_path("cifar10_judge").parent == tmp_path
    with open(tmp_path / "cifar10_judge.safetensors", "r+b") as stream:
        stream.seek(5000)
        stream.write(b"\0" * 100)
    weights._verified.cache_clear()
    with pytest.raises(LaceError, match="must have the sha256"):
        weights.weight_path("cifar10_judge")
    weights._verified.cache_clear()


def test_a_truncated_file_is_refused(tmp_path) -> None:
    data = (weights.FOLDER / "cifar10_judge.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(LaceError, match="get the file again"):
        lace_lightning.load_classifier(tmp_path / "x.safetensors")


def test_the_wheel_finds_its_configuration_from_anywhere(tmp_path) -> None:
    """Build a wheel, unpack it elsewhere, and run an experiment from a third place."""
    source = tmp_path / "source"
    for name in ("lace_lightning", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            str(source),
        ],
        check=True,
        cwd=tmp_path,
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "lace_lightning" / "conf" / "experiment" / "cifar10_ode.yaml").is_file()
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "LACE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-P", "-m", "lace_lightning", "+experiment=cifar10_heun", "debug=fast", "logger=csv"]
    subprocess.run([*command, "hydra.run.dir=out"], check=True, cwd=tmp_path / "elsewhere", env=environment)
    config = subprocess.run(
        [*command, "--info", "searchpath"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path / "elsewhere",
        env=environment,
    )
    assert str(tmp_path / "site") in config.stdout
    assert (tmp_path / "elsewhere" / "out" / "metrics.json").is_file()

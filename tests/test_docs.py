"""Every command and every program in docs/ runs, on small files of the names that it mentions."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from lace_lightning import catalogue, cli
from lace_lightning.labelers.clip import parse_prompts
from lace_lightning.report import sweeps

from .test_cli import results
from .test_cli_paper import accept, clip_weights, published_file

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
# The commands and programs of docs/extending.md are run by tests/test_extending.py.
RUN = [page for page in DOCS if page.name != "extending.md"]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("experiments/**/README.md")),
    ROOT / "benchmarks/README.md",
]
# Code of a reader, whose names the pages mention.
PACKAGE = """
import torch
from torch import nn


def Decoder():
    return nn.Sequential(nn.Linear(64, 3072), nn.Sigmoid(), nn.Unflatten(1, (3, 32, 32)))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(784, 40), nn.Sequential(nn.Linear(20, 784), nn.Sigmoid())


class LeNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 6, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))


def decode(z):
    return (z @ torch.linspace(-1, 1, 64 * 48).reshape(64, 48)).tanh().reshape(-1, 3, 4, 4)


def digit(images):
    return (images.mean((1, 2, 3)) * 1000).long() % 10
"""
QUICK = ["debug=fast", "logger=csv", "pairs.count=200", "metrics.num_samples=10", "metrics.batch_size=5"]


def own_network(name: str) -> torch.nn.Module:
    """Return a network of a reader's code."""
    names: dict = {}
    exec(PACKAGE, names)
    torch.manual_seed(0)
    return names[name]()


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Return the commands of a page, as lists of words."""
    text = "\n".join(blocks(path, "bash")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


COMMANDS = [(page.stem, words) for page in RUN for words in commands(page)]


@pytest.fixture
def there(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    """A folder with everything that the pages mention, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path_factory.getbasetemp() / "docs_cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    sweeps.OUTCOMES.clear()
    published_file(tmp_path / "network.pkl", 32)
    decoder = torch.nn.Sequential(
        torch.nn.Linear(64, 3 * 32 * 32), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (3, 32, 32))
    )
    torch.save(decoder.state_dict(), tmp_path / "decoder.pt")
    (tmp_path / "my_package.py").write_text(PACKAGE)
    torch.jit.script(decoder).save(str(tmp_path / "decoder.ts"))
    torch.save(own_network("VAE").state_dict(), tmp_path / "vae.pt")
    torch.save(own_network("LeNet").state_dict(), tmp_path / "lenet.pt")
    (tmp_path / "my_labels.py").write_text(next(b for page in RUN for b in blocks(page, "python") if "def bright" in b))
    (tmp_path / "photographs").mkdir()
    for index in range(4):
        picture = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "photographs" / f"{index}.png")
    (tmp_path / "my_conf" / "labeler").mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment").mkdir()
    digits = next(block for page in RUN for block in blocks(page, "yaml") if "name: digits" in block)
    (tmp_path / "my_conf" / "experiment" / "digits.yaml").write_text(digits)
    text = next(block for page in RUN for block in blocks(page, "yaml") if "prompts:" in block)
    (tmp_path / "my_conf" / "labeler" / "cats.yaml").write_text(text.replace("confidence: 0.6", "confidence: 0"))
    (tmp_path / "latents").mkdir()
    np.savez(tmp_path / "latents" / "projected_w.npz", w=np.zeros((1, 8, 128), np.float32))
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(192), sigma=np.eye(192))
    return tmp_path


def overrides(words: list[str], folder: Path) -> list[str]:
    """Return what makes a command quick, and what stands in for downloads."""
    line = " ".join(words)
    if "task=reference" in line:
        return ["logger=csv"]
    if "pictures_to_label" in line:
        return ["debug=fast", "logger=csv", "task.count=40", f"task.folder={folder / 'pictures'}"]
    result = [*QUICK, "metrics.posterior_sets=0"]
    if "your_attribute" in line:
        labeler, judge = (clip_weights(folder)[i : i + 2] for i in (0, 2))
        result += judge if re.search(r"labeler=(?!clip|cats)", line) else [*labeler, *judge]
        result += ["labeler.resolution=32"] if "labeler=torchvision" in line else []
    # Inception's weights are a download.
    return result + (["metrics.fid=judge"] if "metrics.reference" in line else [])


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)])
def test_a_command_of_a_page_runs(page: str, words: list[str], there: Path, capsys, monkeypatch) -> None:
    # Labelers of random weights may give all pictures one label.
    monkeypatch.setattr("lace_lightning.data.pairs.FEW", 10**9)
    if words[0] == "pip":
        assert words == ["pip", "install", ".[clip]"]
        return
    program = ["python", "-m", "lace_lightning"]
    arguments = words[3:] if words[:3] == program else words[1:]
    assert words[:3] == program or words[0] == "lace-lightning"
    if arguments[0] == "download":
        network = catalogue.published(arguments[1])
        assert (network.sha256 is None) == ("--trust-first" in arguments)
        return
    if arguments[0] == "draw":
        # The shipped classifier is for settings that debug=fast changes.
        quick = overrides(arguments, there) if "--experiment" in arguments else ["metrics.batch_size=10"]
        cli.main([*arguments, *quick])
        assert list(there.rglob("contact.png"))
        return
    if arguments[0] == "project":
        # Fewer samples of the prior, as in tests/test_cli_project.py.
        monkeypatch.setattr("lace_lightning.systems.projection.COMPARED_SIDE", 8)
        monkeypatch.setattr("lace_lightning.generators.whitening.SAMPLES", 500)
        monkeypatch.setattr("lace_lightning.generators.whitening.SAMPLES_PER_DIMENSION", 1)
    if arguments[0] in cli.COMMANDS:
        quick = {
            "edit": QUICK,
            "project": ["--steps", "2", "--starts", "1", *(["logger=csv"] if "--edit" in arguments else [])],
            # The shipped generator is exported by tests/test_exports.py.
            "export": ["--generator", "network.pkl"] if "--classifier" not in arguments else [],
        }
        cli.main([*arguments, *quick.get(arguments[0], [])])
        return
    line = " ".join(arguments)
    if "stylegan2_ada_cifar10" in line:
        network = catalogue.published("stylegan2_ada_cifar10")
        network.path.parent.mkdir(parents=True, exist_ok=True)
        published_file(network.path, 32)
        accept(network)
    if "network.safetensors" in line:
        cli.main(["convert", "network.pkl", "network.safetensors"])
    if "hats.safetensors" in line:
        from torchvision.models import get_model

        torch.manual_seed(0)
        save_file(get_model("resnet18", num_classes=2).state_dict(), there / "hats.safetensors")
    if "pairs.source=pictures" in line:
        (there / "pictures").mkdir()
        (there / "pictures" / "labels.csv").write_text("sample,hat\n" + "".join(f"{i},{i % 2}\n" for i in range(60)))
    if "flow.safetensors" in line:
        (before,) = (words[3:] for _, words in COMMANDS if "task.export=flow" in words)
        cli.main([*before, *QUICK])
    cli.main([*arguments, *overrides(arguments, there)])
    assert len(results(there / "outputs")) == (2 if "flow.safetensors" in line else 1)
    assert "results in" in capsys.readouterr().out


@pytest.mark.parametrize("page", RUN, ids=[page.stem for page in RUN])
def test_the_programs_of_a_page_run(page: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    # The blocks of a page go on from each other.
    names: dict = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    for block in blocks(page, "yaml"):
        settings = yaml.safe_load(block)
        if "prompts" in settings:
            parse_prompts(settings["prompts"])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made from Markdown."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_pages_are_linked_from_the_readme_and_the_map() -> None:
    readme, index = (ROOT / "README.md").read_text(), (ROOT / "docs" / "index.md").read_text()
    for page in DOCS:
        assert f"docs/{page.name}" in readme
        assert page.name == "index.md" or f"]({page.name})" in index


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s:]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_names_of_the_glossary_are_in_the_code() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    source = "\n".join(path.read_text() for path in (ROOT / "lace_lightning").rglob("*.py"))
    defined = set(re.findall(r"^\s*(?:class|def) (\w+)", source, re.MULTILINE))
    names = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\b[A-Z]\w*[a-z]\w*", code)}
    assert names >= {"Generator", "Query", "Energy", "Sampler", "Editor"}
    assert names <= defined

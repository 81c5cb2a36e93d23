"""The page without a program behind it: a folder whose networks the browser computes, by onnxruntime-web."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..artifacts import atomic_path, check_writable
from ..errors import LaceError
from ..progress import steps
from ..samplers.runge_kutta import METHODS
from ..schedules import VP
from ..systems.editing import EditOptions
from .commands import draw_command
from .controls import FREE, IS
from .server import FOLDER, describe_page
from .session import BLOCK, LARGEST_STRENGTH, MOST_PICTURES, PictureSettings

if TYPE_CHECKING:
    from .loading import Page

# What this program takes of onnxruntime-web as it was published; the module of WebAssembly is compressed.
RUNTIME = Path(__file__).parent / "onnxruntime_web"
MODULE = "ort-wasm-simd-threaded.wasm"
# Files of a page that are copied, by their names there.
COPIED = {
    **{name: FOLDER / name for name in ("page.css", "page.js", "static.js")},
    "ort.wasm.min.js": RUNTIME / "ort.wasm.min.js",
    "onnxruntime_web_LICENCE.txt": RUNTIME / "LICENCE.txt",
}
# Files that are made: those with content are scripts, because a page from a disk may not read other files.
INDEX, DATA, NETWORKS, ENGINE = "index.html", "data.js", "networks.js", "onnxruntime_web.js"
# Samples whose latents a page has at most.
MOST_SAMPLES = 100_000
SCRIPT = '<script src="page.js" defer></script>'
# The words of commands for which the page fills in its settings.
QUERY, SEEDS, STRENGTH = "{query}", "{seeds}", "{strength}"


def write_static(page: Page, folder: Path, seeds: int = 256) -> Path:
    """Write a page that needs no program: any web server shows it, and a browser that opens its index.html.

    The flow is that of the page's standard method: the browser computes steps of the Heun-Euler pair with closed-form
    and recorded gradients, and controls the error of every sample.

    Args:
        page: the session with its words and preset.
        folder: the folder to write; one that such a page is in is replaced.
        seeds: number of the samples, from seed 0, whose latents the page has, from 16 to 100,000.

    Returns:
        The path of index.html.

    Raises:
        LaceError: for a folder with other files, seeds out of range, missing packages, and networks without a graph.
    """
    from ..exports import require_onnx

    require_onnx()
    if not BLOCK <= seeds <= MOST_SAMPLES:
        raise LaceError(f"--seeds must be from {BLOCK} to {MOST_SAMPLES}, received {seeds}: 256 is the default.")
    names = {*COPIED, INDEX, DATA, NETWORKS, ENGINE}
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= names):
        raise LaceError(
            f"The folder of the page must be new, or hold such a page, and '{folder}' has other files: choose another."
        )
    # Before the graphs, which take a minute.
    check_writable(folder.parent)
    networks = _networks(page)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, source in COPIED.items():
            (temporary / name).write_bytes(source.read_bytes())
        (temporary / DATA).write_text(f"window.laceData = {json.dumps(content_of(page, seeds))};\n", encoding="utf-8")
        (temporary / NETWORKS).write_text(_packed("laceNetworks", networks), encoding="utf-8")
        glue = (RUNTIME / MODULE.replace(".wasm", ".mjs")).read_bytes()
        module = gzip.decompress((RUNTIME / f"{MODULE}.gz").read_bytes())
        (temporary / ENGINE).write_text(_packed("laceEngine", {"glue": glue, "module": module}), encoding="utf-8")
        html = (FOLDER / INDEX).read_text(encoding="utf-8")
        scripts = ("ort.wasm.min.js", ENGINE, NETWORKS, DATA, "static.js", "page.js")
        tags = "\n".join(f'<script src="{name}" defer></script>' for name in scripts)
        whole = html.replace(SCRIPT, tags).replace("<body>", '<body class="static">')
        (temporary / INDEX).write_text(whole, encoding="utf-8")
    return folder / INDEX


def _networks(page: Page) -> dict[str, bytes]:
    """Return the graphs of a page as the contents of ONNX files."""
    import tempfile

    from ..exports import record_graph, write_onnx
    from .graphs import graphs_of

    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, graph in steps(graphs_of(page.session).items(), "Graphs of the page", " graphs"):
            program = record_graph(graph.module, graph.inputs, graph.shared, graph.has_gradients)
            path = Path(folder, f"{name}.onnx")
            write_onnx(program, path, list(graph.inputs), graph.outputs, {"kind": "page", "graph": name})
            result[name] = path.read_bytes()
    return result


def content_of(page: Page, seeds: int) -> dict[str, Any]:
    """Return what the script of a page without a program knows, in plain containers.

    Args:
        page: the session with its words and preset.
        seeds: number of the samples whose latents it has.
    """
    session, preset = page.session, page.preset
    about, options, sampler = describe_page(page), EditOptions(), session.standard_sampler
    for attribute in about["attributes"]:
        attribute["modes"] = [FREE, IS]
    asked = PictureSettings(QUERY, f"0-{BLOCK - 1}", preset.strength)
    command = [
        {f"0-{BLOCK - 1}": SEEDS, f"query.weight={preset.strength:g}": f"query.weight={STRENGTH}"}.get(word, word)
        for word in draw_command(asked, page.words)
    ]
    latents = torch.cat(
        [
            session.generator.prior(min(BLOCK, seeds - first), session.run_seed, first).cpu()
            for first in range(0, seeds, BLOCK)
        ]
    )
    return {
        "about": about,
        "seeds": seeds,
        "mostPictures": MOST_PICTURES,
        "largestStrength": LARGEST_STRENGTH,
        "size": session.generator.z_dim,
        "latents": _base64(latents),
        "priorLogits": _base64(session.prior_logits),
        "numLogits": session.schema.num_logits,
        "solver": {
            "length": float(VP(sampler.beta_min, sampler.beta_max).length()),
            "atol": sampler.atol,
            "firstStep": sampler.first_step,
            "largestGrowth": sampler.max_growth,
            "mostSteps": sampler.max_steps,
            "exponent": -1 / (METHODS[sampler.method].lower + 1),
        },
        "edit": {"proximity": options.proximity, "keep": options.keep},
        "command": command,
    }


def _base64(numbers: Tensor) -> str:
    return base64.b64encode(numbers.float().contiguous().numpy().astype("<f4").tobytes()).decode("ascii")


def _packed(variable: str, files: dict[str, bytes]) -> str:
    """Return a script that sets a variable to the compressed contents of files, as base64 by name."""
    texts = {name: base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii") for name, content in files.items()}
    return f"window.{variable} = {json.dumps(texts)};\n"

"""Export of generators, classifiers and flows of fixed steps as torch.export programs and ONNX files."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .artifacts import atomic_path, to_builtin
from .classifiers import AttributeClassifier
from .errors import LaceError
from .generators import Generator
from .numerics.recording import exporting
from .query import Query, parse
from .samplers import Euler, Sampler
from .schema import Labels
from .systems.lace import EnergyOptions

# Rows of the example with which a graph is recorded; other numbers of rows are allowed afterwards.
EXAMPLE_ROWS = 3
OPSET = 20
# Largest number of rows of an exported graph.
MAX_ROWS = 2**20


class FixedFlow(nn.Module):
    """A flow in fixed steps to latents that satisfy a query, and their pictures, as one module.

    It computes in every step what the sampler and the energy compute, and records as one graph without branches.

    Args:
        generator: the generator.
        classifier: a classifier of z or w of this generator.
        query: the condition, as text or query. Free attributes (`label == *`) become a second input.
        sampler: the sampler with fixed steps; None for Euler on the cubic grid with 16 steps.
        options: how the query becomes an energy; None for the controlled target, γ = 6.

    Raises:
        LaceError: for a classifier of another generator or of pictures, a query that has no energy, a hard target, and
            a sampler without fixed steps.

    References:
        Eq. 7 of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> lace = tiny_lace()
        >>> flow = FixedFlow(lace.generator, lace.classifier, "hat == *", Euler(grid="cubic", num_steps=4))
        >>> z, images = flow(lace.generator.prior(2), torch.tensor([[0.0], [1.0]]))
        >>> z.shape == lace.generator.prior(2).shape, len(images)
        (True, 2)
    """

    def __init__(
        self,
        generator: Generator,
        classifier: AttributeClassifier,
        query: str | Query,
        sampler: Sampler | None = None,
        options: EnergyOptions | None = None,
    ) -> None:
        super().__init__()
        classifier.check_generator(generator.digest_for(classifier.space))
        sampler = sampler or Euler(grid="cubic", num_steps=16)
        if not isinstance(sampler, Euler) or sampler.corrector is not None:
            raise LaceError(
                f"An exported flow needs a sampler whose steps are fixed, and {type(sampler).__name__}"
                f"{' with a corrector' if sampler.corrector is not None else ''} adapts them to the sample: set "
                "sampler=euler_cubic without a corrector."
            )
        self.options = options or EnergyOptions(target="controlled")
        if self.options.hard:
            raise LaceError(
                "A flow cannot sample the hard target, because the density of a region has no gradient: set "
                "query.target=controlled."
            )
        if classifier.space == "x":
            raise LaceError("An exported flow needs a classifier of z or w, received one of pictures (space x).")
        self.query = parse(query, classifier.schema) if isinstance(query, str) else query.on(classifier.schema)
        self.options.check(self.query)
        self.generator, self.classifier, self.sampler = generator, classifier.part(self.query.attributes), sampler

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the free attributes: the columns of the second input."""
        return self.query.free

    def forward(self, z: Tensor, free: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return latents z (B, Dz) after the flow, and pictures (B, C, H, W) in [-1, 1].

        Args:
            z: starting points (B, Dz) ~ N(0, I).
            free: values (B, F) of the F free attributes: class numbers, or numbers in [0, 1]; None where F = 0.
        """
        o, schema = self.options, self.classifier.schema
        labels = None
        if free is not None:
            zero = torch.zeros_like(free[:, 0])
            columns = [free[:, self.free.index(name)] if name in self.free else zero for name in schema.names]
            labels = Labels(schema, torch.stack(columns, 1))
        energy = self.classifier.energy(
            self.query, labels, o.logic, o.sigma, o.temperature, o.paper_temperature, o.gamma
        ).pullback(self.generator.map_to(self.classifier.space))
        z = z.clone()
        for _, start, end in self.sampler.steps():
            z = z - self.sampler.length(start, end) * energy.value_and_grad(z)[1]
        return z, self.generator.synthesis(self.generator.mapping(z))

    def inputs(self) -> dict[str, Tensor]:
        """Return examples of the inputs by name."""
        z = self.generator.prior(EXAMPLE_ROWS)
        return {"z": z, "free": torch.zeros(EXAMPLE_ROWS, len(self.free))} if self.free else {"z": z}


Exportable = Generator | AttributeClassifier | FixedFlow


def _parts(module: Exportable) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """Return examples of the inputs by name, names of the outputs, and what the file says of itself."""
    if isinstance(module, FixedFlow):
        about = {
            "kind": "flow",
            "query": module.query.text,
            "free": list(module.free),
            "sampler": repr(module.sampler),
            "gamma": module.options.gamma,
            "generator": module.generator.digest,
            "classifier": module.classifier.digest,
        }
        return module.inputs(), ["z_out", "images"], about
    if isinstance(module, AttributeClassifier):
        size = module.arguments.get("input_dim")
        if not isinstance(size, int):
            raise LaceError(
                f"A classifier of latents can be exported, received one of space '{module.space}' with network "
                f"{module.network_name}: export a latent classifier."
            )
        about = {"kind": "classifier", "space": module.space, "schema": module.schema.to_config()}
        return {module.space: torch.zeros(EXAMPLE_ROWS, size)}, ["logits"], {**about, "digest": module.digest}
    about = {"kind": "generator", **module.describe(), "digest": module.digest}
    return {"z": module.prior(EXAMPLE_ROWS)}, ["images"], about


def recorded(module: Exportable) -> torch.export.ExportedProgram:
    """Return the graph of a generator, classifier or flow, for any number of rows from 1.

    Gradients inside of a flow are operations of the graph: it needs no automatic differentiation.

    Args:
        module: a generator z -> pictures, a latent classifier u -> logits, or a `FixedFlow`, on the CPU.

    Raises:
        LaceError: for a module whose forward cannot be recorded.

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> program = recorded(tiny_lace().classifier)
        >>> program.module()(torch.zeros(5, 4)).shape[0]
        5
    """
    return record_graph(module, _parts(module)[0], is_traced=isinstance(module, FixedFlow))


def record_graph(
    module: nn.Module, examples: Mapping[str, Tensor], shared: Sequence[str] = (), is_traced: bool = True
) -> torch.export.ExportedProgram:
    """Return the graph of a module, for any number of rows from 1.

    Args:
        module: the module, on the CPU.
        examples: tensors of its arguments by name, in their order, with the samples in rows.
        shared: names of the arguments that all samples share, whose shape is that of the example.
        is_traced: whether gradients inside of the module become operations of the graph.

    Raises:
        LaceError: for a module whose forward cannot be recorded.

    Example:
        >>> program = record_graph(nn.Linear(4, 2), {"z": torch.zeros(3, 4)}, is_traced=False)
        >>> program.module()(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    rows = torch.export.Dim("rows", min=1, max=MAX_ROWS)
    values = tuple(examples.values())
    shapes = tuple({} if name in shared else {0: rows} for name in examples)
    try:
        with warnings.catch_warnings(), exporting():
            warnings.simplefilter("ignore")
            if not is_traced:
                return torch.export.export(module.eval(), values, dynamic_shapes=shapes)
            # Tracing turns the closed-form and automatic gradients of the energy into operations of the graph.
            graph = make_fx(module.eval(), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*values)
            return torch.export.export(graph, values, dynamic_shapes=shapes)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        if isinstance(error, LaceError):
            raise
        message = str(error).strip().splitlines()[0][:200]
        raise LaceError(
            f"The graph of {type(module).__name__} must not depend on values or on the number of rows, and could not "
            f"be recorded ({message}): mend its forward."
        ) from error


def export(module: Exportable, path: str | os.PathLike[str]) -> Path:
    """Write a generator, a classifier or a flow as a file that other programs run.

    Args:
        module: a generator z -> pictures, a latent classifier u -> logits, or a `FixedFlow`.
        path: the file, ending in .onnx (ONNX with the weights inside) or .pt2 (torch.export).

    Returns:
        The path of the file. The metadata of an ONNX file, and `extra_files["lace.json"]` of a .pt2 file, tell what
        it is.

    Raises:
        LaceError: for another ending, a missing package, a module that cannot be recorded, and an unwritable folder.

    Example:
        >>> import tempfile
        >>> from lace_lightning.examples import tiny_lace
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(tiny_lace().classifier, f"{folder}/classifier.pt2").name
        'classifier.pt2'
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise LaceError(f"An exported file ends in .onnx or .pt2, received '{path.name}': correct the ending.")
    if path.suffix == ".onnx":
        require_onnx()
    examples, outputs, about = _parts(module)
    program = recorded(module)
    with atomic_path(path) as temporary:
        if path.suffix == ".pt2":
            # torch.export.save asks for this ending.
            target = Path(f"{temporary}.pt2")
            torch.export.save(program, target, extra_files={"lace.json": json.dumps(to_builtin(about))})
            target.replace(temporary)
        else:
            write_onnx(program, temporary, list(examples), outputs, about)
    return path


def require_onnx() -> None:
    """Refuse to go on without the packages that write ONNX files.

    Raises:
        LaceError: where onnx or onnxscript is missing.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise LaceError("An ONNX file needs the packages onnx and onnxscript: pip install 'lace_lightning[onnx]'.")


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Write a graph as an ONNX file with its weights inside.

    Args:
        program: the graph.
        path: the file.
        inputs: names of its inputs.
        outputs: names of its outputs.
        about: what the metadata entry `lace` of the file says.
    """
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "lace", json.dumps(to_builtin(about))
    onnx.save(model, path)

"""Networks of ONNX files, computed by onnxruntime on the CPU without gradients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LaceError, in_one_line

# NumPy types of the numbers that networks take.
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class OnnxModule(nn.Module):
    """The network of an ONNX file, from latents to pictures, without weights of its own.

    It is computed on the CPU, and the result is moved to the device of the latents.

    Args:
        file: the file. Its first input is the latents, a second one is the condition.
        output: number or name of the output that is the picture; None for the first.

    Attributes:
        latent_shapes: the shape of one latent, where the file tells it.

    Raises:
        LaceError: when onnxruntime (an extra) is not installed, the file is missing or no ONNX, or it has no such
            output; in use, where a gradient is required.

    Example:
        >>> OnnxModule("missing.onnx")
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: An ONNX file is required, and 'missing.onnx' does not exist: check its path.
    """

    has_gradients = False

    def __init__(self, file: str | os.PathLike[str], output: int | str | None = None) -> None:
        super().__init__()
        self.file = os.fspath(file)
        self._open()
        names = [slot.name for slot in self._session.get_outputs()]
        if output is not None and output not in (*range(len(names)), *names):
            raise LaceError(
                f"The output of an ONNX file must be one of its outputs {', '.join(names)}, received {output!r}: "
                "correct output."
            )
        self.output = names[output or 0] if not isinstance(output, str) else output
        first = self._inputs[0]
        sides = list(first.shape or [])
        is_known = len(sides) > 1 and all(isinstance(side, int) and side > 0 for side in sides[1:])
        self.latent_shapes = [tuple(sides[1:])] if is_known else []
        # A file that was exported without a free first axis takes one number of latents alone.
        self.batch = sides[0] if sides and isinstance(sides[0], int) and sides[0] > 0 else None

    def _open(self) -> None:
        if not Path(self.file).is_file():
            raise LaceError(f"An ONNX file is required, and '{self.file}' does not exist: check its path.")
        try:
            import onnxruntime
        except ImportError:
            raise LaceError(
                'ONNX files need the package onnxruntime, which is not installed: pip install "lace_lightning[onnx]".'
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LaceError(
                f"The file '{self.file}' must be an ONNX network, and onnxruntime cannot read it "
                f"({in_one_line(error)}): export it again."
            ) from None
        self._inputs = self._session.get_inputs()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_session", "_inputs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._open()

    @property
    def title(self) -> str:
        """The name of the file."""
        return Path(self.file).name

    def forward(self, *inputs: Tensor) -> Any:
        if torch.is_grad_enabled() and any(one.requires_grad for one in inputs):
            raise LaceError(
                f"A gradient through the generator is required, and the ONNX file '{self.title}' has none: set "
                "classifier.space=z, or give the network as a module or TorchScript."
            )
        if inputs[0].device.type == "meta":
            raise LaceError("An ONNX file needs latents with numbers, received the device meta: move them to the CPU.")
        count = len(inputs[0])
        if count == 0:
            return self._run([one.new_zeros(self.batch or 1, *one.shape[1:]) for one in inputs])[:0]
        if self.batch is None:
            return self._run(list(inputs))
        missing = -count % self.batch
        whole = [torch.cat([one, one[:1].expand(missing, *one.shape[1:])]) for one in inputs]
        parts = zip(*(one.split(self.batch) for one in whole), strict=True)
        return torch.cat([self._run(list(part)) for part in parts])[:count]

    def _run(self, inputs: list[Tensor]) -> Tensor:
        if len(inputs) != len(self._inputs):
            raise TypeError(f"it takes {len(self._inputs)} inputs, received {len(inputs)}")
        given = {
            slot.name: one.detach().cpu().numpy().astype(TYPES.get(slot.type, np.float32))
            for slot, one in zip(self._inputs, inputs, strict=True)
        }
        (result,) = self._session.run([self.output], given)
        return torch.from_numpy(np.asarray(result)).to(inputs[0].device)

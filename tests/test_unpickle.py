"""Files are data: what Python pickles comes back, and no file runs anything, hangs, or shows a traceback."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lace_lightning.errors import LaceError
from lace_lightning.generators import StyleGAN2Network, read_generator
from lace_lightning.unpickle import Record, safe_unpickle, tensors_of

from .foreign_files import nvidia_pickle, rosinality_file, tensorflow_pickle

SMALL = {
    "z_dim": 4,
    "w_dim": 4,
    "c_dim": 0,
    "img_resolution": 8,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 1},
    "synthesis_kwargs": {"channels": {4: 2, 8: 2}},
}
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text() | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(SCALARS, inner) | st.sets(SCALARS),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    torch.manual_seed(0)
    state = StyleGAN2Network(**SMALL).state_dict()
    return {
        "nvidia4": nvidia_pickle(state, SMALL),
        "nvidia0": nvidia_pickle(state, SMALL, 0),
        "tensorflow": tensorflow_pickle(state),
        "zip": rosinality_file(state),
        "legacy": rosinality_file(state, legacy=True),
    }


def read(folder: Path, data: bytes) -> object:
    (folder / "file").write_bytes(data)
    return safe_unpickle(folder / "file")


@settings(max_examples=150, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5))
def test_what_python_pickles_comes_back(tmp_path_factory, value: object, protocol: int) -> None:
    assert read(tmp_path_factory.mktemp("p"), pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=">i2").reshape(3, 2).T,
        np.array(["a", "bc"]),
        np.array([1.5, None], object),
        np.zeros((0, 3)),
        np.float32(0.25),
        OrderedDict(a=np.ones(2, bool)),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        defaultdict(int, a=1),
    ]
    for array, again in zip(arrays, read(tmp_path, pickle.dumps(arrays, protocol)), strict=True):
        np.testing.assert_equal(again, array)


@pytest.mark.parametrize("new", [True, False])
def test_tensors_come_back(tmp_path: Path, new: bool) -> None:
    base = torch.arange(12.0)
    tensors = {
        "whole": base,
        "part": base[2:8].view(2, 3).T,
        "half": torch.randn(3).half(),
        "bf": torch.randn(3).bfloat16(),
        "int": torch.arange(3),
        "empty": torch.empty(0, 2),
        "complex": torch.randn(3, dtype=torch.complex64),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(2.0),
    }
    torch.save(tensors, tmp_path / "t.pt", _use_new_zipfile_serialization=new)
    again = safe_unpickle(tmp_path / "t.pt")
    assert list(again) == list(tensors)
    assert all(
        torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def hostile(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Yield ways to run `touch mark`."""
    command = f"touch {mark}"

    class By:
        def __init__(self, function: object, *arguments: object) -> None:
            self.reduced = function, arguments

        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return self.reduced

    calls = {
        "system": By(os.system, command),
        "eval": By(eval, f"__import__('os').system({command!r})"),
        "exec": By(exec, "1"),
        "popen": By(subprocess.Popen, command),
        "getattr": By(getattr, os, "system"),
        "import": By(builtins.__import__, "os"),
        "loads": By(pickle.loads, pickle.dumps(By(os.system, command))),
        "touch": By(Path.touch, mark),
        "open": By(open, str(mark), "w"),
        "load": By(torch.load, str(mark)),
        "memmap": By(np.memmap, str(mark)),
    }
    for name, value in calls.items():
        for protocol in (0, 2, 4):
            try:
                yield f"{name}{protocol}", pickle.dumps({"G_ema": value}, protocol)
            except Exception:  # modules as arguments cannot be pickled; written by hand below
                continue
    argument = pickle.dumps(command, 0)[:-1]
    yield "inst", b"(S'" + command.encode() + b"'\nios\nsystem\n."
    yield "global", b"cos\nsystem\n(" + argument + b"tR."
    yield "newobj", b"\x80\x02csubprocess\nPopen\n(" + argument + b"t\x81."
    yield "obj", b"(csubprocess\nPopen\n" + argument + b"o."
    yield "stack", b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + argument + b"tR."
    yield "extension", b"\x80\x02\x82\x01."
    yield "dotted", b"\x80\x04\x8c\x05torch\x8c\x0aSize.__add\x93."
    yield "persistent", b"Pos.system\n."
    nested = io.BytesIO()
    torch.save({"a": By(os.system, command)}, nested, _use_new_zipfile_serialization=False)
    inner = nested.getvalue()
    yield (
        "nested",
        b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner + b"\x85R.",
    )
    archive = io.BytesIO()
    torch.save({"a": By(os.system, command)}, archive)
    yield "archive", archive.getvalue()


def test_hostile_files_run_nothing(tmp_path: Path) -> None:
    mark, count = tmp_path / "ran", 0
    for name, data in hostile(mark):
        with pytest.raises(LaceError) as caught:
            read(tmp_path, data)
        assert "\n" not in str(caught.value), name
        count += 1
    assert count > 25
    assert not mark.exists()


def test_the_source_inside_of_a_network_is_not_run(tmp_path: Path, files) -> None:
    """It would end the process."""
    for name in ("nvidia4", "tensorflow"):
        (tmp_path / "n.pkl").write_bytes(files[name])
        read_generator(tmp_path / "n.pkl").network()


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield small files that ask for gigabytes or hours."""
    yield "memo", b"\x80\x02Nr\xff\xff\xff\xff."
    yield "bytes", b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x."
    yield "bytearray", b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x."
    yield "integer", b"\x80\x02\x8b" + (2**20).to_bytes(4, "little") + b"\x7f" * 2**20 + b"."
    yield "digits", b"I" + b"9" * 200_000 + b"\n."
    yield "copies", b"\x80\x04](" + b"N" * 50_000 + b"e\x94" + b"cbuiltins\nlist\nh\x00\x85R0" * 3000 + b"."
    yield "array", pickle.dumps(np.zeros(3)).replace(b"\x4b\x03\x85", b"\x8a\x06\xff\xff\xff\xff\xff\x00\x85")
    yield "opcodes", b"\x80\x02" + b"]" * 310_000 + b"."
    yield "deep key", b"\x80\x02)" + b"\x85" * 200_000 + b"N}0s."
    small, stream = torch.zeros(1), io.BytesIO()
    torch.save(small.expand(10), stream)
    yield "expanded", stream.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/data.pkl", b"N" * 10_000_000 + b".")
    yield "packed", archive.getvalue()


def test_bombs_take_neither_memory_nor_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lace_lightning.unpickle.MAX_OPCODES", 300_000)
    for name, data in bombs():
        start = time.perf_counter()
        tracemalloc.start()
        try:
            with contextlib.suppress(LaceError):  # some are harmless where nothing is reserved beforehand
                read(tmp_path, data)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2**30, (name, peak)
        assert time.perf_counter() - start < 60, name


MUTATIONS = int(os.environ.get("LACE_MUTATIONS", 500))


@pytest.mark.parametrize("name", ["nvidia4", "nvidia0", "tensorflow", "zip", "legacy"])
def test_mutated_files_give_a_network_or_one_sentence(tmp_path: Path, files, name: str) -> None:
    """Bits flipped, bytes changed, cut, repeated, spliced; every process, connection and new file would be an
    execution.
    """
    data, lot = files[name], random.Random(name)
    path, events = tmp_path / "file.pkl", []
    watched = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")
    watching = True

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in watched:
            events.append((event, str(arguments)[:80]))

    (tmp_path / "file.pkl").write_bytes(data)
    read_generator(path).network()  # what is imported at first use is imported here
    sys.addaudithook(audit)
    slowest = 0.0
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, lot))
        start = time.perf_counter()
        try:
            read_generator(path).network()
        except LaceError as error:
            assert "\n" not in str(error)  # noqa: PT017
        slowest = max(slowest, time.perf_counter() - start)
    watching = False
    assert not events, events[:3]
    assert slowest < 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pkl"]


def mutated(data: bytes, lot: random.Random) -> bytes:
    """Return a damaged or altered copy."""
    result = bytearray(data)
    for _ in range(lot.choice((1, 1, 2, 8, 64))):
        where, kind = lot.randrange(len(result)), lot.randrange(6)
        if kind == 0:
            result[where] ^= 1 << lot.randrange(8)
        elif kind == 1:
            result[where] = lot.randrange(256)
        elif kind == 2:
            del result[where : where + lot.randrange(1, 9)]
        elif kind == 3:
            result[where:where] = lot.randbytes(lot.randrange(1, 9))
        elif kind == 4:
            other = lot.randrange(len(result))
            result[where:where] = result[other : other + lot.randrange(1, 40)]
        else:
            # Opcodes where something can happen.
            result[where] = lot.choice(b"Rcbio\x81\x92\x93Q2h.\x94")
        if len(result) < 2:
            break
    return bytes(result[: lot.randrange(1, len(result))]) if lot.random() < 0.1 else bytes(result)


@pytest.mark.parametrize("kind", ["_parameters", "_buffers", "_modules"])
def test_tables_of_a_network_that_are_none_are_one_sentence(kind: str) -> None:
    inner = Record("Layer", state={kind: Record("numpy.dtype")})
    with pytest.raises(LaceError, match=f"The {kind} of a network in the file must be a table, received Record"):
        list(tensors_of(Record("Generator", state={"_modules": {"synthesis": inner}})))

"""Converting other programs' files of FFHQ's size: seconds and peak memory, one process a file. The weights are random.

Run: python benchmarks/bench_convert.py [--resolution 1024] [--rounds 3]
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import begin, fair_clock

from lace_lightning.generators import StyleGAN2Network, convert

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.foreign_files import nvidia_pickle, rosinality_file, tensorflow_pickle

# Two generators and a discriminator; one generator, and its parts once more; two generators.
FILES = {
    "StyleGAN2-ADA's pickle": "ada.pkl",
    "TensorFlow's pickle": "tensorflow.pkl",
    "rosinality's checkpoint": "rosinality.pt",
}


def write(folder: Path, resolution: int) -> None:
    """Write the files of a configuration F generator of this size, and the same of a tiny one."""
    torch.manual_seed(0)
    for size, width, prefix in ((8, 8, "tiny-"), (resolution, 512, "")):
        config = {
            "z_dim": width,
            "w_dim": width,
            "c_dim": 0,
            "img_resolution": size,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 8, "lr_multiplier": 0.01},
            "synthesis_kwargs": {"channel_max": width},
        }
        state = StyleGAN2Network(**config).state_dict()
        writers: dict[str, Callable[[], bytes]] = {
            "ada.pkl": lambda state=state, config=config: nvidia_pickle(
                state, config, discriminator=sum(map(torch.numel, state.values()))
            ),
            "tensorflow.pkl": lambda state=state: tensorflow_pickle(state),
            "rosinality.pt": lambda state=state: rosinality_file(state),
        }
        for name, made in writers.items():
            (folder / f"{prefix}{name}").write_bytes(made())


def measure(folder: Path, name: str, threads: int, results: mp.Queue) -> None:
    """Put (peak MiB of the program alone, peak MiB with the file, seconds) of one conversion."""
    torch.set_num_threads(threads)
    convert(folder / f"tiny-{name}", folder / "tiny.safetensors")  # what is imported and allocated once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    clock = fair_clock()
    start = clock()
    convert(folder / name, folder / "converted.safetensors")
    seconds = clock() - start
    results.put((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser)
    context = mp.get_context("spawn")

    def apart(function: Callable[..., None], *arguments: object) -> None:
        # The peak of a process counts what its parent held when it was started: nothing big is done here.
        process = context.Process(target=function, args=arguments)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{function.__name__} ended with status {process.exitcode}")

    with tempfile.TemporaryDirectory() as name:
        folder, queue = Path(name), context.Queue()
        apart(write, folder, options.resolution)
        size = f"{options.resolution}x{options.resolution}"
        print(
            f"\n{size}, read, written, both files hashed: size; peak of the program alone, what converting adds, "
            f"seconds"
        )
        for what, file in FILES.items():
            measured = []
            for _ in range(options.rounds):
                apart(measure, folder, file, options.threads, queue)
                measured.append(queue.get())
            before, after, seconds = (statistics.median(values) for values in zip(*measured, strict=True))
            print(
                f"  {what:<24} {(folder / file).stat().st_size / 2**20:6.0f} MiB  {before:6.0f} MiB  "
                f"{after - before:+6.0f} MiB  "
                f"{seconds:6.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

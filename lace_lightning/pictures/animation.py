"""Animations: frames of a straight walk from one latent to the next, and WebP and mp4 files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..artifacts import atomic_path
from ..errors import LaceError
from .convert import downscale
from .grids import labelled_grid

VIDEO_ADVICE = 'pip install "lace_lightning[video]"'


def walk_frames(
    states: Sequence[Tensor],
    titles: Sequence[str],
    pictures: Callable[[Tensor], Tensor],
    frames_per_state: int = 8,
    columns: int = 4,
) -> list[Image.Image]:
    """Return the frames of a walk on straight lines from state to state, with a rest at each state.

    Frame k of the way from s to t shows s + (t - s)·k/`frames_per_state`. The first state has `frames_per_state` equal
    frames, every other one as many of the way to it and `frames_per_state` - 1 more of itself. All frames have one
    size: a long title makes its own larger, and white fills the others.

    Args:
        states: latents of the same people in every state, each (B, ...).
        titles: text above the frames of each state; states without a title are left out.
        pictures: returns pictures (B, C, H, W) uint8 of latents (B, ...).
        frames_per_state: frames from one state to the next, at least 1.
        columns: pictures in a row, at least 1.

    Returns:
        The frames; none where there are no states.

    Raises:
        LaceError: when `frames_per_state` or `columns` is below 1.

    Example:
        >>> grey = lambda ws: (ws * 255).byte()[:, :, None, None].expand(-1, 3, 8, 8)
        >>> frames = walk_frames([torch.zeros(2, 1), torch.ones(2, 1)], ["before", "bright"], grey, frames_per_state=4)
        >>> len(frames), len({frame.size for frame in frames})
        (11, 1)
    """
    if frames_per_state < 1 or columns < 1:
        raise LaceError(
            f"An animation needs at least 1 frame a state and 1 column, received {frames_per_state} and {columns}: "
            "raise them to 1."
        )
    frames: list[Image.Image] = []
    for number, (title, state) in enumerate(zip(titles, states, strict=False)):
        before = states[max(number - 1, 0)]
        for step in range(1, frames_per_state + 1) if number else (frames_per_state,):
            images = downscale(pictures(torch.lerp(before, state, step / frames_per_state)))
            rows = list(torch.split(images.cpu(), columns))
            frames.append(labelled_grid(rows, [""] * len(rows), title, scale=max(1, 96 // images.shape[-1])))
        frames.extend([frames[-1]] * (frames_per_state - 1))
    # White is added at the top and on the right, so that the pictures keep their place.
    width = max((frame.width for frame in frames), default=0)
    height = max((frame.height for frame in frames), default=0)
    return [ImageOps.expand(frame, (0, height - frame.height, width - frame.width, 0), "white") for frame in frames]


def save_animation(path: str | os.PathLike[str], frames: Sequence[Image.Image], milliseconds: int = 80) -> Path:
    """Write frames as a WebP that repeats for ever, or as an mp4, atomically.

    An mp4 needs the extra `video`. Its sides are even: white is added at the top and on the right.

    Args:
        path: the file, `<name>.webp` or `<name>.mp4`.
        frames: pictures of one size, at least one.
        milliseconds: time of a frame in ms, at least 10.

    Returns:
        The path of the file.

    Raises:
        LaceError: when there are no frames, the time is too short, the ending is another one, the extra is missing, or
            the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_animation(f"{folder}/a.webp", [Image.new("RGB", (8, 8), c) for c in ("red", "blue")])
        ...     Image.open(path).n_frames
        2
    """
    if not frames:
        raise LaceError("An animation needs at least 1 frame, received none: draw frames first (walk_frames).")
    if milliseconds < 10:
        raise LaceError(f"A frame of an animation takes at least 10 ms, received {milliseconds}: take 80.")
    path = Path(path)
    if path.suffix not in (".webp", ".mp4"):
        raise LaceError(f"An animation is a .webp or .mp4 file, received '{path.name}': name it {path.stem}.webp.")
    if path.suffix == ".mp4" and not can_write_video():
        raise LaceError(f"An mp4 needs the extra video, which is not installed: {VIDEO_ADVICE}.")
    with atomic_path(path) as temporary:
        if path.suffix == ".mp4":
            _write_video(temporary, frames, milliseconds)
        else:
            frames[0].save(
                temporary,
                format="webp",
                save_all=True,
                append_images=list(frames[1:]),
                duration=milliseconds,
                loop=0,
                quality=90,
            )
    return path


def can_write_video() -> bool:
    """Return whether the extra `video` is installed, which mp4 files need.

    Example:
        >>> can_write_video() in (True, False)
        True
    """
    return find_spec("imageio_ffmpeg") is not None


def save_animations(path: str | os.PathLike[str], frames: Sequence[Image.Image]) -> list[Path]:
    """Write frames as `<path>.webp`, and as `<path>.mp4` where the extra `video` is installed.

    Args:
        path: the files without their ending.
        frames: pictures of one size, at least one.

    Returns:
        The paths of the files.

    Raises:
        LaceError: when there are no frames, or a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_animations(f"{folder}/walk", [Image.new("RGB", (8, 8))])[0].name
        'walk.webp'
    """
    endings = (".webp", ".mp4") if can_write_video() else (".webp",)
    return [save_animation(f"{os.fspath(path)}{ending}", frames) for ending in endings]


def _write_video(path: Path, frames: Sequence[Image.Image], milliseconds: int) -> None:
    from imageio_ffmpeg import write_frames

    width, height = frames[0].size
    # Colours of H.264 are stored for squares of 2x2 pixels.
    border = (0, height % 2, width % 2, 0)
    size = width + width % 2, height + height % 2
    writer = write_frames(
        str(path),
        size,
        fps=1000 / milliseconds,
        codec="libx264",
        macro_block_size=1,
        output_params=["-f", "mp4", "-crf", "18"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(ImageOps.expand(frame.convert("RGB"), border, "white").tobytes())
    finally:
        writer.close()

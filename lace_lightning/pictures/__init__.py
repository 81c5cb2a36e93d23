"""Pictures: conversion between bytes and [-1, 1], labelled grids, animations, PNG files."""

from .animation import can_write_video, save_animation, save_animations, walk_frames
from .convert import at_a_time, downscale, float_batches, from_bytes, to_bytes
from .grids import labelled_grid, to_picture
from .png import png_files

__all__ = [
    "at_a_time",
    "can_write_video",
    "downscale",
    "float_batches",
    "from_bytes",
    "labelled_grid",
    "png_files",
    "save_animation",
    "save_animations",
    "to_bytes",
    "to_picture",
    "walk_frames",
]

"""Labelers: image networks that give the attributes of pictures."""

from .adapters import function_labeler, library_labeler, module_labeler, script_labeler
from .clip import clip_labeler
from .digits import digit_labeler
from .face_networks import face_labeler
from .found import as_labeler
from .labeler import Labeler
from .published import published_labeler

__all__ = [
    "Labeler",
    "as_labeler",
    "clip_labeler",
    "digit_labeler",
    "face_labeler",
    "function_labeler",
    "library_labeler",
    "module_labeler",
    "published_labeler",
    "script_labeler",
]

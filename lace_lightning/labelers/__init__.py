"""From pictures to labels."""

from .clip import clip_labeler
from .foreign import function_labeler, library_labeler, script_labeler
from .network import Labeler
from .published import published_labeler

__all__ = ["Labeler", "clip_labeler", "function_labeler", "library_labeler", "published_labeler", "script_labeler"]

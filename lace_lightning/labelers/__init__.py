"""From pictures to labels."""

from .network import Labeler
from .published import published_labeler

__all__ = ["Labeler", "published_labeler"]

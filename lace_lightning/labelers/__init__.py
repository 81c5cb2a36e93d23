"""From pictures to labels."""

from .network import Labeler

__all__ = ["Labeler"]

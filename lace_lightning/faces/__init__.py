"""Networks of other people for faces, with the weights that come with this package.

The architectures are written here in plain PyTorch; `convert` makes the weights from the packages that publish them.
"""

from .age_and_gender import AgeNetwork, GenderNetwork
from .dcgan import DCGAN
from .face_api import AgeGenderNetwork, DescriptorNetwork, ExpressionNetwork, LandmarkNetwork, TinyLandmarkNetwork
from .fer import FerNetwork
from .lite0 import EfficientNetLite0
from .networks import FACE_NETWORKS, load_face_network

__all__ = [
    "DCGAN",
    "FACE_NETWORKS",
    "AgeGenderNetwork",
    "AgeNetwork",
    "DescriptorNetwork",
    "EfficientNetLite0",
    "ExpressionNetwork",
    "FerNetwork",
    "GenderNetwork",
    "LandmarkNetwork",
    "TinyLandmarkNetwork",
    "load_face_network",
]

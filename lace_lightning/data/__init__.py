"""Data modules: pairs of latents and labels, CIFAR-10, rendered portraits, folders of pictures."""

from .cifar10 import SCHEMA as CIFAR10_SCHEMA
from .cifar10 import CIFAR10DataModule, load_cifar10
from .controlled import ControlledLatents
from .faces import FACES_SCHEMA
from .folder import FolderDataModule
from .fresh import FreshBatches, FreshPairsDataModule
from .generated import GeneratedPicturesDataModule
from .given import given_pairs, read_given
from .pairs import LatentPairsDataModule, Latents, PairSet, make_pairs, pairs_key
from .portraits import PeopleDataModule, PortraitsDataModule

__all__ = ["CIFAR10_SCHEMA", "FACES_SCHEMA", "CIFAR10DataModule", "ControlledLatents", "FolderDataModule", "FreshBatches",
           "FreshPairsDataModule", "GeneratedPicturesDataModule", "LatentPairsDataModule", "Latents", "PairSet", "PeopleDataModule",
           "PortraitsDataModule", "given_pairs", "load_cifar10", "make_pairs", "pairs_key", "read_given"]

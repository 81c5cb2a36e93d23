"""Data modules: pairs of latents and labels and their pictures, CIFAR-10, CelebA, rendered portraits."""

from .celeba import CelebADataModule
from .cifar10 import SCHEMA as CIFAR10_SCHEMA
from .cifar10 import CIFAR10DataModule, load_cifar10
from .controlled import ControlledLatents
from .faces import FACES_SCHEMA, FaceBatches, FacesDataModule
from .fresh import FreshBatches, FreshPairsDataModule
from .pair_pictures import PairPicturesDataModule
from .pairs import LatentPairsDataModule, Latents, PairSet, make_pairs, pairs_key
from .portraits import PeopleDataModule, PortraitsDataModule

__all__ = ["CIFAR10_SCHEMA", "FACES_SCHEMA", "CIFAR10DataModule", "CelebADataModule", "ControlledLatents", "FaceBatches",
           "FacesDataModule", "FreshBatches", "FreshPairsDataModule", "LatentPairsDataModule", "Latents", "PairPicturesDataModule",
           "PairSet", "PeopleDataModule", "PortraitsDataModule", "load_cifar10", "make_pairs", "pairs_key"]

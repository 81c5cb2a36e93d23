"""Data modules: latent/label pairs and their pictures, CIFAR-10, CelebA, portraits, folders of pictures."""

from .celeba import CelebADataModule
from .cifar10 import SCHEMA as CIFAR10_SCHEMA
from .cifar10 import CIFAR10DataModule, load_cifar10
from .faces import FACES_SCHEMA, FaceBatches, FacesDataModule
from .folder import FolderDataModule
from .generated import GeneratedPicturesDataModule
from .imported_pairs import given_pairs, read_given
from .online_pairs import FreshBatches, FreshPairsDataModule
from .pair_pictures import PairPicturesDataModule
from .pairs import LatentPairsDataModule, Latents, PairSet, keep_pictures, make_pairs, pairs_key
from .portraits import PeopleDataModule, PortraitsDataModule

__all__ = [
    "CIFAR10_SCHEMA",
    "FACES_SCHEMA",
    "CIFAR10DataModule",
    "CelebADataModule",
    "FaceBatches",
    "FacesDataModule",
    "FolderDataModule",
    "FreshBatches",
    "FreshPairsDataModule",
    "GeneratedPicturesDataModule",
    "LatentPairsDataModule",
    "Latents",
    "PairPicturesDataModule",
    "PairSet",
    "PeopleDataModule",
    "PortraitsDataModule",
    "given_pairs",
    "keep_pictures",
    "load_cifar10",
    "make_pairs",
    "pairs_key",
    "read_given",
]

"""Data modules: latent/label pairs and their pictures, CIFAR-10, MNIST, CelebA, portraits, folders of pictures."""

from .augmentation import AugmentedBatches
from .batches import EpochBatches, TensorBatches, strided_rows
from .celeba import CelebADataModule
from .cifar10 import SCHEMA as CIFAR10_SCHEMA
from .cifar10 import CIFAR10DataModule, load_cifar10
from .digits import DigitsDataModule, load_digits
from .faces import FACES_SCHEMA, FaceBatches, FacesDataModule
from .folder import FolderDataModule
from .generated import GeneratedPicturesDataModule
from .imported_pairs import given_pairs, read_given
from .latent_files import LatentFile, LatentFolder, read_latents, write_latents
from .online_pairs import FreshBatches, FreshPairsDataModule
from .pair_pictures import PairPicturesDataModule
from .pairs import LatentPairsDataModule, Latents, PairSet, cached_pairs, keep_pictures, make_pairs, pairs_identity
from .picture_data import PictureData, Pictures, Split
from .portraits import PeopleDataModule, PortraitsDataModule
from .resumable_arrays import is_filled

__all__ = [
    "CIFAR10_SCHEMA",
    "FACES_SCHEMA",
    "AugmentedBatches",
    "CIFAR10DataModule",
    "CelebADataModule",
    "DigitsDataModule",
    "EpochBatches",
    "FaceBatches",
    "FacesDataModule",
    "FolderDataModule",
    "FreshBatches",
    "FreshPairsDataModule",
    "GeneratedPicturesDataModule",
    "LatentFile",
    "LatentFolder",
    "LatentPairsDataModule",
    "Latents",
    "PairPicturesDataModule",
    "PairSet",
    "PeopleDataModule",
    "PictureData",
    "Pictures",
    "PortraitsDataModule",
    "Split",
    "TensorBatches",
    "cached_pairs",
    "given_pairs",
    "is_filled",
    "keep_pictures",
    "load_cifar10",
    "load_digits",
    "make_pairs",
    "pairs_identity",
    "read_given",
    "read_latents",
    "strided_rows",
    "write_latents",
]

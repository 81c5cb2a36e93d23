"""Data modules: pairs of latents and labels, CIFAR-10, rendered portraits."""

from .cifar10 import SCHEMA as CIFAR10_SCHEMA
from .cifar10 import CIFAR10DataModule, load_cifar10
from .controlled import ControlledLatents
from .fresh import FreshBatches, FreshPairsDataModule
from .pairs import LatentPairsDataModule, Latents, PairSet, keep_pictures, make_pairs, pairs_key
from .portraits import PeopleDataModule, PortraitsDataModule

__all__ = ["CIFAR10_SCHEMA", "CIFAR10DataModule", "ControlledLatents", "FreshBatches", "FreshPairsDataModule", "LatentPairsDataModule",
           "Latents", "PairSet", "PeopleDataModule", "PortraitsDataModule", "keep_pictures", "load_cifar10", "make_pairs", "pairs_key"]

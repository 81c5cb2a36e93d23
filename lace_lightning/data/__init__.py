"""Data modules: pairs of latents and labels, CIFAR-10."""

from .cifar10 import SCHEMA as CIFAR10_SCHEMA
from .cifar10 import CIFAR10DataModule, load_cifar10
from .pairs import LatentPairsDataModule, PairSet, make_pairs, pairs_key

__all__ = ["CIFAR10_SCHEMA", "CIFAR10DataModule", "LatentPairsDataModule", "PairSet", "load_cifar10", "make_pairs", "pairs_key"]

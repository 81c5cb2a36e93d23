"""Control a frozen, pre-trained image generator by attribute, with latent-space energy-based models."""

__version__ = "0.1.0"

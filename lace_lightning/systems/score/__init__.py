"""Score-based diffusion models of pictures with a noise-conditional classifier."""

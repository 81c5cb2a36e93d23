"""Numerical building blocks: multi-layer perceptrons, precision, memory, cached tensors."""

"""LightningModules that train classifiers, embeddings and generators, and what their steps share."""

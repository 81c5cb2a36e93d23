"""LightningModules that train classifiers, embeddings and generators, and their shared losses and schedules."""

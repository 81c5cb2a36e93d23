# %% [markdown]
# # A reward
#
# A reward is a number for each picture that should be large. It needs no labels and no
# training, and stands beside a query or in its place. This page was run when the site
# was built.

# %%
import lace_lightning as lace
from lace_lightning.energies import Reward
from lace_lightning.pictures.convert import to_bytes
from lace_lightning.pictures.grids import labelled_grid

generator, classifier = lace.load_generator("cifar10"), lace.load_classifier("cifar10")


def darkness(images):
    """Return one number a picture; pictures (B, C, H, W) are in [-1, 1]."""
    return -images.mean((1, 2, 3))


# %% [markdown]
# As an energy it is added to that of the query. Its gradient goes through the
# generator, so that ten fixed steps are chosen here.

# %%
flow = lace.samplers.Euler(grid="cubic", num_steps=10)
seeds = range(10)
plain = lace.draw(generator, classifier, "label == ship", seeds, flow, progress=False)
dark = lace.draw(
    generator,
    classifier,
    "label == ship",
    seeds,
    flow,
    energy=Reward(darkness, weight=10).pullback(generator),
    progress=False,
)
labelled_grid([to_bytes(plain.images), to_bytes(dark.images)], ["ships", "dark ships"])

# %%
before, after = float(plain.images.mean()), float(dark.images.mean())
f"mean brightness {before:.2f} without and {after:.2f} with the reward"

# %% [markdown]
# On the command line: `energy=brightness energy.function=my_module.darkness`.
# [Rewards](../queries.html#rewards) has the settings, the samplers that need a
# gradient, and rewards of latents.

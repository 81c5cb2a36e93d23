# %% [markdown]
# # A VAE of your own
#
# You have a decoder and something that labels pictures. This page makes small ones, so
# that it runs in a minute on one core: a VAE of digits that are drawn by a font, and a
# classifier of digits. It was run when the site was built. The longer version is
# `examples/own_vae.py`.

# %%
import lace_lightning as lace
from examples.own_vae import train
from lace_lightning.pictures.convert import to_bytes
from lace_lightning.pictures.grids import labelled_grid

vae, lenet = train(epochs=15, pictures=3000)
_, judge = train(epochs=15, pictures=3000, seed=1)  # another classifier, which measures
vae

# %% [markdown]
# ## Generator
#
# Anything from z ~ N(0, I) to pictures is a generator. Of an autoencoder the part that
# decodes is found. Sizes and the range of values are found by trying.

# %%
generator = lace.as_generator(vae)
generator.z_dim, generator.image_shape, generator.low, generator.high

# %% [markdown]
# The VAE alone draws digits of no particular class:

# %%
labelled_grid([to_bytes(generator(generator.prior(10, seed=0)).detach())], ["alone"])

# %% [markdown]
# ## Latent classifier
#
# `fit` draws latents, lets the labeler look at their pictures, and trains a small
# network that sees the label in the latent. A labeler takes pictures in [-1, 1].

# %%
classifier = lace.fit(
    generator,
    lambda images: lenet((images + 1) / 2),
    "digit",
    num_pairs=2000,
    progress=False,
)
classifier.metadata["accuracy"]

# %% [markdown]
# ## Draw
#
# `digit == *` takes the classes in turn.

# %%
drawn = lace.draw(
    generator,
    classifier,
    "digit == *",
    seeds=range(100),
    judge=lambda x: judge((x + 1) / 2),
    progress=False,
)
rows = {str(digit): drawn.images[digit::10] for digit in range(10)}
labelled_grid([to_bytes(images) for images in rows.values()], list(rows))

# %%
right = sum(row["holds"] for row in drawn.table)
f"the judge sees the digit that was asked for in {right} of 100 pictures"

# %% [markdown]
# ## Edit

# %%
steps = lace.edit(generator, classifier, ["digit == 3", "digit == 8"], seeds=range(10))
labelled_grid([to_bytes(step.images) for step in steps], ["before", "3", "8"])

# %% [markdown]
# `drawn.save("digits")` writes the pictures, latents and a table. [Your own
# generator](../your_generator.html) has other kinds of generators, and [your own
# attributes](../your_attributes.html) other sources of labels.

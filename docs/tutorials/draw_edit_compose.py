# %% [markdown]
# # Draw, edit, compose
#
# A generator of faces (64×64) and a classifier of its latents come with the program.
# Both are networks that were trained once; nothing is trained here. This page is a
# program: its code was run, and its pictures were made, when the site was built.

# %%
import lace_lightning as lace
from lace_lightning.pictures.convert import to_bytes
from lace_lightning.pictures.grids import labelled_grid

generator = lace.load_generator("faces")
classifier = lace.load_classifier("faces")
classifier.schema.names


# %%
def show(rows):
    """Return pictures (rows by title) as one picture."""
    return labelled_grid([to_bytes(images) for images in rows.values()], list(rows))


# %% [markdown]
# ## Draw
#
# The generator alone draws faces of its prior. A query asks for some of them. Seed 3
# is the same starting point in both rows.

# %%
seeds = range(8)
alone = generator(generator.prior(8, seed=0)).detach()
judge = lace.labelers.face_labeler("second", attributes=["smile"])
smiling = lace.draw(
    generator, classifier, "smile == yes", seeds=seeds, judge=judge, progress=False
)
show({"alone": alone, "smile": smiling.images})

# %% [markdown]
# The judge is a network of other origin than the labeler of the classifier. The table
# has what it sees, and p(c|z) of the classifier:

# %%
smiling.table[0]

# %%
right = sum(row["holds"] for row in smiling.table)
f"the judge sees a smile in {right} of {len(smiling.table)} faces"

# %% [markdown]
# ## Compose
#
# Conditions are joined by `and`, `or` and `not`. No combination is trained: their
# energies are computed from those of the attributes.

# %%
queries = [
    "smile == yes and mouth == open",
    "mouth == open and not smile == yes",
    "smile == yes and yaw < 0.4",
    "smile == yes and yaw > 0.6",
]
rows = {}
for query in queries:
    rows[query] = lace.draw(generator, classifier, query, seeds, progress=False).images
show(rows)

# %% [markdown]
# Strength: γ counts the evidence of the classifier γ times. γ = 0 is the generator
# alone.

# %%
sampler = lace.samplers.Annealed()
rows = {}
for gamma in (0, 1, 6):
    drawn = lace.draw(
        generator,
        classifier,
        "smile == yes",
        seeds,
        sampler,
        weight=gamma,
        progress=False,
    )
    rows[f"strength {gamma}"] = drawn.images
show(rows)

# %% [markdown]
# ## Edit
#
# An edit begins at a face and changes what is asked for; the rest stays near. Every
# step can be undone.

# %%
steps = lace.edit(
    generator, classifier, ["smile == yes", "mouth == open", "yaw == 0.3"], seeds=seeds
)
titles = ["before", "smile", "mouth open", "yaw 0.3"]
show({title: step.images for title, step in zip(titles, steps, strict=True)})

# %% [markdown]
# ## On the command line
#
# ```
# lace-lightning draw "smile == yes" --experiment faces_smile --count 50
# python -m lace_lightning +experiment=faces_edit hydra.mode=RUN \
#     editing=faces_from_start metrics.num_samples=8
# ```

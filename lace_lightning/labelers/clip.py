"""Zero-shot labelers: a CLIP model compares pictures with sentences, so that no labelled pictures are needed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..classifiers import AttributeClassifier
from ..classifiers.adapter import WrappedImageNetwork, linear_of
from ..errors import LaceError
from ..schema import Attribute, Schema
from ..unpickle.state import load_state
from .labeler import Labeler

# The sentences of every class of every attribute.
Sentences = dict[str, list[list[str]]]


def parse_prompts(prompts: Mapping[str, Any], templates: Sequence[str] = ()) -> tuple[Schema, Sentences]:
    """Return the schema of prompts and the sentences of its classes.

    Args:
        prompts: for each name of an attribute a list with an entry for each class, the class without the attribute
            first, or a table of entries by the name of the class. There are at least two classes. An entry is one
            sentence or a list of several, whose embeddings are averaged.
        templates: sentences with {} in place of the word of a class; the entries of `prompts` are then words. Empty
            where the entries are sentences.

    Returns:
        A schema of discrete attributes, and the sentences of each class of each attribute. Two classes without names
        are called no and yes; with templates a class without a name is called by its word.

    Raises:
        LaceError: when there are no prompts, an attribute has fewer than two classes, a sentence is empty or belongs
            to two classes, or a template lacks {}.

    Example:
        >>> schema, sentences = parse_prompts({"breed": ["tabby", "siamese"]}, ["a {} cat"])
        >>> schema["breed"].class_names, sentences["breed"]
        (('tabby', 'siamese'), [['a tabby cat'], ['a siamese cat']])
    """
    if not isinstance(prompts, Mapping) or not prompts:
        raise LaceError(
            "Prompts must name at least one attribute and its sentences, received none: write for example "
            "labeler.prompts={hat: [a photo of a cat, a photo of a cat wearing a hat]}."
        )
    attributes, sentences = [], {}
    for name, classes in prompts.items():
        names: tuple[str, ...] = tuple(map(str, classes)) if isinstance(classes, Mapping) else ()
        entries = (
            list(classes.values())
            if isinstance(classes, Mapping)
            else [classes]
            if isinstance(classes, str)
            else list(classes or ())
        )
        if len(entries) < 2:
            raise LaceError(
                f"Attribute '{name}' needs sentences for pictures without it as well as with it, received "
                f"{len(entries)} ({', '.join(map(str, entries))}): write {name}: [a photo of a cat, a photo of a cat "
                "wearing a hat]."
            )
        texts = [
            [str(entry)] if not isinstance(entry, (list, tuple)) else [str(text) for text in entry] for entry in entries
        ]
        if not names:
            names = tuple(t[0] for t in texts) if templates else ("no", "yes") if len(texts) == 2 else ()
        bad = next((template for template in templates if "{}" not in template), None)
        if bad is not None:
            raise LaceError(
                f"A template must have {{}} where the word of a class goes, received '{bad}': write a photo of a {{}}."
            )
        texts = [
            [template.replace("{}", text) for text in group for template in templates or ("{}",)] for group in texts
        ]
        flat = [text.strip() for group in texts for text in group]
        if not all(flat) or not all(texts) or len(set(flat)) != len(flat):
            raise LaceError(
                f"The classes of attribute '{name}' must have different sentences, none of them empty, received "
                f"{' / '.join(flat)}: change one."
            )
        attributes.append(Attribute(str(name), num_classes=len(texts), class_names=names))
        sentences[str(name)] = texts
    return Schema("prompts", tuple(attributes)), sentences


class _ImageTower(nn.Module):
    """Pictures (B, 3, R, R), normalised for the model -> embeddings (B, D) of unit length."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.visual(images), dim=-1)


@torch.no_grad()
def text_head(model: nn.Module, tokenizer: Any, sentences: Sentences, scale: float) -> Tensor:
    """Return the rows scale · t_c (L, D), t_c the mean embedding of the sentences of class c, of unit length.

    Args:
        model: CLIP model with a method `encode_text`, tokens (S, T) -> embeddings (S, D).
        tokenizer: function of a list of S sentences that returns tokens (S, T).
        sentences: the sentences of each class of each attribute.
        scale: factor of the unit vectors, above 0.

    Returns:
        Rows (L, D), one for each class of each attribute in order.

    References:
        Section 3.1.4 of Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
    """
    rows = []
    for classes in sentences.values():
        for texts in classes:
            embedded = F.normalize(model.encode_text(tokenizer(texts)).float(), dim=-1)  # type: ignore[operator]
            rows.append(F.normalize(embedded.mean(0), dim=0))
    return scale * torch.stack(rows)


def clip_labeler(
    prompts: Mapping[str, Any],
    model: str = "ViT-B-16",
    weights: str | os.PathLike[str] = "openai",
    templates: Sequence[str] = (),
    scale: float | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler that compares pictures with sentences by a CLIP model of open_clip (the extra `clip`).

    Logits are scale · ⟨image, text⟩ of unit embeddings. Their softmax over the classes of an attribute is the
    probability of a class.

    Args:
        prompts: sentences of each class of each attribute, as `parse_prompts` reads them.
        model: open_clip's name of a model, or a JSON file of a model's configuration.
        weights: open_clip's tag of weights, which it downloads, or a file of weights (.safetensors, .pt), of which no
            code is run.
        templates: sentences with {} in place of the word of a class; empty where `prompts` has sentences.
        scale: factor of the cosine, above 0; None for the model's own (100 for OpenAI's).
        options: further arguments of `Labeler`: views, precision, max_batch, name, confidence.

    Returns:
        A labeler of pictures (B, 3, R, R) in [-1, 1], which are resized to the model's size.

    Raises:
        LaceError: when open_clip is not installed, the model or the weights are unknown or damaged, or the prompts are
            not as `parse_prompts` reads them.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
    """
    schema, sentences = parse_prompts(prompts, templates)
    network, tokenizer = _open_clip(model, weights)
    head = text_head(
        network, tokenizer, sentences, float(network.logit_scale.detach().exp()) if scale is None else scale
    )
    visual: Any = network.visual
    size = visual.image_size[0] if isinstance(visual.image_size, (tuple, list)) else visual.image_size
    mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
    wrapped = WrappedImageNetwork(
        _ImageTower(visual),
        linear_of(head),
        head.shape[1],
        size,
        mean or (0.48145466, 0.4578275, 0.40821073),
        std or (0.26862954, 0.26130258, 0.27577711),
    )
    classifier = AttributeClassifier(schema, "x", wrapped, {"model": Path(model).stem, "sentences": sentences})
    return Labeler(classifier, **{"name": f"clip-{Path(model).stem}-{Path(weights).stem}", **options})


def _open_clip(model: str, weights: str | os.PathLike[str]) -> tuple[Any, Any]:
    try:
        import open_clip
    except ImportError:
        raise LaceError(
            'Prompts need the package open_clip_torch, which is not installed: pip install "lace_lightning[clip]".'
        ) from None
    path, name = Path(weights), model
    # Where weights come from a file, open_clip warns on the root logger that there are none.
    logging.disable(logging.WARNING)
    try:
        if model.endswith(".json"):
            open_clip.add_model_config(model)
            name = Path(model).stem
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = open_clip.create_model(
                name, pretrained=None if path.suffix else str(weights), load_weights=not path.suffix
            )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        raise LaceError(
            f"open_clip could not give the model '{model}' with weights '{weights}' "
            f"({' '.join(str(error).split())[:160]}): see open_clip.list_pretrained() for both names, or give a file "
            "of weights."
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    if path.suffix:
        load_state(network, path, fix="check labeler.model")
    return network.eval().requires_grad_(False), tokenizer

"""What the page shows: pictures by attribute and edits, made from settings of the page by loaded networks.

A `Session` holds the networks, and nothing of a visitor: every request has all of its settings, and the same settings
give the same pictures. So visitors cannot disturb each other, and a page that is loaded again goes on where it was.
"""

from __future__ import annotations

import base64
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..classifiers import AttributeClassifier, load_embedding
from ..energies import Energy, build
from ..errors import LaceError
from ..generators import Generator
from ..pictures.convert import from_bytes
from ..pictures.png import png_files
from ..query import Query, parse
from ..samplers import Filtered, Heun, Sample, Sampler
from ..schema import Labels
from ..seeds import range_text, sample_seeds, seed_ranges
from ..systems.editing import Edited, EditOptions, Editor, parse_edit
from ..systems.outlook import expected_scores
from ..targets import free_labels, wanted_labels
from .controls import checked_query, controls_of_query

# Samples that are computed together: with it a change of the page takes less than half a second on two cores.
BLOCK = 16
# Most pictures and edits of one request.
MOST_PICTURES, MOST_EDITS = 64, 20
LARGEST_STRENGTH = 100.0
# Samples of the prior from which the probability of a query is estimated.
PRIOR_SAMPLES, PRIOR_SEED = 4096, 0
# The method of a new page: few evaluations, and an error control for each sample.
STANDARD_METHOD = "lace_heun"
# Error of continuous attributes, as conf/query has it.
SIGMA = 0.1
# States of edits, and samplers with what their pilots measured, that are kept for the next request.
KEPT_EDITS, KEPT_SAMPLERS = 64, 16
T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """A method of conf/method.

    Args:
        sampler: the sampler.
        is_hard: whether its target is the region in which every decision of the classifier is right.

    Example:
        >>> Method(Heun()).is_hard
        False
    """

    sampler: Sampler
    is_hard: bool = False


@dataclass(frozen=True)
class Start:
    """The picture that edits begin with: sample `seed` of the generator alone, or latents.

    Args:
        seed: number of the sample; None for latents.
        space: z, or w+ for one w for each style layer; of given latents.
        values: the latents (1, ...) float32 as base64 of their bytes; empty for a seed.

    Example:
        >>> start = Start.of_latents("z", torch.tensor([[0.5, -1.0]]))
        >>> Start.from_plain(start.plain()) == start, start.latents((1, 2)).tolist()
        (True, [[0.5, -1.0]])
    """

    seed: int | None = 0
    space: str = "z"
    values: str = ""

    @classmethod
    def of_latents(cls, space: str, latents: Tensor) -> Start:
        """Return the start of latents (1, ...) of a space."""
        content = latents.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()
        return cls(None, space, base64.b64encode(content).decode("ascii"))

    @classmethod
    def from_plain(cls, content: Any) -> Start:
        """Return the start of plain containers, as `plain` returns them.

        Raises:
            LaceError: for other containers, and a seed that is none.
        """
        if isinstance(content, Mapping) and content.get("values"):
            return cls(None, str(content.get("space", "z")), str(content["values"]))
        seed = content.get("seed") if isinstance(content, Mapping) else None
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise LaceError(f"A picture to edit needs the number of a seed or latents, received {seed!r}: give a seed.")
        return cls(seed_ranges(seed)[0].start)

    def plain(self) -> dict[str, Any]:
        """Return the start as plain containers."""
        return {"seed": self.seed} if self.seed is not None else {"space": self.space, "values": self.values}

    def latents(self, shape: Sequence[int]) -> Tensor:
        """Return the latents.

        Args:
            shape: the shape that they must have.

        Raises:
            LaceError: for latents of another size, and numbers that are not finite.
        """
        try:
            array = np.frombuffer(base64.b64decode(self.values, validate=True), "<f4")
        except ValueError:
            array = np.empty(0, np.float32)
        if array.size != math.prod(shape) or not np.isfinite(array).all():
            raise LaceError(
                f"The latents of a picture must be {math.prod(shape)} finite numbers of this generator, received "
                f"{array.size}: begin with a seed, or give the photograph again."
            )
        return torch.from_numpy(array.astype(np.float32).reshape(tuple(shape)))


@dataclass(frozen=True)
class PictureSettings:
    """Settings of new pictures.

    Args:
        query: the condition.
        seeds: numbers of the samples, such as "0-15" or "3, 250".
        strength: γ of N(z)·p(c|w)^γ, from 0 to 100.
        method: a name of conf/method.

    Example:
        >>> PictureSettings("smile == yes").seeds
        '0-15'
    """

    query: str
    seeds: str = f"0-{BLOCK - 1}"
    strength: float = 6.0
    method: str = STANDARD_METHOD


@dataclass(frozen=True)
class EditSettings:
    """Settings of an edited picture.

    Args:
        start: the picture before all edits.
        edits: the edits in their order.
        strength: weight of the edits, from 0 to 100.
        keeps_identity: whether the rest of the picture is held: by the proximity term and the term of attributes that
            are not edited.
        method: a name of conf/method, a flow.

    Example:
        >>> EditSettings(Start(5), ("smile == yes",)).keeps_identity
        True
    """

    start: Start
    edits: tuple[str, ...] = ()
    strength: float = 4.0
    keeps_identity: bool = True
    method: str = STANDARD_METHOD

    def options(self) -> EditOptions:
        """Return the options of the editor: all edits are solved at once from the picture before them."""
        held = EditOptions(method="from_start", weight=self.strength, sigma=SIGMA)
        return held if self.keeps_identity else replace(held, proximity=0.0, keep=0.0)


@dataclass(frozen=True)
class Figures:
    """Figures beside pictures.

    Args:
        evaluations: gradients of the energy for each picture, on average.
        seconds: wall time of sampling and drawing.
        share: probability of the query in pictures of the generator alone; None where values are free, and where
            nothing is asked for.
        expected: ACC to expect by attribute, that is what the classifier says of these pictures.

    Example:
        >>> Figures(12.0, 0.1, share=0.5).log_share
        -0.6931471805599453
    """

    evaluations: float
    seconds: float
    share: float | None = None
    expected: dict[str, float] = field(default_factory=dict)

    @property
    def log_share(self) -> float | None:
        """Log P(query); None where the share is not known or 0."""
        return math.log(self.share) if self.share else None


@dataclass(frozen=True)
class Made:
    """Pictures that were made, with their latents.

    Args:
        query: the condition; None for the generator's own pictures.
        seeds: their numbers.
        images: pictures (B, C, H, W) uint8.
        sample: their latents z (B, Dz).
        probabilities: p(c|w) (B,) of each; None where nothing is asked for.
        free: values of free attributes, B rows; None where nothing is free.
        figures: figures beside them.

    Example:
        >>> sample = Sample(torch.zeros(1, 4), 0.0, 0.0)
        >>> Made(None, (5,), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), sample, None, None, Figures(0, 0.1)).seeds
        (5,)
    """

    query: Query | None
    seeds: tuple[int, ...]
    images: Tensor
    sample: Sample
    probabilities: Tensor | None
    free: Labels | None
    figures: Figures


@dataclass(frozen=True)
class _Block:
    """Samples that were computed together.

    Args:
        sample: their latents z (B, Dz).
        images: their pictures (B, C, H, W) uint8.
        free: values of free attributes, B rows; None where nothing is free.
    """

    sample: Sample
    images: Tensor
    free: Labels | None


@dataclass(frozen=True)
class Edits:
    """One picture before and after each of its edits.

    Args:
        states: the latents before, and after each edit.
        images: their pictures (K + 1, C, H, W) uint8.
        identity: distance of the identity embedding between first and last; None without an embedding.
        figures: figures of the last edit.

    Example:
        >>> state = Edited(torch.zeros(1, 4), torch.zeros(1, 1, 4))
        >>> len(Edits((state,), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None, Figures(0, 0.1)).images)
        1
    """

    states: tuple[Edited, ...]
    images: Tensor
    identity: float | None
    figures: Figures


class Session:
    """The networks of a page, and what is made by them.

    Args:
        generator: the frozen generator.
        classifier: a classifier of its latents.
        name: name of the generator, for the page.
        run_seed: seed of the run whose samples the seeds name.
        methods: function from a name of conf/method to the method; None for the standard method alone.
        identity: name of an identity embedding; None for none.
        card: figures of the classifier, for the page.

    Raises:
        LaceError: for a classifier of another generator, and one of pictures.

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> lace = tiny_lace()
        >>> session = Session(lace.generator, lace.classifier, "tiny")
        >>> made = session.pictures(PictureSettings("hat == 1", "0-3"))
        >>> made.images.shape, made.seeds
        (torch.Size([4, 3, 16, 16]), (0, 1, 2, 3))
    """

    def __init__(
        self,
        generator: Generator,
        classifier: AttributeClassifier,
        name: str,
        run_seed: int = 1,
        methods: Callable[[str], Method] | None = None,
        identity: str | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        classifier.check_generator(generator.digest_for(classifier.space))
        if classifier.space == "x":
            raise LaceError(
                "The page needs a classifier of latents (space z, w or features), received one of pictures: set "
                "classifier=latent or classifier=latent_z."
            )
        self.generator, self.classifier = generator, classifier.eval().requires_grad_(False)
        self.schema, self.name, self.run_seed, self.card = classifier.schema, name, run_seed, dict(card or {})
        self._methods = methods or _only_standard
        self._identity_name = identity
        self._loaded: OrderedDict[str, Method] = OrderedDict()
        self._samplers: OrderedDict[Any, Sampler] = OrderedDict()
        self._edited: OrderedDict[Any, Edited] = OrderedDict()

    def pictures(self, settings: PictureSettings) -> Made:
        """Return the pictures of settings: those that `lace-lightning draw` draws by the command of `draw_command`.

        Args:
            settings: the settings; where the query asks for nothing, the generator's own pictures are returned.

        Raises:
            LaceError: for a wrong query, seeds, strength or method, and too many pictures.
        """
        query, ranges = checked_query(settings.query, self.schema), seeds_of(settings.seeds)
        check_strength(settings.strength)
        began = time.perf_counter()
        method = self.method(settings.method)
        seeds = tuple(number for part in ranges for number in part)
        blocks = {
            block: self._block(query, method, settings, block)
            for block in dict.fromkeys(number // BLOCK * BLOCK for number in seeds)
        }
        # In the order in which the seeds are named.
        rows = [(blocks[number // BLOCK * BLOCK], slice(number % BLOCK, number % BLOCK + 1)) for number in seeds]
        images = torch.cat([block.images[row] for block, row in rows])
        samples = [block.sample.rows(row) for block, row in rows]
        z = torch.cat([sample.z for sample in samples])
        sample = Sample(z, float(np.mean([_evaluations(one) for one in samples])), 0.0)
        free = Labels.cat([block.free[row] for block, row in rows if block.free is not None]) if query.free else None
        seconds = time.perf_counter() - began
        if not query.asks:
            return Made(None, seeds, images, sample, None, None, Figures(0.0, seconds))
        probabilities = self._probabilities(query, z, free)
        figures = Figures(sample.evaluations, seconds, self.share(query), self._expected(query, z, free))
        return Made(query, seeds, images, sample, probabilities, free, figures)

    def method(self, name: str) -> Method:
        """Return a method of conf/method, which is built once.

        Args:
            name: its name.

        Raises:
            LaceError: for an unknown name, and a method whose pictures a labeler checks.
        """
        method = _kept(self._loaded, name, KEPT_SAMPLERS, lambda: self._methods(name))
        if isinstance(method.sampler, Filtered):
            raise LaceError(
                f"The method '{name}' checks its pictures by a labeler, which the page does not load: choose another "
                "method, or use lace-lightning draw."
            )
        return method

    @property
    def standard_sampler(self) -> Heun:
        """The sampler of the standard method, which a page without a server computes."""
        sampler = self.method(STANDARD_METHOD).sampler
        assert isinstance(sampler, Heun)
        return sampler

    def _block(self, query: Query, method: Method, settings: PictureSettings, block: int) -> _Block:
        """Return the block of samples that begins with a number.

        A block is always computed as a whole, as `Drawing` does it, so that a picture does not depend on the others.
        """
        generator = self.generator
        z = generator.prior(BLOCK, self.run_seed, block, generator.device)
        free = free_labels(query, BLOCK, self.run_seed, block)
        if not query.asks:
            sample = Sample(z, 0.0, 0.0)
        else:
            weight = settings.strength
            energy = self._energy(query, free, weight, method.is_hard)

            def calibrated() -> Sampler:
                first = free_labels(query, BLOCK, self.run_seed)
                return method.sampler.calibrated(self._energy(query, first, weight, method.is_hard), z)

            sampler = _kept(self._samplers, (query.text, settings.method, weight), KEPT_SAMPLERS, calibrated)
            seeds = sample_seeds(BLOCK, self.run_seed, block).to(generator.device)
            sample = sampler(energy, z, seeds=seeds)
        with torch.no_grad():
            return _Block(sample, generator.pictures(generator.mapping(sample.z)).cpu(), free)

    def _energy(self, query: Query, free: Labels | None, weight: float = 1.0, is_hard: bool = False) -> Energy:
        """Return the energy of a query on z (B, Dz); with weight 1 that of the event itself, -log p(c|w)."""
        part = self.classifier.part(query.attributes)
        free = None if free is None else free.to(self.generator.device)
        energy = part.energy(query, free, sigma=SIGMA, weight=weight, hard=is_hard)
        return energy.pullback(self.generator.map_to(self.classifier.space))

    @torch.no_grad()
    def _probabilities(self, query: Query, z: Tensor, free: Labels | None = None) -> Tensor:
        """Return p(c|w) (B,) of latents z (B, Dz)."""
        probabilities: Tensor = (-self._energy(query, free)(z)).exp().cpu()
        return probabilities

    @torch.no_grad()
    def _points(self, z: Tensor) -> Tensor:
        """Return the points of the classifier's space of latents z (B, Dz)."""
        to_space = self.generator.map_to(self.classifier.space)
        result: Tensor = z if to_space is None else to_space(z)
        return result

    @cached_property
    def prior_logits(self) -> Tensor:
        """Logits (N, num_logits) of samples of the prior."""
        z = self.generator.prior(PRIOR_SAMPLES, PRIOR_SEED, 0, self.generator.device)
        with torch.no_grad():
            result: Tensor = self.classifier(self._points(z))
        return result

    @torch.no_grad()
    def share(self, query: Query) -> float | None:
        """Return the probability of a query in pictures of the generator alone, as the classifier sees them.

        Args:
            query: the condition.

        Returns:
            The mean of p(c|w) over 4096 samples of the prior; None where values are free or nothing is asked for.
        """
        if query.free or not query.asks:
            return None
        return float((-build(query, sigma=SIGMA)(self.prior_logits)).exp().mean())

    @torch.no_grad()
    def _expected(self, query: Query, z: Tensor, free: Labels | None) -> dict[str, float]:
        """Return by attribute the ACC that the classifier expects; empty where a query is no conjunction of ==."""
        wanted = wanted_labels(query, len(z), free)
        logits = self.classifier(self._points(z)).cpu()
        result = {}
        for name in query.attributes:
            if bool(wanted.known[:, self.schema.index(name)].all()) and query.is_conjunction:
                own = self.schema.part([name])
                scores = expected_scores(own, logits[:, self.schema.slices[name]], wanted.part(own), SIGMA)
                result[name] = float(scores.mean())
        return result

    def start_state(self, start: Start) -> Edited:
        """Return the state before any edit.

        Args:
            start: the picture to edit.

        Raises:
            LaceError: for latents of another generator.
        """
        editor, generator = self._editor(EditSettings(start)), self.generator
        if start.seed is not None:
            return editor.begin(generator.prior(1, self.run_seed, start.seed, generator.device))
        if start.space == "z":
            return editor.begin(start.latents((1, generator.z_dim)).to(generator.device))
        return editor.begin_styles(start.latents((1, generator.num_ws, generator.w_dim)).to(generator.device))

    def _editor(self, settings: EditSettings) -> Editor:
        method = self.method(settings.method)
        if not method.sampler.is_flow:
            raise LaceError(
                f"Edits of the page follow a flow, and the method '{settings.method}' is none: choose lace_heun or "
                "another method that begins with lace_."
            )
        return Editor(self.generator, self.classifier, method.sampler, settings.options())

    def edited(self, settings: EditSettings) -> Edits:
        """Return a picture before and after each of its edits, as `lace-lightning edit` makes them.

        Undo and take-back are the same settings without an edit: all edits are solved from the picture before them.

        Args:
            settings: the settings.

        Raises:
            LaceError: for a wrong edit, strength or method, latents of another generator, and too many edits.
        """
        if len(settings.edits) > MOST_EDITS:
            raise LaceError(
                f"A picture of the page has at most {MOST_EDITS} edits, received {len(settings.edits)}: take one back."
            )
        check_strength(settings.strength)
        queries = [parse_edit(edit, self.schema) for edit in settings.edits]
        editor, began = self._editor(settings), time.perf_counter()
        # As lace-lightning edit numbers the first row of a file.
        seeds = sample_seeds(1, self.run_seed, 0).to(self.generator.device)
        states = [_kept(self._edited, settings.start, KEPT_EDITS, lambda: self.start_state(settings.start))]
        for count, query in enumerate(queries, 1):
            key = replace(settings, edits=tuple(str(one) for one in queries[:count]))
            before = states[-1]
            states.append(_kept(self._edited, key, KEPT_EDITS, lambda: editor.apply(before, query, seeds)))  # noqa: B023
        with torch.no_grad():
            # One by one, because rounding depends on the pictures that are computed together.
            images = torch.cat([self.generator.pictures(state.ws).cpu() for state in states])
        figures = Figures(
            states[-1].evaluations,
            time.perf_counter() - began,
            self._share_of_edits(states[-1].edits),
            self._expected_of_edits(states[-1]),
        )
        return Edits(tuple(states), images, self._identity(images), figures)

    def _share_of_edits(self, edits: Sequence[Query]) -> float | None:
        """Return the probability of all edits together, None without edits."""
        return self.share(parse(" and ".join(f"({edit})" for edit in edits), self.schema)) if edits else None

    @torch.no_grad()
    def _expected_of_edits(self, state: Edited) -> dict[str, float]:
        result: dict[str, float] = {}
        if state.z is not None:
            for query in state.edits:
                result |= self._expected(query, state.z, None)
        return result

    def _identity(self, images: Tensor) -> float | None:
        if self._identity_name is None or len(images) < 2:
            return None
        ends = from_bytes(images[[0, -1]])
        return float(self._embedding.distance(ends[:1], ends[1:]))

    @cached_property
    def _embedding(self) -> Any:
        return load_embedding(self._identity_name)

    def warm_up(self) -> None:
        """Compute once what later requests need, so that the first change is as fast as the others."""
        _ = self.prior_logits
        if self._identity_name is not None:
            _ = self._embedding


def _only_standard(name: str) -> Method:
    if name != STANDARD_METHOD:
        raise LaceError(f"This page has the method {STANDARD_METHOD} alone, received '{name}': choose it.")
    return Method(Heun())


def seeds_of(text: str) -> list[range]:
    """Return the numbers of a line of seeds.

    Args:
        text: numbers and ranges with their end.

    Raises:
        LaceError: for wrong seeds, and more than 64.

    Example:
        >>> seeds_of("0-2, 7")
        [range(0, 3), range(7, 8)]
    """
    ranges = seed_ranges(text)
    count = sum(map(len, ranges))
    if count > MOST_PICTURES:
        raise LaceError(
            f"The page shows at most {MOST_PICTURES} pictures, and the seeds {range_text(ranges)} are {count}: name "
            "fewer, or use lace-lightning draw."
        )
    return ranges


def check_strength(strength: float) -> None:
    """Refuse a strength out of range.

    Args:
        strength: γ.

    Raises:
        LaceError: for a strength below 0 or above 100.
    """
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= LARGEST_STRENGTH:
        raise LaceError(f"The strength must be a number from 0 to {LARGEST_STRENGTH:g}, received {strength!r}.")


def _evaluations(sample: Sample) -> float:
    own = sample.diagnostics.get("per_sample", sample.evaluations)
    return float(own.mean() if isinstance(own, Tensor) else own)


def _kept(store: OrderedDict[Any, T], key: Any, size: int, make: Callable[[], T]) -> T:
    """Return what is kept under a key, or make it; of more than `size` the oldest is forgotten."""
    if key not in store:
        store[key] = make()
    store.move_to_end(key)
    while len(store) > size:
        store.popitem(last=False)
    return store[key]


def png_of(images: Tensor) -> list[bytes]:
    """Return pictures as the contents of PNG files.

    Args:
        images: pictures (B, C, H, W) uint8.
    """
    return list(png_files(images.permute(0, 2, 3, 1).contiguous().numpy()))


def answer_of_pictures(made: Made) -> dict[str, Any]:
    """Return pictures as plain containers, for the page.

    Args:
        made: the pictures, from `Session.pictures`.
    """
    shown = made.probabilities.tolist() if made.probabilities is not None else [None] * len(made.seeds)
    return {
        "query": "anything" if made.query is None else made.query.text,
        "controls": {} if made.query is None else controls_of_query(made.query),
        "pictures": [
            {
                "seed": seed,
                "png": _base64(png),
                "p": p,
                "start": Start.of_latents("z", made.sample.z[row : row + 1]).plain(),
            }
            for row, (seed, png, p) in enumerate(zip(made.seeds, png_of(made.images), shown, strict=True))
        ],
        "figures": _plain_figures(made.figures),
    }


def answer_of_edits(edits: Edits) -> dict[str, Any]:
    """Return an edited picture as plain containers, for the page.

    Args:
        edits: the states, from `Session.edited`.
    """
    return {
        "pictures": [_base64(png) for png in png_of(edits.images)],
        "edits": [str(edit) for edit in edits.states[-1].edits],
        "identity": edits.identity,
        "figures": _plain_figures(edits.figures),
    }


def _plain_figures(figures: Figures) -> dict[str, Any]:
    return {**vars(figures), "log_share": figures.log_share}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")

"""Drawing of samples by number into a folder, which goes on where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import progress
from ..errors import LaceError
from ..generators import sample_seeds
from ..labelers import Labeler
from ..metrics import judged_labels
from ..pictures.animation import VIDEO_ADVICE, can_write_video, save_animations, walk_frames
from ..query import Query
from ..schema import Labels
from ..seeds import range_text
from ..systems.base import Drawn, System
from ..systems.handover import Piece, SampleFolder, blocks_of, caption_of, write_pieces
from ..targets import free_labels
from .evaluation import Evaluation, ResultTable, SystemEvaluation, agreed, announce, with_disagreement

# Name of the animation of a walk, without its ending.
WALK = "walk"
# Keys of a folder's recipe that are known after the training alone.
DIGESTS = ("system_digest", "generator_digest")


class Drawing(SystemEvaluation):
    """Draw samples of a query by their numbers, and write them to a folder as `SampleFolder` does.

    Sample i has the starting point, the noise and the free values that sample i of a measurement with the same seed
    has. It is computed in its block of `batch_size` samples, all of which are computed where one of them is asked for.

    Args:
        judge: the network that labels the pictures.
        query: the condition.
        folder: the folder.
        seeds: numbers of the samples, ranges without a number in common, at least one sample.
        recipe: plain values that the samples depend on; a folder of another recipe is refused.
        walk_to: the condition of the other end of an animated walk of the first samples; None for no walk.
        walk_frames: frames from one end to the other, at least 1.
        walk_samples: samples in the animation, at least 1.
        judged: whether the judge labels the pictures, which can take longer than drawing them.
        settings: `batch_size`, `seed`, `progress`, `report` and `role`, see `SystemEvaluation`.

    Example:
        >>> import tempfile
        >>> from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> lace, query = tiny_lace(), parse("hat == 1", tiny_schema())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     drawing = Drawing(tiny_labeler(), query, folder, [range(2)], {}, batch_size=2, progress=False)
        ...     figures = drawing.evaluate(lace).metrics
        ...     (Path(folder) / "0001.png").is_file(), figures["drawn"]
        (True, 2.0)
    """

    needs_data = False

    def __init__(
        self,
        judge: Labeler,
        query: Query,
        folder: str | os.PathLike[str],
        seeds: Sequence[range],
        recipe: Mapping[str, Any],
        walk_to: Query | None = None,
        walk_frames: int = 24,
        walk_samples: int = 8,
        judged: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(judge, num_samples=sum(map(len, seeds)), **settings)
        self.query, self.target, self.seeds, self.walk_to = query, Path(folder), list(seeds), walk_to
        self.recipe, self.judged = dict(recipe), judged
        self.walk_frames, self.walk_samples = walk_frames, walk_samples

    def check(self, system: System) -> None:
        """Refuse a query that the system cannot draw, and a walk without latents.

        Raises:
            LaceError: for such a query or walk.
        """
        for query in (self.query, *([] if self.walk_to is None else [self.walk_to])):
            query.on(system.schema)
            system.check_query(query)
        if self.walk_to is not None and system.space == "x" and not system.compared:
            raise LaceError(
                f"A walk goes from latent to latent, and {type(system).__name__} draws pictures: leave the walk out, "
                "or set model=none for LACE."
            )

    def measure(self, system: System, device: torch.device, rank: int, world_size: int) -> Evaluation:
        digests = dict(zip(DIGESTS, (system.digest, system.generator.digest), strict=True))
        folder = SampleFolder(
            self.target,
            self.num_samples,
            {**self.recipe, **digests},
            title=self.query.text,
            caption=caption_of(self.query),
            rank=rank,
        )
        with folder as out:
            if not out.is_finished():
                self._prepare(system, self.query, device)
            self._draw(system, device, out, rank, world_size)
        # The first process goes on when the others have written their part.
        agreed(True)
        if rank > 0:
            return Evaluation({"drawn": float(self.num_samples)})
        protocol = self.protocol(system, device)
        report = folder.finish({**protocol, **self.report})
        summary = f"{self.num_samples} pictures of '{self.query}' in {self.target}"
        metrics = {"drawn": float(self.num_samples)}
        if "holds" in report:
            metrics["holds"] = report["holds"]
            summary += f"; the {self.role} sees the query in {report['holds']:.1%} of them"
            if self.role == "labeler":
                summary += " (it made the labels, and no independent judge was asked)"
        if self.walk_to is not None:
            summary += self._walk(system, device)
        rows = with_disagreement(folder.first_rows(self.table))
        return Evaluation(metrics, protocol, summary=summary, tables={"samples": ResultTable.of(rows)} if rows else {})

    def protocol(self, system: System, device: torch.device) -> dict[str, Any]:
        """Return the settings behind the samples, for the record."""
        common = self._common_protocol(system, device)
        # The report counts the samples, and no distance is measured.
        del common["num_samples"], common["frechet"]
        return {
            "query": self.query.text,
            "seeds": range_text(self.seeds),
            **common,
            **({} if self.judged else {"judge": None, "judge_digest": None, "judged_by": None}),
            **system.protocol(self.query),
        }

    def draw(self, system: System, query: Query, block: int, device: torch.device) -> tuple[Drawn, Labels | None]:
        """Return the samples of a block, and the values of free attributes.

        Args:
            system: the system.
            query: the condition.
            block: number of the first sample.
            device: device of the samples.
        """
        free = free_labels(query, self.batch_size, self.seed, block)
        z = system.generator.prior(self.batch_size, self.seed, block, device)
        return system.draw(query, z, sample_seeds(self.batch_size, self.seed, block).to(device), free), free

    def _prepare(self, system: System, query: Query, device: torch.device) -> None:
        """Let the sampler measure its settings on the same samples, whichever are drawn."""
        free = free_labels(query, self.batch_size, self.seed)
        system.prepare(query, system.generator.prior(self.batch_size, self.seed, 0, device), free)
        announce(system)

    def _draw(self, system: System, device: torch.device, out: SampleFolder, rank: int, world_size: int) -> None:
        with progress.bar(f"drawing ({system.title})", self.num_samples, "picture", self.progress and rank == 0) as bar:
            for index, (block, pieces) in enumerate(blocks_of(self.seeds, self.batch_size)):
                if index % world_size == rank:
                    missing = [piece for piece in pieces if not out.has(piece.position, piece.count)]
                    if missing:
                        self._write(system, device, out, block, missing)
                bar.update(sum(piece.count for piece in pieces))

    def _write(
        self, system: System, device: torch.device, out: SampleFolder, block: int, pieces: Sequence[Piece]
    ) -> None:
        drawn, free = self.draw(system, self.query, block, device)

        def judged(rows: slice) -> Labels | None:
            return self.seen(drawn.images[rows])

        write_pieces(out, system, self.query, drawn, block, pieces, judged, free, self.role)

    def seen(self, images: Tensor) -> Labels | None:
        """Return the labels that the judge sees in pictures (B, C, H, W) uint8, None where it is left out."""
        return judged_labels(self.query.schema, self._judge(images)[1]) if self.judged else None

    def _walk(self, system: System, device: torch.device) -> str:
        """Write the animation of a walk, unless it is there; return what to say."""
        assert self.walk_to is not None
        if not (self.target / f"{WALK}.webp").is_file():
            ends = []
            for query in (self.query, self.walk_to):
                self._prepare(system, query, device)
                ends.append(self._first_latents(system, query, device))
            save_animations(self.target / WALK, self._frames(system, ends))
        files = f"; a walk to '{self.walk_to}' in {WALK}.webp"
        return f"{files} and {WALK}.mp4" if can_write_video() else f"{files} (for an mp4: {VIDEO_ADVICE})"

    def _first_latents(self, system: System, query: Query, device: torch.device) -> Tensor:
        """Return w, or z without w, of the samples at the first positions."""
        found: dict[int, Tensor] = {}
        for block, pieces in blocks_of(self.seeds, self.batch_size):
            wanted = [
                (piece.position + row, piece.number - block + row)
                for piece in pieces
                for row in range(piece.count)
                if piece.position + row < self.walk_samples
            ]
            if wanted:
                latents = system.latents_of(self.draw(system, query, block, device)[0].sample)
                found |= {position: latents["w" if "w" in latents else "z"][row] for position, row in wanted}
            if len(found) == min(self.walk_samples, self.num_samples):
                break
        return torch.stack([found[position] for position in sorted(found)])

    def _frames(self, system: System, ends: Sequence[Tensor]) -> list[Image.Image]:
        assert self.walk_to is not None
        titles = [self.query.text, self.walk_to.text]
        return walk_frames(ends, titles, system.generator.pictures, self.walk_frames)

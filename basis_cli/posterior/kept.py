"""Samples in files as they are drawn, so that an evaluation that was killed goes on with what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from .. import checkpoint
from ..compute import Compute, Sharing
from ..data.files import remove_partial
from ..errors import InputError
from ..samplers import Progress, Watch, unwatched
from ..samplers.noise import PerImageNoise
from .base import Posterior
from .ranking import Ranked
from .runner import Drawn, drawn


class Kept:
    """Draws samples a batch of inputs at a time and keeps each batch in a file of ``folder``; those there are read.

    It stands where other processes would: see :class:`basis_cli.compute.Sharing`.

    A file's name is a hash of all that its samples depend on, so a folder may hold those of several evaluations.

    Args:
        about: what they depend on besides the posterior's settings, inputs and seeds: names and hashes; JSON.
        sharing: who draws, ``workers`` batches at a time; ``None``: this process, which tells ``watch`` of its steps.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        sharing: Sharing | None = None,
        workers: int = 1,
        watch: Watch = unwatched,
    ):
        self.folder, self.about = folder, about
        self.sharing, self.workers, self.watch = sharing, workers, watch

    def drawn(
        self, posterior: Posterior, y: Tensor, seeds: Sequence[Sequence[int]], compute: Compute, rank: bool
    ) -> Drawn:
        """As :func:`basis_cli.posterior.drawn`; ``seconds`` are those in which the samples were drawn, now or before.

        Raises:
            InputError: a file cannot be read.
            BasisError: a file cannot be written; and what drawing raises.
        """
        samples = len(seeds[0])
        with compute.inference():
            batch = compute.batch or posterior.batch_size(len(y) * samples, compute.place)
        size = max(1, batch // samples) * self.workers
        firsts = range(0, len(y), size)

        def part(i: int) -> Drawn:
            def watch(progress: Progress) -> None:
                self.watch(replace(progress, batch=i, batches=len(firsts)))

            chosen = slice(firsts[i], firsts[i] + size)
            file = self.folder / f"{self._name(posterior, y[chosen], seeds[chosen], compute, rank)}.safetensors"
            if file.exists():
                return _read(file)
            remove_partial([file])
            how = replace(compute, sharing=self.sharing)
            watched = unwatched if self.watch is unwatched else watch
            found = drawn(posterior, y[chosen], seeds[chosen], compute=how, rank=rank, watch=watched)
            _write(file, found)
            return found

        parts = [part(i) for i in range(len(firsts))]
        ranked = [one for found in parts for one in found.ranked]
        return Drawn(ranked, parts[-1].evaluations, sum(found.seconds for found in parts))

    def _name(
        self, posterior: Posterior, y: Tensor, seeds: Sequence[Sequence[int]], compute: Compute, rank: bool
    ) -> str:
        probe = PerImageNoise([0]).uniform((posterior.operator.k, 1, *posterior.shape))
        about = self.about | posterior.described() | compute.described() | {"seeds": seeds, "rank": rank}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for tensor in (y, posterior.operator(probe)):
            name.update(f"{tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
        return name.hexdigest()[:32]


def _write(file: Path, found: Drawn) -> None:
    each = found.ranked
    tensors = {
        "x": torch.stack([one.x for one in each]),
        "log_likelihood": torch.stack([one.log_likelihood for one in each]),
        "answer": torch.tensor([one.answer for one in each]),
        "drawn": torch.tensor([one.drawn for one in each]),
    }
    numbers = {"evaluations": found.evaluations, "seconds": found.seconds}
    checkpoint.write(file, tensors, {"format": "basis-samples"} | {name: repr(n) for name, n in numbers.items()})


def _read(file: Path) -> Drawn:
    try:
        tensors, about = checkpoint.read(file)
        names = ("x", "log_likelihood", "answer", "drawn")
        rows = zip(*(tensors[name].unbind() for name in names), strict=True)
        ranked = [Ranked(x, score, answer.tolist(), order.tolist()) for x, score, answer, order in rows]
        return Drawn(ranked, float(about["evaluations"]), float(about["seconds"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"cannot read the samples in {file}: {error}", "remove it") from error

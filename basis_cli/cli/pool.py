"""Processes that draw samples together: ``--workers`` of ``evaluate``, ``bench`` and ``reproduce``."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import BasisError, UsageError
from .engines import Processes
from .options import WorkerCount
from .workers import Answered, Chunk, Lost, attempted, shared

if TYPE_CHECKING:
    from torch import Tensor

    from ..compute import Compute
    from ..posterior import Drawn, Posterior


@dataclass(frozen=True)
class Part:
    """What a process is given at a time: the samples of some pictures of a posterior that is in a file."""

    posterior: Path
    pictures: Sequence[int]


class Drawing:
    """A process of a :class:`Pool` at work. It reads each posterior once."""

    def __init__(self, device: str | None, workers: int):
        self.device, self.workers = device, workers
        self.read: tuple[Path, Any] | None = None

    def __call__(self, part: Part) -> Answered | BasisError | Lost:
        return attempted(lambda: Answered([self._drawn(part)], 0))

    def _drawn(self, part: Part) -> dict[str, Any]:
        import torch

        from ..posterior import drawn

        if self.read is None:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.workers))
        if self.read is None or self.read[0] != part.posterior:
            read = torch.load(part.posterior, map_location=self.device, weights_only=False)  # our own, of this run
            self.read = part.posterior, read
        posterior, y, seeds, compute, rank = self.read[1]
        compute = replace(compute, device=self.device) if self.device else compute
        chosen = list(part.pictures)
        found = drawn(posterior, y[chosen].cpu(), [seeds[i] for i in chosen], compute=compute, rank=rank)
        # as bytes: torch would pass the tensors on as shared memory, a file for each
        return {"pictures": chosen, "drawn": pickle.dumps(found)}


class Pool(Processes):
    """Processes that stay for the next posterior; see :class:`basis_cli.compute.Sharing`.

    Raises:
        UsageError: there is no GPU for ``--workers gpus``.
    """

    def __init__(self, workers: WorkerCount, quiet: bool = True):
        super().__init__(Drawing, workers, 10**9, None)
        self.quiet = quiet
        self._folder = tempfile.TemporaryDirectory()
        self._posteriors, self.posterior = 0, Path(self._folder.name) / "0.pt"

    def drawn(
        self, posterior: Posterior, y: Tensor, seeds: Sequence[Sequence[int]], compute: Compute, rank: bool
    ) -> Drawn:
        """As :func:`basis_cli.posterior.drawn`.

        Raises:
            UsageError: the posterior is of objects that cannot be sent to another process.
            BasisError: a worker failed, or was lost with the same picture again and again.
        """
        from ..posterior import Drawn

        began = time.perf_counter()
        self._write((posterior, y, seeds, compute, rank))
        found: dict[int, Any] = {}
        evaluations = 0.0
        names = [(f"picture {i}", str(i)) for i in range(len(y))]
        for records, failures in shared(self, names, self.quiet):
            if failures:
                raise BasisError("not all pictures could be drawn", "without --workers")
            for record in records:
                part = pickle.loads(record["drawn"])
                found |= zip(record["pictures"], part.ranked, strict=True)
                evaluations = part.evaluations
        return Drawn([found[i] for i in range(len(y))], evaluations, time.perf_counter() - began)

    def _write(self, job: tuple[Any, ...]) -> None:
        import torch

        self.posterior.unlink(missing_ok=True)
        self._posteriors += 1
        self.posterior = Path(self._folder.name) / f"{self._posteriors}.pt"
        try:
            torch.save(job, self.posterior)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(f"this posterior cannot be sent to workers: {error}", "leave out --workers") from error

    def begin(self, slot: int) -> Future[Any]:
        try:
            return self._pools[slot].submit(_awake)
        except (KeyError, BrokenProcessPool):
            return super().begin(slot)

    def give(self, work: Sequence[tuple[int, Chunk]]) -> list[Future[Any]]:
        return [self._given(slot, Part(self.posterior, [int(i) for _, i in chunk.pairs])) for slot, chunk in work]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Of one posterior: unless something is wrong, the processes stay for the next."""
        if kind is not None:
            super().__exit__(kind, error, at)

    def close(self) -> None:
        super().__exit__(None, None, None)
        self._folder.cleanup()


def _awake() -> None:
    """A process that is there is ready."""

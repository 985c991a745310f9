"""One command's pictures shared among processes. A picture's answer does not depend on who computes it.

Importing this does not import torch, nor does the process that shares the work out: each worker loads the prior once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UsageError
from .options import WorkerCount
from .output import fail, sharing_progress, warnings_as_lines

if TYPE_CHECKING:
    from .job import Job

MOST = 16
"""Pictures that a worker is given at a time."""
TRIES = 3
"""How often a picture is begun whose worker was killed, before it counts as failed."""
Pairs = Sequence[tuple[str, str]]
"""Inputs and their stems."""


@dataclass(frozen=True)
class Chunk:
    """What a worker is given at a time."""

    pairs: Pairs
    tries: int = 0


def shared(
    given: tuple[Any, ...], pairs: Pairs, workers: WorkerCount, quiet: bool
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Records of answers and how many inputs failed, from each chunk of ``pairs`` as it is done.

    ``given`` is what a :class:`~basis_cli.cli.job.Job` is made of, without its inputs. When a worker is killed, the
    others' pictures go on in new processes, and those it may have had are done one by one, each at most
    :data:`TRIES` times.

    Raises:
        UsageError: no GPU for ``--workers gpus``.
        BasisError: what a worker raised; the others' answers are kept.
    """
    devices = _gpus() if workers.gpus else [None] * min(workers.count, len(pairs))
    if not pairs:
        return
    size = max(1, min(MOST, len(pairs) // (2 * len(devices))))
    waiting = deque(Chunk(pairs[first : first + size]) for first in range(0, len(pairs), size))
    suspects: deque[Chunk] = deque()
    with sharing_progress(len(pairs), quiet) as advance:
        while waiting or suspects:
            alone = not waiting
            found = _until_broken(given, suspects if alone else waiting, devices[: 1 if alone else None])
            for chunk, done in found:
                if done is None:
                    again, lost = _suspected(chunk)
                    suspects += again
                    yield [], lost
                    advance(lost)
                else:
                    yield done
                    advance(len(chunk.pairs))


def _gpus() -> list[str | None]:
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise UsageError("there is no GPU for --workers gpus", "--workers 2")
    return [f"cuda:{i}" for i in range(count)]


def _suspected(chunk: Chunk) -> tuple[list[Chunk], int]:
    """What to try again of a chunk whose worker may have been killed by it, one by one; and how many are given up."""
    tries = chunk.tries + 1
    if tries < TRIES:
        return [Chunk([pair], tries) for pair in chunk.pairs], 0
    for name, _ in chunk.pairs:
        fail(InputError(f"{name}: the process at work on it was ended {tries} times", "too little memory?"))
    return [], len(chunk.pairs)


Done = tuple[list[dict[str, Any]], int]


def _until_broken(
    given: tuple[Any, ...], waiting: deque[Chunk], devices: Sequence[str | None]
) -> Iterator[tuple[Chunk, Done | None]]:
    """Chunks that are done, until all are or a worker was killed: then those that were at work, with ``None``."""
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for device in devices:
        places.put(device)
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    pool = ProcessPoolExecutor(len(devices), context, _begin, (given, places, threads))
    at_work: dict[Future[Done], Chunk] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < len(devices):
                chunk = waiting.popleft()
                at_work[pool.submit(_do, chunk.pairs)] = chunk
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                done = future.result()
                yield at_work.pop(future), done
        pool.shutdown()
    except BrokenProcessPool:
        pool.shutdown(cancel_futures=True)
        yield from [(chunk, None) for chunk in at_work.values()]
    except BaseException:  # a mistake of the user's that all would make, or Ctrl-C: what is written is whole
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise


_job: Job | None = None
"""A worker's own, with its prior."""


def _begin(given: tuple[Any, ...], places: Any, threads: int) -> None:
    """Make ready in a worker's process."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that shares the work out
    import torch

    from .job import Job

    torch.set_num_threads(threads)
    task, model, sampling, compute, several, tiles, output, options = given
    device = places.get()
    compute = replace(compute, device=device) if device else compute
    output = replace(output, quiet=True, workers=WorkerCount())
    _job = Job(task, [], model, sampling, compute, several, tiles, output, options)


def _do(pairs: Pairs) -> Done:
    """The records of answers to these inputs, and how many failed."""
    assert _job is not None
    with warnings_as_lines():
        if not _job.shape[0]:
            _job.load()
        _job.records, _job.failures = [], 0
        try:
            _job.answer(pairs)
        except InputError as error:  # nothing of the chunk can be answered
            fail(error)
            return _job.records, len(pairs) - len(_job.records)
        return _job.records, _job.failures

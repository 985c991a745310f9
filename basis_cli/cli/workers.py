"""One command's pictures shared among workers: processes here, or on other machines (:mod:`basis_cli.cli.engines`).

A picture's answer does not depend on who computes it. Importing this does not import torch, nor does the process that
shares the work out: each worker loads the prior once.
"""

from __future__ import annotations

import io
import json
import math
import os
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BasisError, InputError, WeightsError, out_of_memory
from .options import WorkerCount
from .output import fail, sharing_progress, warnings_as_lines

if TYPE_CHECKING:
    from .engines import Engine
    from .job import Job

TRIES = 3
"""How often a picture is begun whose worker is lost, before it counts as failed."""
Pairs = Sequence[tuple[str, str]]
"""Inputs and their stems."""


@dataclass(frozen=True)
class Chunk:
    """What a worker is given at a time."""

    pairs: Pairs
    tries: int = 0
    """How often it was begun before."""
    contents: Mapping[str, bytes] | None = None
    """Of the inputs and other files, for a worker that sees no folder of this machine."""


@dataclass(frozen=True)
class Answered:
    """What became of a chunk."""

    records: list[dict[str, Any]]
    failures: int
    """Inputs that have no answer."""
    said: str = ""
    """Lines for the user of a worker on another machine."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """To write here, of a worker that sees no folder of this machine; an input's record is the last of its own."""


class Lost(Exception):
    """The worker is gone, or its memory: the work may be done by another."""


def shared(engine: Engine, pairs: Pairs, quiet: bool) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Records of answers and how many inputs failed, from each chunk of ``pairs`` as it is done.

    When a worker is lost, the others go on, and what it was at work on is done again in smaller chunks, at most
    :data:`TRIES` times: in the end one by one, so that a picture that ends its process is found.

    Raises:
        BasisError: what a worker raised, or no worker starts; the others' answers are kept.
    """
    size = engine.at_a_time(len(pairs))
    waiting = deque(Chunk(pairs[first : first + size]) for first in range(0, len(pairs), size))
    idle: list[int] = []
    starts: Counter[int] = Counter()
    with engine, sharing_progress(len(pairs), quiet) as advance:
        at_work: dict[Any, tuple[int, Chunk | None]] = {
            engine.begin(slot): (slot, None) for slot in range(min(engine.count, len(waiting)))
        }
        while waiting or any(chunk for _, chunk in at_work.values()):
            given = [(idle.pop(), waiting.popleft()) for _ in range(min(len(idle), len(waiting)))]
            at_work |= zip(engine.give(given), given, strict=True)
            for handle in engine.wait(list(at_work)):
                slot, chunk = at_work.pop(handle)
                try:
                    done = engine.result(handle)
                except Lost as error:
                    starts[slot] += chunk is None
                    if starts[slot] == TRIES:
                        raise BasisError(
                            f"no worker starts: {error}", "do its machine's Python and packages work?"
                        ) from error
                    at_work[engine.begin(slot)] = slot, None
                    done = error
                else:
                    idle.append(slot)
                    starts[slot] = 0
                if chunk is None:
                    continue
                if isinstance(done, Lost):
                    again, lost = _again(chunk, done)
                    waiting.extend(again)
                    done = Answered([], lost)
                    advance(lost)
                elif isinstance(done, BasisError):
                    raise done
                else:
                    advance(len(chunk.pairs))
                sys.stderr.write(done.said)
                _write(done.files)
                yield done.records, done.failures


def _write(files: Mapping[str, bytes]) -> None:
    from ..data import images
    from ..data.files import atomically

    for name, content in files.items():
        images.out_folder(Path(name).parent)
        with atomically(Path(name)) as partial:
            partial.write_bytes(content)


def _again(chunk: Chunk, why: Lost) -> tuple[list[Chunk], int]:
    """What to try again of a chunk whose worker may have been lost by it, and how many pictures are given up."""
    tries, pairs = chunk.tries + 1, chunk.pairs
    if tries < TRIES:
        size = 1 if tries == TRIES - 1 else math.isqrt(len(pairs))
        return [Chunk(pairs[first : first + size], tries) for first in range(0, len(pairs), size)], 0
    for name, _ in pairs:
        fail(InputError(f"{name}: its worker was lost {tries} times: {why}", "too little memory?"))
    return [], len(pairs)


@dataclass(frozen=True)
class Elsewhere:
    """What a worker on another machine has to know."""

    weights_sha256: Mapping[str, str]
    """Those that this machine would use."""
    inputs_sha256: Mapping[str, str | None]
    """Of files that options name."""
    folder: str
    """In which the command was given."""
    contents: Mapping[str, bytes] | None = None
    """What is in these, for a worker that sees no folder of this machine."""


def attempted(work: Callable[[], Answered]) -> Answered | BasisError | Lost:
    """What ``work`` gives, or what stopped it: errors of another process lose their type on the way."""
    try:
        return work()
    except BasisError as error:
        return error
    except Exception as error:
        if not out_of_memory(error):
            raise
        return Lost("out of memory")


class Worker:
    """Answers the inputs that it is given by a job of its own, with its prior.

    ``given`` is what a :class:`~basis_cli.cli.job.Job` is made of, without its inputs.
    """

    def __init__(
        self,
        given: tuple[Any, ...],
        elsewhere: Elsewhere | None = None,
        device: str | None = None,
        workers: int = 1,
    ):
        self.given, self.elsewhere, self.device, self.workers = given, elsewhere, device, workers
        self.job: Job | None = None

    def ready(self) -> None:
        """For the one who waits until it is."""

    def __call__(self, chunk: Chunk) -> Answered | BasisError | Lost:
        """The answers, or what stopped all of them."""
        said = io.StringIO()
        listening: AbstractContextManager[Any] = redirect_stderr(said) if self.elsewhere else nullcontext()

        def work() -> Answered:
            with listening, warnings_as_lines():
                answered = self._away(chunk) if chunk.contents is not None else self._answered(chunk)
            return replace(answered, said=said.getvalue())

        return attempted(work)

    def checkpoint(self, chunk: Chunk) -> Any:
        """What a preempted Slurm job goes on with: see submitit."""
        from submitit.helpers import DelayedSubmission

        self.job = None
        return DelayedSubmission(self, replace(chunk, tries=max(1, chunk.tries)))

    def _loaded(self) -> Job:
        """With its prior, once."""
        if self.job is None:
            if self.elsewhere and self.elsewhere.contents is None:
                _enter(self.elsewhere.folder)
            job = self._job()
            if self.elsewhere:
                job.others = dict(self.elsewhere.inputs_sha256)
            job.load()
            if self.elsewhere:
                _check_weights(job.hashes, self.elsewhere.weights_sha256)
            self.job = job
        return self.job

    def _job(self) -> Job:
        import torch

        from .job import Job

        torch.set_num_threads(max(1, torch.get_num_threads() // self.workers))
        task, model, sampling, compute, several, tiles, output, options = self.given
        compute = replace(compute, device=self.device) if self.device else compute
        alone = {"workers": WorkerCount(), "cluster": None, "send": False, "slurm": None, "resume": False}
        return Job(task, [], model, sampling, compute, several, tiles, replace(output, quiet=True, **alone), options)

    def _answered(self, chunk: Chunk) -> Answered:
        job = self._loaded()
        records: list[dict[str, Any]] = []
        job.record, job.failures = records.append, 0
        pairs = job.left(chunk.pairs) if chunk.tries else chunk.pairs
        try:
            job.answer(pairs)
        except InputError as error:  # nothing of the chunk can be answered
            fail(error)
            job.failures = len(chunk.pairs) - len(records)
        return Answered(records, job.failures)

    def _away(self, chunk: Chunk) -> Answered:
        """With files that were sent, and files to send back."""
        from ..data import sources

        assert self.elsewhere is not None

        sources.RECEIVED.update({**(self.elsewhere.contents or {}), **(chunk.contents or {})})
        try:
            job = self._loaded()
            out = job.place.folder
            with tempfile.TemporaryDirectory() as folder:
                job.move(Path(folder))
                try:
                    return _moved(self._answered(replace(chunk, tries=0)), job, out)
                finally:
                    job.move(out)
        finally:
            sources.RECEIVED.clear()


def _enter(folder: str) -> None:
    """Names of files are as seen from there."""
    try:
        os.chdir(folder)
    except OSError as error:
        message = f"{socket.gethostname()} does not see {folder}: {error.strerror}"
        raise BasisError(message, "--send, or a folder that all machines see") from error


def _check_weights(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name, sha256 in found.items():
        if sha256 != wanted[name]:
            message = f"{socket.gethostname()} has other weights of {name}"
            raise WeightsError(message, f"the same file on every machine; its SHA-256 is {wanted[name]}")


def _moved(answered: Answered, job: Job, out: Path) -> Answered:
    """The answers as they would be if their files were in ``out``, with those files."""
    here, there = (json.dumps(str(folder / "_"))[1:-2] for folder in (job.place.folder, out))
    records: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    for record in answered.records:
        moved = json.loads(json.dumps(record).replace(here, there))
        *pictures, record_file = job.results.files(record["stem"])
        files |= {str(out / file.relative_to(job.place.folder)): file.read_bytes() for file in pictures}
        if not job.output.jsonl:
            own = str(out / record_file.relative_to(job.place.folder))
            files[own] = f"{json.dumps(moved, indent=2)}\n".encode()
        records.append(moved)
    return replace(answered, records=records, files=files)

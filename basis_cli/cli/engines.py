"""What runs workers: processes of the standard library, Ray, or Slurm through submitit. None is written here."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import BasisError, InputError, UsageError
from .options import WorkerCount
from .workers import Chunk, Elsewhere, Lost, Worker

if TYPE_CHECKING:
    from .job import Job

MOST = 16
"""Pictures that a worker is given at a time, unless it has a GPU or --batch says otherwise."""
MOST_ON_GPU = 512


class Engine(Protocol):
    """Runs workers, which have numbers. What they were given to do is known by a handle."""

    count: int

    def at_a_time(self, pictures: int) -> int:
        """How many of ``pictures`` to give to a worker."""

    def begin(self, slot: int) -> Any:
        """Start this worker, anew if it is lost; its handle is done when it can be given work."""

    def give(self, work: Sequence[tuple[int, Chunk]]) -> list[Any]:
        """Begin each chunk on its worker."""

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        """Those that are done, at least one."""

    def result(self, handle: Any) -> Any:
        """What the worker returned.

        Raises:
            Lost: it did not end.
        """

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End all workers; at once, if there is an error or Ctrl-C: what is written is whole."""


def chosen(job: Job) -> Engine:
    """What runs the workers of a command.

    Raises:
        UsageError, BasisError: see the engines.
    """
    output, batch = job.output, job.compute.batch
    most = max(1, batch // job.samples) if batch else None
    if output.cluster is None:
        return Processes(lambda *where: Worker(job.given, None, *where), output.workers, len(job.to_do), most)
    weights = str(job.model.weights)
    contents = contents_of([name for name in job.options.files if name != weights]) if output.send else None
    elsewhere = Elsewhere(job.planned_sha256, job.others, os.getcwd(), contents)
    if output.cluster.startswith("slurm"):
        settings = dict(setting.split("=", 1) for setting in output.slurm or [])
        local = output.cluster == "slurm:local"
        return Slurm(job.given, elsewhere, job.place.folder, output.workers, settings, local)
    return Ray(job.given, elsewhere, output.cluster, output.workers, most)


def _at_a_time(pictures: int, workers: int, most: int) -> int:
    """So that all have something to do until the end."""
    return max(1, min(most, pictures // (2 * workers)))


class Processes:
    """On this machine, each in a pool of its own, so that it is known which one was killed.

    ``worker`` makes the callable that a process gives chunks to, of its device and of how many share this machine.
    """

    def __init__(self, worker: Callable[[str | None, int], Any], workers: WorkerCount, pictures: int, most: int | None):
        devices: list[str | None] = list(_gpus()) if workers.gpus else [None] * workers.count
        self.count = max(1, min(len(devices), pictures))
        self.most = most or (MOST_ON_GPU if workers.gpus else MOST)
        self._workers = [worker(device, self.count) for device in devices]
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def at_a_time(self, pictures: int) -> int:
        return _at_a_time(pictures, self.count, self.most)

    def begin(self, slot: int) -> Future[Any]:
        if slot in self._pools:
            self._pools[slot].shutdown()
        context = multiprocessing.get_context("spawn")
        self._pools[slot] = ProcessPoolExecutor(1, context, _begin, (self._workers[slot],))
        return self._pools[slot].submit(_ready)

    def give(self, work: Sequence[tuple[int, Chunk]]) -> list[Future[Any]]:
        return [self._given(slot, chunk) for slot, chunk in work]

    def _given(self, slot: int, chunk: Any) -> Future[Any]:
        try:
            return self._pools[slot].submit(_answer, chunk)
        except BrokenProcessPool as error:  # killed while it had nothing to do
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def wait(self, handles: Sequence[Future[Any]]) -> Sequence[Future[Any]]:
        return list(concurrent.futures.wait(handles, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Any]) -> Any:
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise Lost("its process was ended") from error

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            for process in multiprocessing.active_children():
                process.terminate()
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise UsageError("there is no GPU for --workers gpus", "--workers 2")
    return [f"cuda:{i}" for i in range(count)]


_worker: Callable[[Any], Any] | None = None
"""A process's own."""


def _begin(worker: Callable[[Any], Any]) -> None:
    """Make ready in a process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that shares the work out
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = worker


def _end_with_parent() -> None:
    """A pool's processes would wait for ever for one that was killed, and another run may be at work on its files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _ready() -> None:
    assert _worker is not None


def _answer(chunk: Any) -> Any:
    assert _worker is not None
    return _worker(chunk)


class Ray:
    """Actors of a Ray cluster, a CPU or a GPU each.

    ``address`` is ``ray`` (``$RAY_ADDRESS``, a cluster of which this machine is part, or one of this machine alone) or
    ``ray://HOST:PORT``.

    Raises:
        UsageError: Ray is not installed, or the cluster has no GPU for ``--workers gpus``.
        BasisError: there is no cluster at ``address``.
    """

    def __init__(
        self, given: tuple[Any, ...], elsewhere: Elsewhere, address: str, workers: WorkerCount, most: int | None
    ):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise UsageError("--cluster ray needs Ray", "pip install 'basis-cli[ray]'") from None
        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            try:
                ray.init(None if address == "ray" else address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise BasisError(f"no Ray at {address}: {error}", "ray start --head, on one of its machines") from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if workers.gpus and not gpus:
            raise UsageError("the cluster has no GPU for --workers gpus", "--workers 2")
        self.count = gpus if workers.gpus else workers.count
        self.most = most or (MOST_ON_GPU if workers.gpus else MOST)
        cpus, gpus = (0, 1) if workers.gpus else (1, 0)
        self._kind: Any = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus)
        self._made = given, elsewhere
        self._actors: dict[int, Any] = {}
        self._aside = redirect_stdout(sys.stderr)  # Ray reports dead machines on stdout, which is for results

    def at_a_time(self, pictures: int) -> int:
        return _at_a_time(pictures, self.count, self.most)

    def begin(self, slot: int) -> Any:
        self._actors[slot] = self._kind.remote(*self._made)
        return self._actors[slot].ready.remote()

    def give(self, work: Sequence[tuple[int, Chunk]]) -> list[Any]:
        return [self._actors[slot].answer.remote(_sent(chunk, self._made[1])) for slot, chunk in work]

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        return self._ray.wait(list(handles), num_returns=1)[0]

    def result(self, handle: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(handle)
        except (errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError) as error:
            raise Lost(_first_line(error)) from error

    def __enter__(self) -> Ray:
        self._aside.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._aside.__exit__(None, None, None)
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()


class _Actor:
    """A worker, as Ray makes and calls it."""

    def __init__(self, *made: Any):
        self.worker = Worker(*made)

    def ready(self) -> None:
        """It is."""

    def answer(self, chunk: Chunk) -> Any:
        return self.worker(chunk)


class Slurm:
    """Array jobs of Slurm, one for each chunk, which are as many as workers; ``local``: processes in their place.

    Args:
        folder: seen by all machines; the jobs' own files are in it until they have succeeded.
        settings: of Slurm, by the names of submitit: ``{"partition": "gpu", "time": "120"}``.

    Raises:
        UsageError: submitit or Slurm is not installed, or there is no such setting.
    """

    def __init__(
        self,
        given: tuple[Any, ...],
        elsewhere: Elsewhere,
        folder: Path,
        workers: WorkerCount,
        settings: dict[str, str],
        local: bool = False,
    ):
        try:
            import submitit
        except ImportError:
            raise UsageError("--cluster slurm needs submitit", "pip install 'basis-cli[slurm]'") from None
        if workers.gpus:
            raise UsageError("Slurm does not tell how many GPUs are free", "--workers 8 --slurm gpus_per_node=1")
        self.count, self._worker = workers.count, Worker(given, elsewhere)
        self._folder, self._jobs = folder / ".slurm", list[Any]()
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster="local" if local else "slurm")
            values = {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
            common = {name: values.pop(name) for name in ("gpus_per_node", "cpus_per_task") if name in values}
            self._executor.update_parameters(
                name="basis",
                slurm_array_parallelism=self.count,
                **common,
                **{f"slurm_{n}": v for n, v in values.items()},
            )
        except (RuntimeError, TypeError, NameError, ValueError) as error:
            raise UsageError(
                f"--cluster slurm: {_first_line(error)}", "where sbatch is; --slurm partition=gpu"
            ) from error
        self._lost = submitit.core.utils.UncompletedJobError

    def at_a_time(self, pictures: int) -> int:
        return -(-pictures // self.count)  # a job loads the prior for itself

    def begin(self, slot: int) -> Any:
        return _Free(slot)

    def give(self, work: Sequence[tuple[int, Chunk]]) -> list[Any]:
        if not work:
            return []
        jobs = self._executor.map_array(self._worker, [_sent(chunk, self._worker.elsewhere) for _, chunk in work])
        self._jobs += jobs
        return jobs

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        while not (done := [handle for handle in handles if handle.done()]):
            time.sleep(0.2)
        return done

    def result(self, handle: Any) -> Any:
        try:
            return handle.result()
        except self._lost as error:
            raise Lost(_first_line(error)) from error

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for job in self._jobs if kind else []:
            job.cancel(check=False)
        if kind is None:
            from shutil import rmtree

            rmtree(self._folder, ignore_errors=True)


class _Free:
    """A job begins with its chunk: there is nothing to wait for before."""

    def __init__(self, slot: int):
        self.slot = slot

    def done(self) -> bool:
        return True

    def result(self) -> None:
        return None


def _sent(chunk: Chunk, to: Elsewhere | None) -> Chunk:
    """With what is in the inputs, if the worker sees no folder of this machine."""
    if to is None or to.contents is None:
        return chunk
    return replace(chunk, contents=contents_of([name for name, _ in chunk.pairs]))


def contents_of(names: Sequence[str]) -> dict[str, bytes]:
    """What is in files; those that cannot be read are left out, and missed by who reads them."""
    from ..data import images

    found = {}
    for name in names:
        with suppress(InputError):
            found[name] = images.contents(name)
    return found


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

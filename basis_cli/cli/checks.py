"""Options of a command that exclude or need each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from . import report

if TYPE_CHECKING:
    from .job import Job


def check(job: Job) -> None:
    """Before anything is read.

    Raises:
        UsageError: some do.
    """
    if job.samples < 1:
        raise UsageError(f"samples must be at least 1, not {job.samples}")
    job.tiles.check()
    if job.model.model and job.tiles.tile:
        raise UsageError("a direct model answers pictures of its own size only", "leave out --tile")
    if "-" in job.inputs and job.shared:
        raise UsageError("workers cannot read from stdin", "name files, or leave out --workers and --cluster")
    if job.model.reference and len(job.inputs) > 1:
        raise UsageError("--reference goes with one input")
    if (job.output.send or job.output.slurm) and not job.output.cluster:
        raise UsageError("--send and --slurm are of --cluster", "--cluster ray or slurm")
    if wrong := [setting for setting in job.output.slurm or [] if "=" not in setting]:
        raise UsageError(f"--slurm {wrong[0]} has no value", "--slurm partition=gpu")
    if job.output.report:
        again = job.output.skip_existing or job.output.resume
        own = again and report.replaceable(job.results.report)
        report.check(job.results.report, job.output.overwrite or own)
    if job.output.report and job.output.jsonl:
        raise UsageError("--report reads the record of each input", "leave out --jsonl")
    if job.output.resume and job.output.frames:
        raise UsageError("--resume does not keep --frames", "leave out one of them")
    own = not job.model.model and job.task.k > 1 and job.sampling.over(job.task.defaults).timid
    if job.output.uncertainty and job.samples < 2 and not own:
        raise UsageError("--uncertainty compares samples", "--samples 10")

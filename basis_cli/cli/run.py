"""``basis separate``, ``colorize``, ..., each made of its task, and ``basis sample``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import UsageError
from ..tasks.base import Task
from .job import Job, load_priors, to_do
from .options import (
    AsJson,
    ComputeOptions,
    Inputs,
    ModelOptions,
    Out,
    OutputOptions,
    Overwrite,
    PriorName,
    Quiet,
    SampleOptions,
    SamplerOptions,
    TileOptions,
    Weights,
    with_options,
)
from .output import sampling_progress


def command(kind: type[Task]) -> Callable[..., None]:
    """The command of a task: pictures in, pictures out. Its own options are the task's fields."""

    def run(
        inputs: Inputs,
        task: Task,
        model: ModelOptions,
        sampler: SamplerOptions,
        compute: ComputeOptions,
        several: SampleOptions,
        tiles: TileOptions,
        output: OutputOptions,
    ) -> None:
        Job(task, inputs, model, sampler.sampling(several.noise_std), compute.compute(), several, tiles, output).do()

    run.__annotations__["task"] = kind
    run.__name__ = kind.name
    run.__doc__ = f"{inspect.getdoc(kind)}\n\nPrior {kind.prior}, sampler {kind.defaults['sampler']}, unless chosen."
    return with_options(run)


@with_options
def sample(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    prior: PriorName = "ncsn-mnist",
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.")] = 16,
    weights: Weights = None,
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw pictures from a prior itself: what it believes pictures look like.

    Writes PRIOR-0001.png ..., and PRIOR.png with all of them.
    """
    from .. import tasks
    from ..data import images
    from ..tasks.samples import Sample

    if out.suffix.lower() in images.SAVED and not out.is_dir():
        raise UsageError(f"{out} is one picture, but several are written", "name a folder")
    stem = prior.replace("/", "-")
    sheet, record_file = out / f"{stem}.png", out / f"{stem}.json"
    files = [out / f"{stem}-{i + 1:04d}.png" for i in range(count)]
    to_do([[sheet, *files, record_file]], overwrite, False)
    where = compute.compute()
    loaded, hashes = load_priors(Sample(), [prior], weights, where)
    sampling = sampler.sampling().over(Sample.defaults)
    sampling.options(loaded)
    images.out_folder(out)
    with sampling_progress(quiet) as watch:
        pictures = tasks.sample(loaded[0], count, sampling=sampling, compute=where, watch=watch).numpy()
    for file, picture in zip(files, pictures, strict=True):
        images.write_png(file, images.to_pillow(picture))
    images.write_sheet(sheet, pictures)
    record = {"basis": __version__, "task": "sample", "prior": prior, "weights_sha256": hashes}
    record |= {"settings": sampling.described(loaded) | where.described(), "sheet": str(sheet)}
    record |= {"pictures": [str(file) for file in files]}
    images.write_text(record_file, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record) if as_json else "\n".join([str(sheet), *record["pictures"]]))

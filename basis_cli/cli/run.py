"""``basis separate``, ``colorize``, ..., each made of its task, and ``basis sample``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import UsageError
from ..tasks.base import Task
from .groups import with_options
from .job import Job
from .loading import load_model, load_priors
from .options import (
    AsJson,
    Best,
    ComputeOptions,
    Fast,
    Inputs,
    ModelOptions,
    Out,
    OutputOptions,
    Overwrite,
    Quiet,
    SampleOptions,
    SamplerOptions,
    TileOptions,
    Weights,
    preset,
)
from .output import sampling_progress, tell_time
from .records import compare, options, to_do


def command(kind: type[Task]) -> Callable[..., None]:
    """The command of a task: pictures in, pictures out. Its own options are the task's fields."""

    def run(
        context: typer.Context,
        inputs: Inputs,
        task: Task,
        model: ModelOptions,
        sampler: SamplerOptions,
        compute: ComputeOptions,
        several: SampleOptions,
        tiles: TileOptions,
        output: OutputOptions,
    ) -> None:
        sampling, given = sampler.sampling(several.noise_std), options(context)
        task, inputs = task.gathered(inputs)
        job = Job(task, inputs, model, sampling, compute.compute(), several, tiles, output, given)
        job.do()
        if context.obj:  # the record of which this makes an answer again
            compare(context.obj, next(job.records.of(job.stems)), output.quiet)

    run.__annotations__["task"] = kind
    run.__name__ = kind.name
    run.__doc__ = f"{inspect.getdoc(kind)}\n\nPrior {kind.prior}, sampler {kind.defaults['sampler']}, unless chosen."
    return with_options(run)


@with_options
def sample(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    prior: Annotated[
        str | None, typer.Option("--prior", help="The prior: what pictures look like. (default: ncsn-mnist)")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A network that draws pictures in one pass, instead.")] = None,
    label: Annotated[int | None, typer.Option(help="--model: of this class. (default: each in turn)")] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.")] = 16,
    fast: Fast = False,
    best: Best = False,
    weights: Weights = None,
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw pictures from a prior itself: what it believes pictures look like.

    Writes NAME-0001.png ..., and NAME.png with all of them, after the prior or the model.
    """
    from ..data import images
    from ..posterior import Direct, Guided, estimated_seconds
    from ..tasks.samples import Sample, samples

    if out.suffix.lower() in images.SAVED and not out.is_dir():
        raise UsageError(f"{out} is one picture, but several are written", "name a folder")
    if model and prior:
        raise UsageError("--prior or --model draws, not both", "leave out one of them")
    name = model or prior or Sample.prior
    stem = re.sub(r"[^\w.-]+", "-", name)
    sheet, record_file = out / f"{stem}.png", out / f"{stem}.json"
    files = [out / f"{stem}-{i + 1:04d}.png" for i in range(count)]
    to_do([[sheet, *files, record_file]], overwrite)
    where = compute.compute()
    sampling, *_ = Sample().chosen(preset(fast, best), sampler.sampling(), None, None)
    posterior: Guided | Direct
    if model:
        network, hashes = load_model(Sample(), model, weights, where)
        posterior = Direct(network, Sample().operator(network.shape), model, sampling)
    else:
        priors, hashes = load_priors(Sample(), [name], weights, where)
        posterior = Sample().posterior(priors, sampling)
    images.out_folder(out)
    if isinstance(posterior, Guided) and not quiet:
        tell_time(estimated_seconds(posterior, count, 1, where))
    with sampling_progress(quiet) as watch:
        pictures = samples(posterior, count, label, where, watch).numpy()
    for file, picture in zip(files, pictures, strict=True):
        images.write_png(file, images.to_pillow(picture))
    images.write_sheet(sheet, pictures)
    record: dict[str, Any] = {"basis": __version__, "task": "sample", "model" if model else "prior": name}
    record |= {"weights_sha256": hashes}
    record |= {} if label is None else {"label": label}
    record |= {"settings": where.described() | posterior.described(), "sheet": str(sheet)}
    record |= {"pictures": [str(file) for file in files]}
    images.write_text(record_file, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record) if as_json else "\n".join([str(sheet), *record["pictures"]]))

"""``basis evaluate colorization``, ``inpainting``, ..., each made of its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from ..errors import UsageError
from ..tasks.base import Damage, Task
from .groups import with_options
from .options import (
    ALONE,
    AsJson,
    ComputeOptions,
    Data,
    DataDir,
    InceptionOption,
    Keep,
    ModelName,
    NoiseOption,
    Quiet,
    Refine,
    SamplerOptions,
    SheetOption,
    Weights,
    Workers,
)
from .output import show, working
from .quality import best_table, diversity_table, quality_table

ANY_SIDE = 64
"""Of pictures for what takes any size."""


@dataclass(frozen=True)
class RestorationOptions:
    """What to restore, and what to report."""

    prior: Annotated[
        str | None,
        typer.Option(
            "--prior",
            help="The prior: what pictures look like. (default: the model or the prior that the command takes)",
        ),
    ] = None
    data: Data = "cifar10"
    data_dir: DataDir = None
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Folders and LSUN: side of the pictures. (default: the prior's; if it takes any size, 64)"
        ),
    ] = None
    pictures: Annotated[int, typer.Option(min=2, help="Test pictures.")] = 1000
    samples: Annotated[
        int, typer.Option(min=1, help="Samples of each; their mean and the best of them are measured too.")
    ] = 1
    noise_std: NoiseOption = None
    model: ModelName = None
    refine: Refine = False
    weights: Weights = None
    inception: InceptionOption = None
    diversity: Annotated[
        bool,
        typer.Option(
            "--diversity",
            help="Measure how varied the samples are, and classes and features by EfficientNet-Lite0 (extra imagenet).",
        ),
    ] = False
    sheet: SheetOption = None
    workers: Workers = ALONE
    keep: Keep = None
    as_json: AsJson = False
    quiet: Quiet = False


def restoration(kind: type[Task]) -> Callable[..., None]:
    """The evaluation of a task on pictures that suffered its damage, whose fields are the evaluation's own options."""
    assert kind.damage

    def run(options: RestorationOptions, damage: Damage, sampler: SamplerOptions, compute: ComputeOptions) -> None:
        from ..evaluation.imagenet import imagenet
        from ..evaluation.protocols import evaluate_restoration
        from .loading import load_model, load_pictures, load_priors, load_realism

        where, task, sampling = compute.compute(), damage.task(), sampler.sampling(options.noise_std)
        name = task.answering(options.model, options.prior, sampling, options.refine)
        network = imagenet(where.device) if options.diversity else None
        prior, model, by = None, None, {}
        hashes: dict[str, str] = {}
        if name:
            model, hashes = load_model(task, name, options.weights, where)
            by["model"] = name
        if not model or options.refine:
            by["prior"] = options.prior or task.prior
            (prior,), more = load_priors(task, [by["prior"]], None if model else options.weights, where)
            hashes |= more
        (c, h, w), larger = task.least([one for one in (model, prior) if one])
        side = options.size or (ANY_SIDE if larger else h)
        test = load_pictures(options.data, "test", options.data_dir, (c, side, side))
        if options.size and test.shape[1:] != (side, side):
            h, w = test.shape[1:]
            raise UsageError(f"{options.data}'s pictures are of {w} x {h} pixels", "leave out --size")
        realism = load_realism(test, options.data, options.inception, options.data_dir, where)
        about = by | {"weights_sha256": hashes}
        with working(where, options.workers, options.quiet, options.keep, about) as (where, watch):
            result = evaluate_restoration(
                test,
                prior,
                task,
                model=model,
                name=name or "",
                pictures=options.pictures,
                samples=options.samples,
                sampling=sampling,
                compute=where,
                realism=realism,
                network=network,
                sheet=options.sheet,
                watch=watch,
            )
        result = about | result
        title = f"{result['task']} of {result['pictures']} {options.data} test pictures"
        tables = [quality_table(result, title)]
        tables += [best_table(result["best_of"], options.samples)] if "best_of" in result else []
        tables += [diversity_table(result["diversity"], options.samples)] if options.diversity else []
        show(result, options.as_json, *tables)

    run.__annotations__["damage"] = kind.damage
    run.__doc__ = kind.damage.__doc__
    return with_options(run)

"""``basis separate``, ``colorize``, ``inpaint``, ``upscale``, ``decompress``, ``sample``: pictures in, pictures out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from .. import __version__
from .job import Job, Picture, load_priors, to_do
from .options import (
    AsJson,
    FitOption,
    Inputs,
    ModelOptions,
    Out,
    OutputOptions,
    Overwrite,
    PriorName,
    PriorNames,
    Quiet,
    SampleOptions,
    SamplerOptions,
    TileOptions,
    Weights,
    numbers,
    with_options,
)
from .output import sampling_progress, warnings_as_lines

if TYPE_CHECKING:
    from torch import Tensor

    from ..tasks import Result


@with_options
def separate(
    inputs: Inputs,
    sampler: SamplerOptions,
    several: SampleOptions,
    tiles: TileOptions,
    output: OutputOptions,
    k: Annotated[int, typer.Option("-k", help="How many pictures were laid over each other.")] = 2,
    prior: PriorNames = ["ncsn-mnist"],  # noqa: B006
    alpha: Annotated[str | None, typer.Option(help="Mixing coefficients, a,b,... (default: 1/k each)")] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="A true component, once for each: PSNR and order are to these.")
    ] = None,
    fit: FitOption = None,
    weights: Weights = None,
) -> None:
    """Separate a picture into the k pictures that were laid over each other.

    Writes STEM.x1.png ... STEM.xk.png and STEM.json, the components ordered by PSNR: to the references if given, else
    to the mixture. --uncertainty adds STEM.x1.std.png ..., where white is a standard deviation of a quarter or more.
    """
    from .. import tasks

    job = Job("separate", inputs, sampler.sampling("separate", several.noise_std), several, tiles, output, prior)
    job.priors, job.hashes = load_priors(prior, k, weights, sampler.device)
    coefficients = numbers(alpha, "--alpha")
    tasks.separation(job.priors, k, coefficients, several.samples, reference or None)
    how = fit.value if fit else None
    shape = job.priors[0].shape
    job.read_references(reference or [], shape, how)
    job.carry_out(job.read(shape, how), partial(tasks.separate, k=k, alpha=coefficients))


@with_options
def colorize(
    inputs: Inputs,
    model: ModelOptions,
    sampler: SamplerOptions,
    several: SampleOptions,
    tiles: TileOptions,
    output: OutputOptions,
    luma: Annotated[
        bool, typer.Option("--luma", help="The gray is .299 R + .587 G + .114 B, as most programs make it.")
    ] = False,
    fit: FitOption = None,
) -> None:
    """Colour a gray picture. A coloured one is made gray first.

    The gray is the mean of the three channels, as in the paper, unless --luma says otherwise. Writes STEM.x1.png and
    STEM.json.
    """
    from .. import tasks
    from ..data import images

    job = Job.single("colorize", inputs, sampler, several, tiles, output, model)
    shape, how = job.truth(model.reference, fit.value if fit else None)
    channels = images.LUMA.tolist() if luma else [1 / 3] * 3
    tasks.graying(channels, shape)
    job.carry_out(job.read(shape, how), partial(tasks.colorize, channel_weights=channels))


@with_options
def inpaint(
    inputs: Inputs,
    model: ModelOptions,
    sampler: SamplerOptions,
    several: SampleOptions,
    tiles: TileOptions,
    output: OutputOptions,
    mask: Annotated[
        str,
        typer.Option(help="A picture, white where the input is unknown; or right, left, top, bottom, center."),
    ],
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Black is unknown instead.")] = False,
    fit: FitOption = None,
) -> None:
    """Fill in the part of a picture that is missing or unwanted.

    Writes STEM.x1.png and STEM.json; what the mask leaves is kept as it is.
    """
    from .. import tasks

    job = Job.single("inpaint", inputs, sampler, several, tiles, output, model)
    shape, how = job.truth(model.reference, fit.value if fit else None)
    pictures = job.read(shape, how)
    sizes: set[tuple[int, int]] = {picture.pixels.shape[1:] for picture in pictures}
    with warnings_as_lines():
        unknown = {size: tasks.unknown(mask, size, how) for size in sizes}

    def task(batch: Tensor, **options: Any) -> Result:
        h, w = batch.shape[2:]
        return tasks.inpaint(batch, ~unknown[h, w] if invert_mask else unknown[h, w], **options)

    job.carry_out(pictures, task)


@with_options
def upscale(
    inputs: Inputs,
    model: ModelOptions,
    sampler: SamplerOptions,
    several: SampleOptions,
    tiles: TileOptions,
    output: OutputOptions,
    factor: Annotated[int, typer.Option(min=2, help="How many times larger: 2, 4, 8, 16.")],
    bicubic: Annotated[
        bool, typer.Option("--bicubic", help="The picture was shrunk with a bicubic filter, not by averaging.")
    ] = False,
    fit: FitOption = None,
) -> None:
    """Enlarge a small picture to the size that the prior models.

    The answer gives the input when it is shrunk again. Writes STEM.x1.png and STEM.json.
    """
    from .. import operators, tasks

    method = "bicubic" if bicubic else "box"
    job = Job.single("upscale", inputs, sampler, several, tiles, output, model)
    (c, h, w), how = job.truth(model.reference, fit.value if fit else None)
    if not tiles.tile:
        operators.Downsample(factor, (h, w), method)
    pictures = job.read((c, -(-h // factor), -(-w // factor)), how)
    job.carry_out(pictures, partial(tasks.upscale, factor=factor, method=method), factor)


@with_options
def decompress(
    inputs: Inputs,
    model: ModelOptions,
    sampler: SamplerOptions,
    several: SampleOptions,
    tiles: TileOptions,
    output: OutputOptions,
) -> None:
    """Undo JPEG compression: a picture without its blocks that would give this very file.

    How much was lost is read from the file's own tables. Writes STEM.x1.png and STEM.json.
    """
    from .. import tasks
    from ..data import images

    job = Job.single("decompress", inputs, sampler, several, tiles, output, model)
    (c, h, w), _ = job.truth(model.reference, None)
    codings: list[Any] = []

    def decoded(name: str) -> np.ndarray:
        file = name if os.path.isfile(name) else images.contents(name)  # a pipe can be read once only
        coding = images.jpeg_coding(file)
        height, width = coding[1]
        larger = tiles.tile and height >= h and width >= w
        tasks.coded(coding, (c, height, width) if larger else (c, h, w), name)
        pixels = images.read(file, (c, h, w), None, tiles.tile)
        codings.append(coding)
        return pixels

    groups: dict[Any, list[Picture]] = {}
    for picture, coding in zip(job.each(decoded), codings, strict=True):
        groups.setdefault(coding, []).append(picture)
    for coding, pictures in groups.items():
        priors = job.priors_of(coding[1])
        job.compute(priors, pictures, partial(tasks.decompress, jpeg=tasks.coded(coding, priors[0].shape)))
    job.finish()


@with_options
def sample(
    sampler: SamplerOptions,
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

    stem = prior.replace("/", "-")
    sheet = out / f"{stem}.png"
    to_do([sheet], overwrite, False)
    loaded, hashes = load_priors([prior], 1, weights, sampler.device)
    sampling = sampler.sampling("sample")
    sampling.options(loaded)
    images.out_folder(out)
    with sampling_progress(1, quiet) as callback:
        pictures = tasks.sample(loaded[0], count, sampling=sampling, callback=callback).numpy()
    files = [out / f"{stem}-{i + 1:04d}.png" for i in range(count)]
    for file, picture in zip(files, pictures, strict=True):
        images.write_png(file, images.to_pillow(picture))
    images.write_sheet(sheet, pictures)
    record = {"basis": __version__, "task": "sample", "prior": prior, "weights_sha256": hashes}
    record |= {"settings": asdict(sampling), "sheet": str(sheet), "pictures": [str(file) for file in files]}
    images.write_text(out / f"{stem}.json", json.dumps(record, indent=2) + "\n")
    print(json.dumps(record) if as_json else "\n".join([str(sheet), *record["pictures"]]))

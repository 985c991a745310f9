"""``basis separate`` and ``basis sample``: pictures in, PNG files and a record out."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from .. import __version__
from ..errors import InputError, InputWarning, NotFiniteError, UsageError
from .output import fail, sampling_progress, stderr, warnings_as_lines

if TYPE_CHECKING:
    from ..api import Prior
    from ..tasks import Result


class Fit(str, Enum):
    crop = "crop"
    resize = "resize"
    pad = "pad"


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Select(str, Enum):
    all = "all"
    best = "best"
    mode = "mode"
    mean = "mean"


Inputs = Annotated[list[str], typer.Argument(help="Pictures; - reads one from stdin.", show_default=False)]
PriorNames = Annotated[list[str], typer.Option("--prior", help="A prior for all components, or once for each.")]
Weights = Annotated[Path | None, typer.Option(help="A weights file of your own for the prior.")]
SamplerName = Annotated[
    str,
    typer.Option(
        "--sampler",
        help="ep, project: fast, for pictures; mmps: for honest uncertainty; conjugate: noisy measurements; langevin: "
        "Algorithm 1 of the paper; ascent: Figure 3.",
    ),
]
Levels = Annotated[int | None, typer.Option(help="Noise levels.  [default: langevin 10, ep 25, others 50]")]
Steps = Annotated[int | None, typer.Option(help="langevin: steps a level; time grows with it.  [default: 100]")]
StepSize = Annotated[
    float | None, typer.Option(help="langevin: the paper's delta; its authors ran MNIST at 3e-5.  [default: 2e-5]")
]
NoiseStd = Annotated[
    float | None, typer.Option(help="Standard deviation of white noise in the picture, in intensities.")
]
Samples = Annotated[int, typer.Option("--samples", help="Samples for each picture, ranked by likelihood.")]
SelectOption = Annotated[
    Select,
    typer.Option(
        help="all; the most probable (best); the mean of the samples that give the same answer as the best (mode); "
        "the mean of all (mean)."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Precision of the networks; auto: bfloat16 on CUDA.")]
Batch = Annotated[
    int | None, typer.Option(help="Pictures worked on at once.  [default: what is fast and fits into memory]")
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the networks (torch.compile): slow to begin, then faster."),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")]
Skip = Annotated[bool, typer.Option("--skip-existing", help="Leave out inputs whose results are there already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of paths.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")]


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"--alpha {text!r} is not a list of numbers", "for example --alpha 0.7,0.3") from None


def _stems(inputs: list[str]) -> list[str]:
    """What each input's results are called; two inputs must not write the same files."""
    stems = ["stdin" if name == "-" else Path(name).stem for name in inputs]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UsageError(f"two inputs are called {stem!r}: their results would overwrite each other", "rename one")
    return stems


def _to_do(records: list[Path], overwrite: bool, skip_existing: bool) -> list[int]:
    """Which inputs to work on, given the record that each will write last."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other")
    there = [record.exists() for record in records]
    if any(there) and not (overwrite or skip_existing):
        raise UsageError(f"{records[there.index(True)]} exists", "--overwrite, --skip-existing, or another --out")
    return [i for i, exists in enumerate(there) if not (exists and skip_existing)]


def _load_priors(names: list[str], k: int, weights: Path | None, device: str) -> tuple[list[Prior], dict[str, str]]:
    """Each prior loaded once, and what a record says of their weights."""
    from .. import weights as store
    from ..plugins import prior_spec
    from ..priors import load_prior

    loaded, hashes = {}, {}
    for name in names:
        if name not in loaded:
            loaded[name] = load_prior(name, weights_path=weights, device=device)
            spec = prior_spec(name)
            path = store.find(spec.weights, weights) if spec.weights else weights
            if path:
                hashes[name] = store.sha256(path)
    return [loaded[name] for name in (names * k if len(names) == 1 else names)], hashes


def separate(
    inputs: Inputs,
    k: Annotated[int, typer.Option("-k", help="How many pictures were laid over each other.")] = 2,
    prior: PriorNames = ["ncsn-mnist"],  # noqa: B006
    alpha: Annotated[str | None, typer.Option(help="Mixing coefficients, a,b,...  [default: 1/k each]")] = None,
    samples: Samples = 1,
    select: SelectOption = Select.all,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write each pixel's standard deviation over the samples.")
    ] = False,
    reference: Annotated[
        list[Path] | None, typer.Option(help="A true component, once for each: PSNR and order are to these.")
    ] = None,
    fit: Annotated[Fit | None, typer.Option(help="What to do with a picture of another size than the prior's.")] = None,
    weights: Weights = None,
    sampler: SamplerName = "ep",
    levels: Levels = None,
    steps: Steps = None,
    step_size: StepSize = None,
    noise_std: NoiseStd = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    batch: Batch = None,
    compile: Compile = False,
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    skip_existing: Skip = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> None:
    """Separate a picture into the k pictures that were laid over each other.

    Writes STEM.x1.png ... STEM.xk.png and STEM.json, the components ordered by PSNR: to the references if given, else
    to the mixture. --uncertainty adds STEM.x1.std.png ..., where white is a standard deviation of a quarter or more.
    """
    from .. import images, samplers, tasks
    from ..memory import batch_size
    from ..priors import choose_device

    if reference and len(inputs) > 1:
        raise UsageError("--reference goes with one input")
    if uncertainty and samples < 2:
        raise UsageError("--uncertainty compares samples", "--samples 10")
    if uncertainty and sampler in samplers.TOO_SURE:
        with warnings_as_lines():
            message = f"{sampler}'s samples are too sure of themselves; mmps' and langevin's are not"
            warnings.warn(message, InputWarning, stacklevel=2)
    stems = _stems(inputs)
    to_do = _to_do([out / f"{stem}.json" for stem in stems], overwrite, skip_existing)
    sampling = tasks.Sampling(
        sampler, levels, steps, step_size, noise_std, seed, device, dtype.value, batch, compile=compile
    )
    priors, hashes = _load_priors(prior, k, weights, device)
    sampling.options(priors)
    coefficients = _numbers(alpha)
    tasks.separation(priors, k, coefficients, samples, reference or None)
    how = fit.value if fit else None
    references = [images.read(path, priors[0].shape, how) for path in reference or []]
    pictures, failures = _read([(inputs[i], stems[i]) for i in to_do], priors[0].shape, how)
    if dry_run:
        for picture in pictures:
            stderr.print(f"would separate {picture.name} into {out / picture.stem}.x1.png ...", highlight=False)
    elif pictures:
        task = partial(
            tasks.separate,
            k=k,
            prior=priors,
            alpha=coefficients,
            samples=samples,
            select=select.value,
            references=references or None,
            sampling=sampling,
        )
        about = {"basis": __version__, "task": "separate", "prior": prior, "weights_sha256": hashes}
        at_once = batch or batch_size(priors, len(pictures) * samples, choose_device(device))
        size = max(1, at_once // samples)
        records = _run(task, pictures, size, out, about, quiet, uncertainty)
        failures += len(pictures) - len(records)
        _print(records, as_json)
    if failures:
        raise typer.Exit(1)


class _Picture(NamedTuple):
    name: str
    stem: str
    pixels: np.ndarray


def _read(
    named: list[tuple[str, str]], shape: tuple[int, int, int] | None, fit: str | None
) -> tuple[list[_Picture], int]:
    """All inputs that can be read, and how many cannot (each is reported; the others go on)."""
    from .. import images

    pictures, failures = [], 0
    with warnings_as_lines():
        for name, stem in named:
            try:
                pictures.append(_Picture(name, stem, images.read(name, shape, fit)))
            except InputError as error:
                fail(error)
                failures += 1
    return pictures, failures


def _run(
    task: Callable[..., Result],
    pictures: list[_Picture],
    size: int,
    out: Path,
    about: dict[str, Any],
    quiet: bool,
    uncertainty: bool,
) -> list[dict[str, Any]]:
    """Compute ``size`` pictures at a time and write each batch before the next begins, so nothing done is lost."""
    import torch

    from .. import images

    images.out_folder(out)
    records: list[dict[str, Any]] = []
    began = time.perf_counter()
    chunks = [pictures[first : first + size] for first in range(0, len(pictures), size)]
    with sampling_progress(len(chunks), quiet) as callback:
        for chunk in chunks:
            try:
                result = task(torch.stack([torch.from_numpy(p.pixels) for p in chunk]), callback=callback)
            except NotFiniteError as error:
                fail(error)
                continue
            ran = {
                "settings": result.settings,
                "evaluations": result.evaluations,
                "seconds": round(result.seconds / len(chunk), 3),
            }
            for i, picture in enumerate(chunk):
                files = _write_std(picture, out, result, i) if uncertainty else {}
                records.append(_write(picture, out, result, i, {"input": picture.name} | about | ran | files))
    if not quiet:
        stderr.print(f"{len(records)} done in {time.perf_counter() - began:.1f} s", highlight=False)
    return records


def _write(picture: _Picture, out: Path, result: Result, index: int, record: dict[str, Any]) -> dict[str, Any]:
    """Write the answers for one picture and, last, their record."""
    from .. import images

    k, _, samples = result.components.shape[:3]
    answers = []
    for sample in range(samples):
        prefix = picture.stem if samples == 1 else f"{picture.stem}.s{sample + 1}"
        files = [out / f"{prefix}.x{i + 1}.png" for i in range(k)]
        for i, file in enumerate(files):
            images.write_png(file, images.to_pillow(result.components[i, index, sample].numpy()))
        answer: dict[str, Any] = {
            "components": [str(file) for file in files],
            "residual_8bit_rms": round(float(result.residual[index, sample]), 4),
        }
        if result.psnr is not None:
            answer["psnr_db"] = [round(float(value), 3) for value in result.psnr[:, index, sample]]
        answers.append(answer)
    record = record | {"answers": answers}
    if result.log_likelihood is not None:
        record["log_likelihood_nats"] = [round(float(value), 2) for value in result.log_likelihood[index]]
        record["samples_per_distinct_answer"] = result.answers[index]
    images.write_text(out / f"{picture.stem}.json", json.dumps(record, indent=2) + "\n")
    return record


def _write_std(picture: _Picture, out: Path, result: Result, index: int) -> dict[str, Any]:
    """Write each component's standard deviation, white at a quarter, and return what a record says of it."""
    from .. import images

    assert result.std is not None, "uncertainty is refused for a single sample"
    std = result.std[:, index].clamp_max(0.25)
    files = [out / f"{picture.stem}.x{i + 1}.std.png" for i in range(len(std))]
    for file, component in zip(files, std, strict=True):
        images.write_png(file, images.to_pillow((4 * component).numpy()))
    means = [round(float(component.mean()), 5) for component in result.std[:, index]]
    return {"uncertainty": {"files": [str(file) for file in files], "white": 0.25, "mean_std": means}}


def _print(records: list[dict[str, Any]], as_json: bool) -> None:
    """The command's output proper: one JSON object, or the paths of the pictures."""
    if as_json:
        print(json.dumps({"results": records}))
    else:
        for record in records:
            for answer in record["answers"]:
                print(*answer["components"], sep="\n")


def sample(
    prior: Annotated[str, typer.Option("--prior", help="The prior to sample.")] = "ncsn-mnist",
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.")] = 16,
    weights: Weights = None,
    sampler: SamplerName = "langevin",
    levels: Levels = None,
    steps: Steps = None,
    step_size: StepSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    batch: Batch = None,
    compile: Compile = False,
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw pictures from a prior itself: what it believes pictures look like.

    Writes PRIOR-0001.png ..., and PRIOR.png with all of them.
    """
    from .. import images, tasks

    stem = prior.replace("/", "-")
    sheet = out / f"{stem}.png"
    _to_do([sheet], overwrite, False)
    loaded, hashes = _load_priors([prior], 1, weights, device)
    sampling = tasks.Sampling(
        sampler, levels, steps, step_size, None, seed, device, dtype.value, batch, compile=compile
    )
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

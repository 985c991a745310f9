"""One command at work: inputs read, priors loaded, results computed a batch at a time and written as they come."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import typer

from .. import __version__
from ..errors import InputError, InputWarning, NotFiniteError, UsageError
from .options import ModelOptions, OutputOptions, SampleOptions, SamplerOptions, TileOptions
from .output import fail, sampling_progress, stderr, warnings_as_lines

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import Prior
    from ..data.datasets import Dataset
    from ..posterior.resume import SavedState
    from ..posterior.sampling import Sampling
    from ..tasks import Result


def load_priors(names: list[str], k: int, weights: Path | None, device: str) -> tuple[list[Prior], dict[str, str]]:
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


def load_pictures(name: str, split: str, data_dir: Path | None, shape: tuple[int, int, int]) -> Dataset:
    """The split of a data set; a folder's or LSUN's pictures are made those of a prior of ``shape``."""
    from ..data.datasets import Squares, load_dataset

    return load_dataset(name, split, data_dir, Squares(shape[1], gray=shape[0] == 1))


def tiled(priors: list[Prior], size: tuple[int, int], tiles: TileOptions) -> list[Prior]:
    """The ``priors`` for pictures of ``(h, w)``: with --tile, of larger pictures in tiles."""
    from ..priors.tiles import PyramidPrior, TiledPrior

    if not tiles.tile or size == tuple(priors[0].shape[1:]):
        return priors
    larger: type[TiledPrior | PyramidPrior] = PyramidPrior if tiles.pyramid else TiledPrior
    made = {id(prior): larger(prior, size, tiles.overlap) for prior in priors}
    return [made[id(prior)] for prior in priors]


class Picture(NamedTuple):
    """One input."""

    name: str
    stem: str
    pixels: np.ndarray


class Job:
    """One command at work: which inputs, what is done with them, what became of them."""

    def __init__(
        self,
        task: str,
        inputs: list[str],
        sampling: Sampling,
        several: SampleOptions,
        tiles: TileOptions,
        output: OutputOptions,
        prior: str | list[str],
    ):
        self.task, self.sampling, self.several, self.output, self.prior = task, sampling, several, output, prior
        self.tiles = tiles
        self.priors: list[Prior] = []
        self.hashes: dict[str, str] = {}
        self.references: list[np.ndarray] = []
        self.inputs = inputs
        self.failures = 0
        self.records: list[dict[str, Any]] = []
        stems = _stems(inputs)
        records = [output.out / f"{stem}.json" for stem in stems]
        self.begun = self._begun_by_killed_runs(stems)
        again = set(to_do(records, output.overwrite, output.skip_existing or output.resume))
        again |= {stems.index(stem) for chunk in self.begun for stem in chunk}
        self.to_do = [(inputs[i], stems[i]) for i in sorted(again)]
        self._check()

    def _begun_by_killed_runs(self, stems: list[str]) -> list[list[str]]:
        """The inputs that killed runs had at work, each run's together, as their saved states say."""
        from ..posterior.resume import identity

        paths = [path for path in map(self._state, stems) if self.output.resume and path.exists()]
        begun = [identity(path)["inputs"] for path in paths]
        return [[stem for stem in chunk if stem in stems] for chunk in begun]

    def _state(self, stem: str) -> Path:
        return self.output.out / f"{stem}.state.safetensors"

    @classmethod
    def single(
        cls,
        task: str,
        inputs: list[str],
        sampler: SamplerOptions,
        several: SampleOptions,
        tiles: TileOptions,
        output: OutputOptions,
        model: ModelOptions,
    ) -> Job:
        """For tasks whose answer is one picture."""
        sampling = sampler.sampling(task, several.noise_std)
        run = cls(task, inputs, sampling, several, tiles, output, model.prior)
        run.priors, run.hashes = load_priors([model.prior], 1, model.weights, sampler.device)
        return run

    def _check(self) -> None:
        from ..samplers import TOO_SURE

        if self.several.samples < 1:
            raise UsageError(f"samples must be at least 1, not {self.several.samples}")
        self.tiles.check()
        if self.output.resume and self.output.frames:
            raise UsageError("--resume does not keep --frames", "leave out one of them")
        if self.output.uncertainty and self.several.samples < 2:
            raise UsageError("--uncertainty compares samples", "--samples 10")
        cold = self.sampling.temperature is not None and self.sampling.temperature < 1
        if self.output.uncertainty and (self.sampling.sampler in TOO_SURE or cold):
            which = f"{self.sampling.sampler}'s samples{' below temperature 1' if cold else ''}"
            with warnings_as_lines():
                message = f"{which} are too sure of themselves; mmps' and langevin's at temperature 1 are not"
                warnings.warn(message, InputWarning, stacklevel=2)

    def truth(self, reference: Path | None, fit: str | None) -> tuple[tuple[int, int, int], str | None]:
        """Read the reference, if given; the shape of what the prior models, and how pictures are made to fit it."""
        c, h, w = self.priors[0].shape
        self.read_references([reference] if reference else [], (c, h, w), fit)
        return (c, h, w), fit

    def read_references(self, paths: list[Path], shape: tuple[int, int, int], fit: str | None) -> None:
        """Read the true pictures."""
        from ..data import images

        self.references = [images.read(path, shape, fit, self.tiles.tile) for path in paths]

    def read(self, shape: tuple[int, int, int], fit: str | None) -> list[Picture]:
        """All inputs that can be read and fitted."""
        from ..data import images

        return self.each(lambda name: images.read(name, shape, fit, self.tiles.tile))

    def each(self, read: Callable[[str], np.ndarray]) -> list[Picture]:
        """All inputs that ``read`` can read; each that it cannot is reported, and the others go on."""
        if self.references and len(self.inputs) > 1:
            raise UsageError("--reference goes with one input")
        self.sampling.options(self.priors)
        pictures = []
        with warnings_as_lines():
            for name, stem in self.to_do:
                try:
                    pictures.append(Picture(name, stem, read(name)))
                except InputError as error:
                    self.failed(error)
        return pictures

    def failed(self, error: InputError | NotFiniteError) -> None:
        """Report an error that concerns one input only."""
        fail(error)
        self.failures += 1

    def carry_out(self, pictures: Sequence[Picture], task: Callable[..., Result], factor: int = 1) -> None:
        """Compute, write and print everything; the answers are ``factor`` times as large as the pictures."""
        sizes: dict[tuple[int, int], list[Picture]] = {}
        for picture in pictures:
            sizes.setdefault(picture.pixels.shape[1:], []).append(picture)
        for (h, w), group in sizes.items():
            self.compute(self.priors_of((factor * h, factor * w)), group, task)
        self.finish()

    def priors_of(self, size: tuple[int, int]) -> list[Prior]:
        """The priors for pictures of ``(h, w)``."""
        return tiled(self.priors, size, self.tiles)

    def compute(self, priors: list[Prior], pictures: Sequence[Picture], task: Callable[..., Result]) -> None:
        """Compute a batch at a time and write each before the next begins, so nothing done is lost."""
        import torch

        from ..compute import choose_device
        from ..data import images
        from ..posterior.memory import batch_size
        from ..posterior.sampling import Frames

        if self.output.dry_run or not pictures:
            for picture in pictures:
                where = self.output.out / f"{picture.stem}.x1.png"
                stderr.print(f"would {self.task} {picture.name} into {where} ...", highlight=False)
            return
        images.out_folder(self.output.out)
        samples = self.several.samples
        device = choose_device(self.sampling.device)
        at_once = self.sampling.batch or batch_size(priors, len(pictures) * samples, device)
        chunks = self._chunks(pictures, max(1, at_once // samples))
        began, before = time.perf_counter(), len(self.records)
        with sampling_progress(len(chunks), self.output.quiet) as progress:
            while chunks:
                chunk = chunks.pop(0)
                frames = Frames(progress) if self.output.frames else None
                saved = self._saved_state(priors, chunk)
                try:
                    result = task(
                        torch.stack([torch.from_numpy(p.pixels) for p in chunk]),
                        prior=priors if self.task == "separate" else priors[0],
                        samples=samples,
                        select=self.several.select.value,
                        references=self._references(),
                        sampling=self.sampling,
                        callback=frames or progress,
                        saved=saved,
                    )
                except NotFiniteError as error:
                    if len(chunk) > 1:  # a picture does not depend on those beside it: find out which it is
                        chunks[:0] = [[picture] for picture in chunk]
                    else:
                        self.failed(NotFiniteError(f"{chunk[0].name}: {error.message}", error.hint))
                else:
                    for i, picture in enumerate(chunk):
                        self._write(picture, result, i, len(chunk), frames, about_tiles(priors[0]))
                if saved:
                    saved.remove()
        if not self.output.quiet:
            done = len(self.records) - before
            stderr.print(f"{done} done in {time.perf_counter() - began:.1f} s", highlight=False)

    def _chunks(self, pictures: Sequence[Picture], size: int) -> list[list[Picture]]:
        """The pictures, ``size`` at a time; first those that killed runs had at work together."""
        begun = [[picture for picture in pictures if picture.stem in stems] for stems in self.begun]
        rest = [picture for picture in pictures if not any(picture.stem in stems for stems in self.begun)]
        chunks = begun + [rest[first : first + size] for first in range(0, len(rest), size)]
        return [chunk for chunk in chunks if chunk]

    def _saved_state(self, priors: list[Prior], chunk: list[Picture]) -> SavedState | None:
        """Where the state of a run on ``chunk`` is kept, with what tells it from other runs."""
        from ..posterior.resume import SavedState

        if not self.output.resume:
            return None
        about: dict[str, Any] = {
            "basis": __version__,
            "task": self.task,
            "prior": self.prior,
            "weights_sha256": self.hashes,
        }
        about |= {"inputs": [picture.stem for picture in chunk], "tiles": about_tiles(priors[0])}
        return SavedState(self._state(chunk[0].stem), about)

    def _references(self) -> Any:
        if not self.references:
            return None
        return self.references if self.task == "separate" else self.references[0]

    def finish(self) -> None:
        """The command's output proper: one JSON object, or the paths of the pictures; and its exit code."""
        if self.output.as_json and not self.output.dry_run:
            print(json.dumps({"results": self.records}))
        elif not self.output.as_json:
            for record in self.records:
                for answer in record["answers"]:
                    print(*answer["components"], sep="\n")
        if self.failures:
            raise typer.Exit(1)

    def _write(
        self, picture: Picture, result: Result, index: int, count: int, frames: Any, tiles: dict[str, Any] | None
    ) -> None:
        """Write the answers for one picture and, last, their record."""
        from ..data import images

        out, stem = self.output.out, picture.stem
        record: dict[str, Any] = {
            "input": picture.name,
            "basis": __version__,
            "task": self.task,
            "prior": self.prior,
            "weights_sha256": self.hashes,
            "settings": result.settings,
            "evaluations": result.evaluations,
            "seconds": round(result.seconds / count, 3),
        }
        if tiles:
            record["tiles"] = tiles
        if self.output.uncertainty:
            record |= _write_std(out / stem, result, index)
        if self.output.sheet:
            record["sheet"] = str(images.with_ending(out / stem, ".sheet.png"))
            _write_sheet(Path(record["sheet"]), result, index, self.references)
        if frames:
            first = index * self.several.samples + result.drawn[index][0]  # the most probable one's way
            states = frames.of(first, result.components[:, index, 0])
            record["frames"] = [str(file) for file in images.write_frames(out / stem, states.numpy())]
        record["answers"] = _write_answers(out, stem, result, index)
        if result.log_likelihood is not None:
            record["log_likelihood_nats"] = _numbers(result.log_likelihood[index], 2)
            record["samples_per_distinct_answer"] = result.answers[index]
        images.write_text(out / f"{stem}.json", json.dumps(record, indent=2) + "\n")
        self.records.append(record)


def about_tiles(prior: Prior) -> dict[str, Any] | None:
    """What a record says of the tiles that pictures were worked on in, if they were."""
    from ..priors.tiles import PyramidPrior, TiledPrior

    scales = prior.scales if isinstance(prior, PyramidPrior) else [prior]
    tiled = [scale for scale in scales if isinstance(scale, TiledPrior)]
    if not tiled:
        return None
    counts = [len(scale.corners) for scale in tiled]
    count = counts if isinstance(prior, PyramidPrior) else counts[0]
    return {"count": count, "size": tiled[0].tile, "overlap": tiled[0].overlaps}


def _stems(inputs: list[str]) -> list[str]:
    """What each input's results are called; two inputs must not write the same files."""
    stems = ["stdin" if name == "-" else Path(name).stem for name in inputs]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UsageError(f"two inputs are called {stem!r}: their results would overwrite each other", "rename one")
    return stems


def to_do(records: list[Path], overwrite: bool, skip_existing: bool) -> list[int]:
    """Which inputs to work on, given the record that each will write last."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite excludes --skip-existing and --resume")
    there = [record.exists() for record in records]
    if any(there) and not (overwrite or skip_existing):
        raise UsageError(f"{records[there.index(True)]} exists", "--overwrite, --skip-existing, or another --out")
    return [i for i, exists in enumerate(there) if not (exists and skip_existing)]


def _numbers(values: Tensor, digits: int) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [None if math.isnan(value) else round(value, digits) for value in values.tolist()]


def _write_answers(out: Path, stem: str, result: Result, index: int) -> list[dict[str, Any]]:
    from ..data import images
    from ..evaluation import metrics

    k, _, samples = result.components.shape[:3]
    answers = []
    for sample in range(samples):
        prefix = stem if samples == 1 else f"{stem}.s{sample + 1}"
        files = [out / f"{prefix}.x{i + 1}.png" for i in range(k)]
        for i, file in enumerate(files):
            images.write_png(file, images.to_pillow(result.components[i, index, sample].numpy()))
        answer: dict[str, Any] = {
            "components": [str(file) for file in files],
            "residual_8bit_rms": round(float(result.residual[index, sample]), 4),
        }
        if result.psnr is not None:
            answer["psnr_db"] = _numbers(result.psnr[:, index, sample], 3)
        if result.log_prob is not None:
            nats = result.log_prob[:, index, sample]
            bits = metrics.bits_per_dim(nats, result.components[0, 0, 0].numel())
            answer["log_prob_nats"] = _numbers(nats, 2)
            answer["bits_per_dim"] = _numbers(bits, 4)
        answers.append(answer)
    return answers


def _write_std(base: Path, result: Result, index: int) -> dict[str, Any]:
    """Write each component's standard deviation, white at a quarter, and return what a record says of it."""
    from ..data import images

    assert result.std is not None, "uncertainty is refused for a single sample"
    std = result.std[:, index].clamp_max(0.25)
    files = [images.with_ending(base, f".x{i + 1}.std.png") for i in range(len(std))]
    for file, component in zip(files, std, strict=True):
        images.write_png(file, images.to_pillow((4 * component).numpy()))
    means = [round(float(component.mean()), 5) for component in result.std[:, index]]
    return {"uncertainty": {"files": [str(file) for file in files], "white": 0.25, "mean_std": means}}


def _write_sheet(path: Path, result: Result, index: int, references: list[np.ndarray]) -> None:
    """A row for each component: the input (in the first), the answers, and the truth if it is known."""
    from ..data import images

    answers = result.components[:, index].numpy()
    k, _, c, h, w = answers.shape
    seen = images.filled(result.y[index].numpy(), (c, h, w))
    rows = []
    for i in range(k):
        rows += [seen if i == 0 else np.ones_like(seen), *answers[i], *references[i : i + 1]]
    images.write_sheet(path, np.stack(rows), columns=len(rows) // k)

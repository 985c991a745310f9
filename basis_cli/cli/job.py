"""One command at work: inputs read, priors loaded, answers written as they come."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import __version__
from ..errors import InputError, InputWarning, NotFiniteError, UsageError
from . import report
from .checks import check
from .inputs import named, placed
from .ledger import NAME, Ledger
from .loading import load_model, load_priors
from .options import ModelOptions, OutputOptions, SampleOptions, TileOptions, preset
from .output import fail, sampling_progress, stderr, tell_time
from .plan import Pair, planned
from .records import Options, contents, read, unlike, weights_sha256
from .results import Picture, Results

if TYPE_CHECKING:
    import numpy as np

    from ..api import DirectModel, Prior
    from ..compute import Compute
    from ..posterior import Posterior, Result, Sampling, SavedState
    from ..tasks.base import Task


class Job:
    """One command at work: which inputs, what is done with them, what became of them."""

    def __init__(
        self,
        task: Task,
        inputs: list[str],
        model: ModelOptions,
        sampling: Sampling,
        compute: Compute,
        several: SampleOptions,
        tiles: TileOptions,
        output: OutputOptions,
        options: Options,
    ):
        self.given = (task, model, sampling, compute, several, tiles, output, options)
        self.task, self.compute = task, compute
        sampled = tiles.tile or tiles.pyramid or output.frames or output.resume
        answering = task.answering(model.model, model.prior, sampling, model.refine, sampled)
        self.model = replace(model, model=answering)
        self.tiles, self.output = tiles, output
        self.preset = preset(several.fast, several.best)
        direct = bool(self.model.model) and not model.refine
        self.sampling, self.samples, self.select = several.chosen(task, sampling, direct)
        self.options, self.others = options, contents([*options.files, *task.beside])
        self.priors: list[Prior] = []
        self.direct: DirectModel | None = None
        self.hashes: dict[str, str] = {}
        self.references: list[np.ndarray] = []
        self.shape, self.larger = (0, 0, 0), False
        self.failures = 0
        self.doubted = False
        self.record: Callable[[dict[str, Any]], None]
        """What is done with the record of an answer."""
        self.place = placed(output)
        self.results = Results(task, self.samples, self.samples if self.select == "all" else 1, self.place, output)
        self.inputs, self.stems = named(inputs, output.recursive, self.place)
        self.begun: list[list[str]] = []
        self.to_do: list[Pair] = []
        check(self)
        if self.model.refine:
            from ..posterior import refining

            self.sampling = refining(self.sampling, self.task.defaults)

    @property
    def about(self) -> dict[str, Any]:
        """What every record says."""
        by: dict[str, Any] = {"model": self.model.model} if self.model.model else {}
        if self.model.refine or not by:
            by["prior"] = self.model.prior or [self.task.prior]
        by |= {"preset": self.preset} if self.preset else {}
        made = {"basis": __version__, "task": self.task.name, "options": self.options.words}
        made |= {"together_with": self.task.beside} if self.task.beside else {}
        return made | by | {"weights_sha256": self.hashes}

    @property
    def planned_sha256(self) -> dict[str, str]:
        """That of each file of weights, before they are read."""
        from ..plugins import posterior_spec, prior_spec

        model, own = self.model.model, self.model.weights
        hashes = weights_sha256({model: posterior_spec(model)}, own) if model else {}
        if self.model.refine or not model:
            priors = self.model.prior or [self.task.prior]
            hashes |= weights_sha256({prior: prior_spec(prior) for prior in priors}, None if model else own)
        return hashes

    def _unlike(self, name: str, files: Sequence[Path]) -> tuple[str, bool]:
        """Why what is there is not the answer to an input, as :func:`~basis_cli.cli.records.unlike`."""
        self.hashes = self.hashes or self.planned_sha256
        about = self.about | {"inputs_sha256": contents([name]) | self.others}
        return unlike(files[-1], files, about, self.results.recorded)

    def _warn(self, sampling: Sampling) -> None:
        """Say so if the spread of the samples is not the posterior's."""
        if not self.output.uncertainty or sampling.sampler is None or self.task.k > 1 or not sampling.timid:
            return
        cold = sampling.temperature is not None and sampling.temperature < 1
        which = f"{sampling.sampler}'s samples{' below temperature 1' if cold else ''}"
        message = f"{which} are too sure of themselves; mmps' and langevin's at temperature 1 are not"
        warnings.warn(message, InputWarning, stacklevel=2)

    def do(self) -> None:
        """Read, compute, write and print everything, and raise the exit code."""
        from ..data.files import claimed

        def waiting(stem: str) -> None:
            stderr.print(f"another run is at work on {stem} in {self.place.folder}: waiting for it", soft_wrap=True)

        with claimed(self.place.folder, self.stems, waiting):
            self.records = Ledger(self.place.folder / NAME if self.output.jsonl and not self.output.dry_run else None)
            self.record = self.records.append
            self.results = replace(self.results, recorded=self.records if self.output.jsonl else None)
            pairs = list(zip(self.inputs, self.stems, strict=True))
            self.to_do, self.begun, refused = planned(pairs, self.results, self.output, self._unlike)
            self.failures += refused
            self._do()
            if self.output.report and not self.output.dry_run:
                self._write_report()
            self._finish()

    def _do(self) -> None:
        if self.output.dry_run or not self.shared:
            self.load()
            self.answer(self.to_do)
            return
        from .engines import chosen
        from .workers import shared

        if self.begun:
            raise UsageError("a run of one worker was killed here", "go on without --workers first")
        if not self.to_do:
            return
        for records, failures in shared(chosen(self), self.to_do, self.output.quiet):
            self.failures += failures
            for record in records:
                self.record(record)

    @property
    def shared(self) -> bool:
        """Whether others do the work."""
        return self.output.cluster is not None or not self.output.workers.one

    def left(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Those that the worker which was lost had not done; what it had counts."""
        from ..data.files import remove_partial

        left = []
        for name, stem in pairs:
            *_, file = files = self.results.files(stem)
            if file.is_file() and self._unlike(name, files) == ("", False):
                self.record(read(file))
            else:
                left.append((name, stem))
        remove_partial(file for _, stem in left for file in self.results.all_files(stem))
        return left

    def move(self, folder: Path) -> None:
        """Write results there."""
        self.place = replace(self.place, folder=folder)
        self.results = replace(self.results, place=self.place)

    def _write_report(self) -> None:
        """Of all inputs, also those that were done before."""
        found = [file for stem in self.stems if (file := self.results.files(stem)[-1]).is_file()]
        if found:
            report.write(self.results.report, found)
            stderr.print(f"report: {self.results.report}", soft_wrap=True)

    def load(self) -> None:
        """Read what answers, and the references."""
        if self.model.model:
            self.direct, self.hashes = load_model(self.task, self.model.model, self.model.weights, self.compute)
        if self.model.refine or not self.direct:
            given = None if self.direct else self.model.weights
            self.priors, hashes = load_priors(self.task, self.model.prior, given, self.compute)
            self.hashes |= hashes
        self.shape, self.larger = self.task.least([self.direct, *self.priors] if self.direct else self.priors)
        if self.tiles.tile:
            self.shape, self.larger = self.priors[0].shape, True
        self.task.check(self.shape, self.larger)
        if self.priors:
            self.sampling.over(self.task.defaults).options(self.priors)
        self._read_references(self.shape)

    def answer(self, pairs: Iterable[Pair]) -> None:
        """Answer inputs, each with its stem, and write what comes of them to files, and their records."""
        for pictures in self._read(pairs):
            self._answer_read(pictures)

    def _answer_read(self, pictures: Sequence[Picture]) -> None:
        groups: dict[tuple[Task, tuple[int, int], bool, Sampling], list[Picture]] = {}
        for picture in pictures:
            pixels = picture.stored.pixels
            h, w = pixels.shape[1:]
            sampling = self._measured(picture)
            groups.setdefault((picture.task, (h, w), picture.task.gray(pixels), sampling), []).append(picture)
        work, refused = [], []
        # all that can be refused is refused before anything is computed
        for (task, seen, gray, sampling), pictures in groups.items():
            try:
                work.append((self._posterior(task, seen, gray, sampling), task, pictures))
            except InputError as error:  # a mask of another size than these pictures
                refused += [(error, picture) for picture in pictures]
        if refused and not work:
            raise refused[0][0]
        for reason, picture in refused:
            self._failed(InputError(f"{picture.name}: {reason.message}", reason.hint))
        if work:
            self._warn(getattr(work[0][0], "sampling", self.sampling))
        for posterior, task, pictures in work:
            self._answer(posterior, task, pictures)

    def _measured(self, picture: Picture) -> Sampling:
        """How to sample this one, which may have noise of its own."""
        import torch

        sampling = self.sampling
        if sampling.noise_std == "auto":
            sampling = sampling.measured(picture.task.measurable(torch.from_numpy(picture.stored.pixels)))
            if not self.output.quiet:
                found = f"noise of {sampling.noise_std:g}" if sampling.noise_std else "no noise"
                stderr.print(f"{picture.name}: {found}", soft_wrap=True, highlight=False)
        return sampling

    def _posterior(self, task: Task, seen: tuple[int, int], gray: bool, sampling: Sampling) -> Posterior:
        from ..priors.tiles import tiled

        if self.direct:
            return task.directed(self.direct, seen, sampling, str(self.model.model), self.priors)
        priors = self.priors
        if self.tiles.tile:
            priors = tiled(priors, task.size(seen), self.tiles.overlap, self.tiles.pyramid)
        return task.posterior(task.suited(priors, seen, gray), sampling)

    def _read_references(self, shape: tuple[int, int, int]) -> None:
        from ..data import images

        paths = self.model.reference or []
        if paths and len(paths) != self.task.k:
            count = f"{len(paths)} references for {self.task.k} components"
            raise UsageError(count, "--reference takes one picture for each")
        fit, white_level = self.task.fit, self.task.white_level
        self.references = [images.read(path, shape, fit, self.larger, white_level) for path in paths]

    def _read(self, pairs: Iterable[Pair]) -> Iterator[list[Picture]]:
        """All inputs that can be read, as many together as take little memory; what runs that were killed had begun
        together stays so. Each that cannot be read is reported, and the others go on."""
        from ..data import images

        pictures: list[Picture] = []
        held = 0
        for name, stem in pairs:
            if held > PART and not self.begun:
                yield pictures
                pictures, held = [], 0
            try:
                task, stored = self.task.read(name, self.shape, self.larger)
                picture = Picture(name, stem, task, stored, contents([name]) | self.others)
                h, w = picture.stored.pixels.shape[1:]
                size, opaque = picture.task.size((h, w)), picture.stored.opacity is None
                images.check_storable(name, self.place.ending, size, opaque)
                pictures.append(picture)
                held += picture.stored.pixels.nbytes
            except InputError as error:
                self._failed(error)
        yield pictures

    def _failed(self, error: InputError | NotFiniteError) -> None:
        """Report an error that concerns one input only."""
        fail(error)
        self.failures += 1

    def _answer(self, posterior: Posterior, task: Task, pictures: Sequence[Picture]) -> None:
        """Answer pictures that set the same task, and write each answer when it is there, so nothing done is lost."""
        import numpy as np
        import torch

        from ..data import images
        from ..posterior import Frames, Guided, answers, estimated_seconds
        from ..priors.tiles import in_words
        from ..samplers.noise import picture_seeds

        if self.output.dry_run:
            for picture in pictures:
                where = self.results.files(picture.stem)[0]
                stderr.print(f"would {task.name} {picture.name} into {where} ...")
            return
        if any(reference.shape != tuple(posterior.shape) for reference in self.references):
            raise InputError(f"a reference has another shape than the answer's {tuple(posterior.shape)}")
        for folder in sorted({(self.place.folder / picture.stem).parent for picture in pictures}):
            images.out_folder(folder)
        y = task.observed(torch.stack([torch.from_numpy(p.stored.pixels) for p in pictures]), posterior.operator)
        stems = [picture.stem for picture in pictures]
        begun = [[stems.index(stem) for stem in chunk if stem in stems] for chunk in self.begun]
        about = self._about(posterior)
        began, done = time.perf_counter(), 0
        if isinstance(posterior, Guided) and not self.output.quiet:
            seconds = estimated_seconds(posterior, len(y), self.samples, self.compute, self.output.uncertainty)
            tell_time(seconds, in_words(posterior.priors[0]))
        with sampling_progress(self.output.quiet) as progress:
            frames = Frames(progress) if self.output.frames else None
            for i, result in answers(
                posterior,
                y,
                picture_seeds(self.sampling.seed, y, self.samples),
                compute=self.compute,
                select=self.select,
                truth=torch.from_numpy(np.stack(self.references))[:, None] if self.references else None,
                watch=frames or progress,
                saved=lambda inputs: self._saved(posterior, [stems[i] for i in inputs]),
                begun=[chunk for chunk in begun if chunk],
                go_on=True,
                uncertainty=self.output.uncertainty,
            ):
                if isinstance(result, NotFiniteError):
                    self._failed(NotFiniteError(f"{pictures[i].name}: {result.message}", result.hint))
                else:
                    self.record(self.results.write(pictures[i], result, about, self.references, frames, i))
                    done += 1
                    if self.output.preview:
                        from . import preview

                        preview.answers(stderr, result)
                    self._doubt(pictures[i], result, posterior)
                if frames:
                    frames.forget(i)
        if not self.output.quiet:
            stderr.print(f"{done} done in {time.perf_counter() - began:.1f} s")

    def _about(self, posterior: Posterior) -> Mapping[str, Any]:
        """What every record of this posterior's answers says."""
        from ..posterior import Guided
        from ..priors.tiles import about_tiles

        tiles = about_tiles(posterior.priors[0]) if isinstance(posterior, Guided) else None
        return self.about | ({"tiles": tiles} if tiles else {})

    def _saved(self, posterior: Posterior, stems: list[str]) -> SavedState | None:
        """Where the state of a run on these inputs is kept, with what tells it from other runs."""
        from ..posterior import SavedState

        if not self.output.resume:
            return None
        return SavedState(self.results.state(stems[0]), {**self._about(posterior), "inputs": stems})

    def _doubt(self, picture: Picture, result: Result, posterior: Posterior) -> None:
        """Say so if the answer is improbable, and of the first such answer what it may come from."""
        from ..posterior import Guided
        from ..posterior.surprise import IMPROBABLE

        if result.surprise is None or not isinstance(posterior, Guided):
            return
        found, cause = float(result.surprise[:, 0, 0].mean()), None
        if found <= IMPROBABLE:
            return
        if not self.doubted and not self.tiles.tile and not self.output.quiet:  # it takes about a run's time
            cause = picture.task.cause(self.priors, result.y, found, posterior.sampling, self.compute)
        self.doubted = True
        why = f"the likely cause is mended by {cause}" if cause else "is it of other pictures than the prior's?"
        message = f"{picture.name}: its components are improbable under the prior; {why}"
        warnings.warn(message, InputWarning, stacklevel=2)

    def _finish(self) -> None:
        """The command's output proper: one JSON object, or the paths of the pictures; and its exit code."""
        if self.output.as_json and not self.output.dry_run:
            shown = (json.dumps(record) for record in self.records.of(self.stems))
            print('{"results": [', end=next(shown, ""))
            for each in shown:
                print(f", {each}", end="")
            print("]}")
        elif not self.output.as_json:
            for record in self.records.of(self.stems):
                for answer in record["answers"]:
                    print(*answer["components"], sep="\n")
        if self.failures:
            raise typer.Exit(1)


PART = 2**28
"""Bytes of pictures that are read at a time: memory does not grow with how many there are."""

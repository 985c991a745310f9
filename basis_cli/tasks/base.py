"""A task is a user's verb. Importing this module does not import torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from ..errors import InputError, UsageError

Shape = tuple[int, int, int]

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..api import DirectModel, Prior
    from ..compute import Compute
    from ..data.images import Stored
    from ..operators import Operator
    from ..posterior import Guided, Posterior, Sampling

    Picture = str | Path | np.ndarray | Tensor
    """A file, or intensities in [0, 1] ``(c, h, w)``; ``(n, c, h, w)`` holds several."""


class Fit(str, Enum):
    """What to do with a picture of another size than the prior's."""

    crop = "crop"
    resize = "resize"
    pad = "pad"


WhiteOption = Annotated[
    float | None,
    typer.Option(help="Stored value that is white, 4095 of 12-bit pictures. (default: the largest that can be stored)"),
]
FitOption = Annotated[Fit | None, typer.Option(help="What to do with a picture of another size than the prior's.")]


def as_fit(name: str | None) -> Fit | None:
    """The way to fit called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name is not None and name not in list(Fit):
        raise UsageError(f"no way to fit is called {name!r}", f"known: {', '.join(fit.value for fit in Fit)}")
    return None if name is None else Fit(name)


@dataclass(frozen=True)
class Task:
    """A user's verb: which operator it undoes, how its files are read, what one would do without a prior.

    A subclass is a frozen dataclass, for equal tasks are done together. Its fields, annotated for Typer, are its own
    options; its docstring is its help.
    The command ``basis NAME`` is made of it (:mod:`basis_cli.cli.run`), and, with ``damage``, ``basis evaluate NOUN``.
    """

    name: ClassVar[str]
    """The verb: ``colorize``."""
    noun: ClassVar[str]
    """What it does: ``colorization``."""
    prior: ClassVar[str] = "ncsn-photo"
    """The prior unless another is chosen."""
    model: ClassVar[str | None] = None
    """The direct model that answers unless another model, a prior, or something of a sampler is chosen."""
    guided: ClassVar[bool] = True
    """Whether priors answer at all."""
    pyramid: ClassVar[bool] = False
    """Whether large shapes matter, so that priors of any size see pictures at every scale."""
    defaults: ClassVar[Mapping[str, Any]] = {"sampler": "project"}
    """Of :class:`basis_cli.posterior.Sampling`; the sampler at least."""
    conditional: ClassVar[Mapping[str, Any] | None] = None
    """The same for the sampler ``conditional``, where it is the default for priors that know what is observed
    (:class:`basis_cli.api.Conditional`)."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {"levels": 10},
        "best": {"samples": 4, "select": "mode"},
    }
    """What ``--fast`` and ``--best`` say of :class:`basis_cli.posterior.Sampling`, of how many samples, and of what to
    keep of them; what is said beside them counts (docs/concepts/samplers.md)."""
    damage: ClassVar[type[Damage] | None] = None
    """How ``basis evaluate NOUN`` makes tasks; ``None``: it has no such command."""
    several: ClassVar[bool] = False
    """Whether an answer is several pictures, for which references are given one by one, even if there is but one."""
    colours: ClassVar[bool] = False
    """Whether gray pictures are answered in colour."""
    palette: ClassVar[Mapping[str, tuple[int, int, int]]] = {}
    """What the colours of its files mean, where they are painted by hand: a name to ``(red, green, blue)``."""

    @property
    def fit(self) -> Fit | None:
        """What to do with files of another size, see :class:`Fit`; a field where that can be chosen."""
        return None

    @property
    def white_level(self) -> float | None:
        """The stored value of files that is white, see :func:`basis_cli.data.images.read`; a field like ``fit``."""
        return None

    @property
    def k(self) -> int:
        """How many pictures an answer has."""
        return 1

    @property
    def beside(self) -> tuple[str, ...]:
        """The other files that belong to the one input."""
        return ()

    def gathered(self, inputs: list[str]) -> tuple[Task, list[str]]:
        """The task of all ``inputs`` of a command, and which of them have answers of their own."""
        return self, inputs

    def operator(self, shape: Shape) -> Operator:
        """How pictures of ``(c, h, w)`` make the observed one."""
        raise NotImplementedError

    def seen(self, shape: Shape) -> Shape:
        """The shape of files, for answers of ``(c, h, w)``."""
        return shape

    def size(self, seen: tuple[int, int]) -> tuple[int, int]:
        """``(h, w)`` of the answer to a file of ``(h, w)``."""
        return seen

    def observed(self, pictures: Tensor, operator: Operator) -> Tensor:
        """``y`` ``(n, ...)`` of pictures ``(n, c, h, w)`` as they were read."""
        return pictures

    def given(self, pictures: Picture | Sequence[Picture], shape: Shape, larger: bool) -> Tensor:
        """What the library is given as ``(n, ...)``, for answers of ``shape``, or at least that if ``larger``."""
        return as_batch(pictures, self.seen(shape), self.fit, larger, self.white_level)

    def measurable(self, picture: Tensor) -> Tensor:
        """Of a ``picture`` ``(c, h, w)`` as it was read, what its noise is measured in; NaN where nothing is known."""
        return picture

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Answers ``(n, c, h, w)`` as one would have them without a prior."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """The damage, for the record of an evaluation."""
        return {}

    def read(self, source: Path | str, shape: Shape, larger: bool = False) -> tuple[Task, Stored]:
        """What is in a file, for answers of ``shape``, and the task that it sets.

        Raises:
            InputError: see :func:`basis_cli.data.images.read`.
        """
        from ..data import images

        return self, images.load(source, self.seen(shape), self.fit, larger, white_level=self.white_level)

    def opacity(self, seen: np.ndarray, shape: Shape) -> np.ndarray:
        """``(1, h, w)``, the opacity of answers of ``shape`` to a file whose own was ``seen``."""
        from ..data import images

        return images.resized(seen, shape[1:])

    def check(self, shape: Shape, larger: bool = False) -> None:
        """Raise a :class:`UsageError` for what a prior of this ``shape`` cannot do, before any file is read; if
        ``larger``, the pictures may be larger than its own."""

    def least(self, by: Sequence[Prior | DirectModel]) -> tuple[Shape, bool]:
        """The shape of answers, and whether they may be larger than that."""
        from ..priors import tiles

        shape: Shape = tuple(by[0].shape)  # type: ignore[assignment]
        if self.fit is None and tiles.any_size(by):
            return (shape[0], 1, 1), True
        return shape, False

    def suited(self, priors: Sequence[Prior], seen: tuple[int, int], gray: bool = False) -> list[Prior]:
        """The ``priors`` for answers to pictures of ``(h, w)``, if they take any size; of ``gray`` ones, gray."""
        from ..priors import tiles, wrapper
        from ..priors.given import given

        if self.fit is None and tiles.any_size(priors):
            knowing = self.conditional is not None and given(priors, self.operator(priors[0].shape)) is not None
            # noise that is drawn for what is unknown hides the mean of 64 x 64 pixels, not of larger areas
            priors = tiles.suited(priors, self.size(seen), self.pyramid or knowing)
        return wrapper.wrapped(priors, wrapper.GrayPrior) if gray else list(priors)

    def directed(
        self, model: DirectModel, seen: tuple[int, int], sampling: Sampling, name: str, priors: Sequence[Prior]
    ) -> Posterior:
        """The answers of a ``model`` to pictures of ``(h, w)``; with ``priors``, refined by those."""
        from ..api import AnySizeModel
        from ..posterior import Direct, Guided, Sampling, refining

        if self.fit is None and isinstance(model, AnySizeModel):
            model = model.sized(self.size(seen))
        operator = self.operator(model.shape)
        if not priors:
            return Direct(model, operator, name, sampling)
        start = Direct(model, operator, name, Sampling(seed=sampling.seed))
        return Guided(self.suited(priors, seen), operator, refining(sampling, self.defaults), start)

    def gray(self, picture: np.ndarray | Tensor) -> bool:
        """Whether the answer to a picture ``(c, h, w)`` of several channels is gray, because the picture is."""
        return not self.colours and len(picture) > 1 and all(bool((channel == picture[0]).all()) for channel in picture)

    def answering(self, model: Any, prior: Any, sampling: Sampling, refine: bool = False, sampled: bool = False) -> Any:
        """The direct model that answers; ``None``: a prior and a sampler do.

        It is ``model``, or, where neither it nor a ``prior`` nor something of a sampler is chosen, :attr:`model`.

        Args:
            refine: the model's answers begin the sampler, which takes all that is chosen.
            sampled: something is asked for that only a sampler has: tiles, frames, a state to resume.

        Raises:
            UsageError: there is no model to refine, or something is chosen that it does not take.
        """
        plain = type(sampling)(seed=sampling.seed, temperature=sampling.temperature)
        if model is None and not (prior or refine or sampled) and (sampling == plain or not self.guided):
            model = self.model
        if refine and model is None:
            raise UsageError("--refine begins with the answers of a model", "--model NAME")
        if model is not None and not refine:
            if prior:
                raise UsageError("a direct model has no prior and no sampler", "leave out their options, or --refine")
            sampling.of_model()
        return model

    def chosen(
        self, preset: str | None, sampling: Sampling, samples: int | None, select: str | None, direct: bool = False
    ) -> tuple[Sampling, int, str]:
        """``sampling`` and the rest, with what ``preset`` says where nothing is chosen; without it one sample.

        A ``direct`` model takes nothing that it says of the sampler.

        Raises:
            UsageError: no such preset, or another sampler than its own.
        """
        if preset is not None and preset not in self.presets:
            raise UsageError(f"no preset is called {preset!r}", f"known: {', '.join(self.presets)}")
        says: dict[str, Any] = {"samples": 1, "select": "all"} | dict(self.preset(preset) if preset else {})
        count, keep = says.pop("samples"), says.pop("select")
        says = {} if direct else says
        own = says.get("sampler", self.defaults["sampler"])
        if says and sampling.sampler not in (None, own):
            raise UsageError(f"the preset {preset!r} is the sampler {own!r}'s", "leave out one of them")
        free = {name: value for name, value in says.items() if getattr(sampling, name) is None}
        return replace(sampling, **free), count if samples is None else samples, select or keep

    def preset(self, name: str) -> Mapping[str, Any]:
        """The one of :attr:`presets` that is called ``name``, for this very task."""
        return self.presets[name]

    def cause(
        self, priors: Sequence[Prior], y: Tensor, before: float, sampling: Sampling, compute: Compute
    ) -> str | None:
        """The option that would make an improbable answer to ``y`` a probable one, if it is known."""
        return None

    def posterior(self, priors: Sequence[Prior], sampling: Sampling) -> Guided:
        """``p(x | y)`` under these priors."""
        from ..posterior import conditioned

        return conditioned(priors, self.operator(priors[0].shape), sampling, self.defaults, self.conditional)


@dataclass(frozen=True)
class Damage:
    """What test pictures suffer in an evaluation: the fields of a subclass are its options."""

    def task(self) -> Task:
        """The task of undoing it."""
        raise NotImplementedError


def as_batch(
    pictures: Picture | Sequence[Picture],
    shape: Shape,
    fit: str | None = None,
    larger: bool = False,
    white_level: float | None = None,
) -> Tensor:
    """Files, arrays or tensors as float32 ``(n, c, h, w)``; arrays must already have the ``shape`` ``(c, h, w)``.

    Those of one channel are gray pictures. If ``larger``, sides may be longer, and are the same for all.
    """
    import numpy as np
    import torch
    from torch import Tensor

    from ..data import images

    if isinstance(pictures, (np.ndarray, Tensor)):
        batch = torch.as_tensor(pictures).float()
        batch = batch[None] if batch.ndim == 3 else batch
    elif isinstance(pictures, (str, os.PathLike)):
        batch = torch.from_numpy(images.read(pictures, shape, fit, larger, white_level))[None]
    else:
        batches = [as_batch(picture, shape, fit, larger, white_level) for picture in pictures]
        if len(sizes := sorted({tuple(each.shape[2:]) for each in batches})) > 1:
            raise UsageError(f"pictures of different sizes: {sizes}", "one call for each size")
        batch = torch.cat(batches)
    if batch.ndim == 4 and batch.shape[1] == 1:
        batch = batch.expand(-1, shape[0], -1, -1)
    fits = batch.ndim == 4 and all(side >= least for side, least in zip(batch.shape[2:], shape[1:], strict=True))
    if tuple(batch.shape[1:]) != tuple(shape) and not (larger and fits and batch.shape[1] == shape[0]):
        raise InputError(f"pictures of shape {tuple(batch.shape[1:])}, but the prior models {tuple(shape)}")
    if not torch.isfinite(batch).all():
        raise InputError("a picture holds values that are not finite")
    return batch

"""All that a plugin may import. Importing this module does not import torch.

What describes a plugin, and the errors, are here themselves. What computes, reads or writes is imported when it is
first asked for, so ask at the head of a module that itself imports torch, and inside a function elsewhere:

* ``checkpoint``: files of weights, written and read (:mod:`basis_cli.checkpoint`).
* ``training``: ``fit`` and its ``Settings`` (:mod:`basis_cli.training`); ``Dataset`` is what it learns from.
* ``commands``: groups to add commands to, and the options that training and conversion share
  (:mod:`basis_cli.cli.commands`). Light: for the head of the module that ``basis_commands`` imports.
* ``weights``, ``prior_spec``, ``load_prior``, ``load_model``: verified files of weights, the priors and the direct
  models of all plugins, by name;
  ``prior_specs``, ``posterior_specs``, ``task_kinds``: all of them;
  ``resolve``: what a spec's ``"module:function"`` names.
* ``DenoiserPrior``: a prior from a denoiser of another library.
* ``samplers``, ``operators``, ``write_sheet``: to draw samples of a prior while it learns, to write a sampler.
* ``Task``, ``Damage``, ``FitOption``: a verb of one's own and its evaluation. Light.
* ``Compute``, ``tasks``, ``posterior``, ``datasets``, ``protocols``, ``coverage``, ``likelihood``, ``features``,
  ``diversity``, ``imagenet``: to run, to measure.
* ``Conditional``: a prior that knows what a part of a picture says of the rest.
* ``soundness``: whether a prior is sound, for its tests (:mod:`basis_cli.evaluation.soundness`).
* ``bits_per_dim``: likelihoods in the field's unit. ``atomically``: files written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .errors import BasisError as BasisError
from .errors import InputError as InputError
from .errors import NotFiniteError as NotFiniteError
from .errors import RunWarning as RunWarning
from .errors import UnknownPriorError as UnknownPriorError
from .errors import UsageError as UsageError
from .errors import WeightsError as WeightsError
from .hookspecs import hookimpl as hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from . import checkpoint as checkpoint
    from . import operators as operators
    from . import posterior as posterior
    from . import samplers as samplers
    from . import tasks as tasks
    from . import training as training
    from . import weights as weights
    from .cli import commands as commands
    from .compute import Compute as Compute
    from .data import datasets as datasets
    from .data.datasets import Dataset as Dataset
    from .data.files import atomically as atomically
    from .data.images import write_sheet as write_sheet
    from .evaluation import coverage as coverage
    from .evaluation import diversity as diversity
    from .evaluation import features as features
    from .evaluation import imagenet as imagenet
    from .evaluation import likelihood as likelihood
    from .evaluation import protocols as protocols
    from .evaluation import soundness as soundness
    from .operators import LinearOperator
    from .plugins import posterior_specs as posterior_specs
    from .plugins import prior_spec as prior_spec
    from .plugins import prior_specs as prior_specs
    from .plugins import resolve as resolve
    from .plugins import task_kinds as task_kinds
    from .posterior.ranking import bits_per_dim as bits_per_dim
    from .priors import DenoiserPrior as DenoiserPrior
    from .priors import load_prior as load_prior
    from .priors.loading import load_model as load_model
    from .tasks.base import Damage as Damage
    from .tasks.base import FitOption as FitOption
    from .tasks.base import Task as Task

_MODULES = {name: name for name in ("checkpoint", "operators", "posterior", "samplers", "tasks", "training", "weights")}
_MODULES |= {"commands": "cli.commands", "datasets": "data.datasets"}
_MODULES |= {
    name: f"evaluation.{name}"
    for name in ("coverage", "diversity", "features", "imagenet", "likelihood", "protocols", "soundness")
}
_HOMES = {
    "Compute": "compute",
    "Damage": "tasks.base",
    "Dataset": "data.datasets",
    "DenoiserPrior": "priors",
    "FitOption": "tasks.base",
    "Task": "tasks.base",
    "atomically": "data.files",
    "bits_per_dim": "posterior.ranking",
    "load_model": "priors.loading",
    "load_prior": "priors",
    "posterior_specs": "plugins",
    "prior_spec": "plugins",
    "prior_specs": "plugins",
    "resolve": "plugins",
    "task_kinds": "plugins",
    "write_sheet": "data.images",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"basis_cli.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"basis_cli.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Level(Protocol):
    """A prior at one noise level: the distribution of ``x0 + sigma z`` for pictures ``x0`` and white noise ``z``."""

    def score(self, x: Tensor) -> Tensor:
        """``grad log p_sigma(x)`` in 1/intensity, for ``x`` ``(n, c, h, w)`` float32; same shape and device.

        A function of ``x`` alone: on CUDA its kernels are recorded once a level and replayed, without running Python.
        """


@runtime_checkable
class Likelihood(Protocol):
    """A level whose likelihood is tractable."""

    def log_prob(self, x: Tensor) -> Tensor:
        """``log p_sigma(x)`` in nats, ``(n, c, h, w)`` to ``(n,)``."""


class Prior(Protocol):
    """What pictures look like, at any noise level. Pictures are float32 ``(n, c, h, w)`` in [0, 1].

    A prior trained on another range converts inside.
    """

    shape: tuple[int, int, int]
    """``(channels, height, width)`` of the pictures it models."""
    sigmas: tuple[float, ...] | None
    """The noise levels it was trained at, high to low; ``None`` if it takes any level."""

    def at(self, sigma: float) -> Level:
        """The prior at ``sigma``. Called once a level, not once a step, so it may load a checkpoint."""


@runtime_checkable
class AnySize(Prior, Protocol):
    """A prior of pictures of any size. Its ``shape`` is one that it learned from."""

    def sized(self, size: tuple[int, int]) -> Prior:
        """The prior of pictures of ``(h, w)``, by the same network."""


@runtime_checkable
class Conditional(Prior, Protocol):
    """A prior that has also learned what a known part of a picture says of the rest."""

    def given(self, operator: LinearOperator) -> Prior | None:
        """The prior of pictures of which ``operator`` observes a part; ``None`` if it has not learned that.

        At noise level ``sigma`` that is the distribution of ``x0 + sigma P z`` with ``P = I - A^+ A``, the projection
        onto what ``A`` leaves open; its score is zero in the rest. An attribute ``sigma_max`` of it is the highest
        level that it has learned.
        """


@runtime_checkable
class Compilable(Protocol):
    """A prior or a direct model whose network ``torch.compile`` makes faster, for ``--compile``."""

    def compile(self) -> None:
        """Compile it in place, once however often it is called."""


@runtime_checkable
class Multiscale(Protocol):
    """A prior that sees the picture shrunk as well (:class:`basis_cli.priors.PyramidPrior`)."""

    halvings: int
    """How often; noise levels then begin at ``2**halvings`` times the usual one."""


class DirectModel(Protocol):
    """A network trained to answer one operator: a conditional flow, a conditional IMLE."""

    shape: tuple[int, int, int]
    """``(channels, height, width)`` of its answers."""

    def sample(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        """An answer ``(n, c, h, w)`` in [0, 1] for each ``y`` ``(n, ...)``, each from its own seed alone.

        With an argument ``temperature`` it takes that of the command, 1 being what it has learned.
        """


@runtime_checkable
class AnySizeModel(DirectModel, Protocol):
    """A direct model of pictures of any size. Its ``shape`` is one that it learned from."""

    def sized(self, size: tuple[int, int]) -> DirectModel:
        """The model of pictures of ``(h, w)``, by the same network."""


@runtime_checkable
class OwnPrecision(Protocol):
    """A direct model that computes in ``dtype`` whatever the command says: a flow is exact in float32 only."""

    dtype: str


@runtime_checkable
class Labelled(Protocol):
    """A direct model of ``basis sample``: what is given are classes ``y`` ``(n,)``, int64 below ``classes``."""

    classes: int


@runtime_checkable
class Tractable(Protocol):
    """A direct model that knows how probable an answer is."""

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """``log p(x | y)`` in nats, ``(n,)``, of answers ``(n, c, h, w)``."""


@dataclass(frozen=True)
class WeightFile:
    """A file of weights: found by name, never used before its SHA-256 has been checked."""

    file: str
    """File name, for example ``"ncsn-mnist.safetensors"``."""
    sha256: str | None = None
    """Hex digest; ``None`` only where a ``manifest.toml`` beside the file states it."""
    folder: Path | None = None
    """A folder inside the plugin's package that ships the file; ``None`` for this project's own weights."""
    url: str | None = None
    """Where ``basis weights pull`` may download it from. Nothing is ever downloaded during a run."""


@dataclass(frozen=True)
class PriorSpec:
    """What a plugin says of a prior before anything heavy is imported."""

    name: str
    """As the user types it: ``ncsn-mnist``. ``plugin/name`` always works as well, and ``name:own.safetensors``."""
    summary: str
    """One line for ``basis priors list``."""
    shape: tuple[int, int, int] | None
    """``(channels, height, width)``; ``None``: what the weights say that the user gives with it."""
    load: str
    """``"module:function"``; called as ``function(spec, weights, device)`` with ``weights`` a verified path or
    ``None``, and returns a :class:`Prior` on that device."""
    sigmas: tuple[float, ...] | None = None
    """Noise levels, high to low; ``None``: any."""
    weights: WeightFile | None = None
    """``None`` for a prior without weights."""
    licence: str = ""
    """Of the weights, as an SPDX expression or in words."""
    own: str = ""
    """Set for a prior that is asked for with weights of the user's own, ``name:own``."""
    find: str = ""
    """``"module:function"`` that finds them, light; called as ``function(own, download)``, with ``download`` for
    ``basis weights pull``, and returns their file. Left out, ``own`` is that file itself."""
    any_size: bool = False
    """Whether it takes pictures of any size: an :class:`AnySize`, whose ``shape`` is one that it learned from."""
    cites: tuple[str, ...] = ()
    """What ``basis cite`` prints for it: keys of ``basis_cli/references.bib``, or whole BibTeX entries."""


@dataclass(frozen=True)
class SamplerSpec:
    """What a sampler says of itself before it is imported."""

    name: str
    """As the user types it: ``ep``. ``plugin/name`` always works as well."""
    summary: str
    """One line for ``basis samplers``."""
    draw: str
    """``"module:function"`` with the signature of :func:`basis_cli.samplers.langevin`."""
    ladder: str = "basis_cli.samplers.schedules:geometric"
    """``"module:function"`` of its kind of noise levels: ``(levels, high, low)`` to floats, high to low."""
    evaluations: int = 1
    """Of each component's network, a step; a vector-Jacobian product counts as two."""
    steps: bool = False
    """Whether it takes steps at each noise level, as Langevin dynamics does; else a level is one step."""
    calibrated: bool = False
    """Whether its samples spread as much as the posterior (docs/concepts/samplers.md)."""
    guided: bool = True
    """Whether it asks the priors; baselines do not."""
    cites: tuple[str, ...] = ()
    """What ``basis cite`` prints for it: keys of ``basis_cli/references.bib``, or whole BibTeX entries."""


@dataclass(frozen=True)
class PosteriorSpec:
    """What a plugin says of a direct model, chosen with ``--model NAME``."""

    name: str
    summary: str
    task: str
    """The verb that it answers: ``colorize``."""
    shape: tuple[int, int, int]
    """``(channels, height, width)`` of its answers."""
    load: str
    """``"module:function"``; called as ``function(spec, weights, device)``, and returns a :class:`DirectModel`."""
    weights: WeightFile | None = None
    licence: str = ""
    any_size: bool = False
    """Whether it takes pictures of any size: an :class:`AnySizeModel`, whose ``shape`` is one that it learned from."""
    cites: tuple[str, ...] = ()
    """What ``basis cite`` prints for it: keys of ``basis_cli/references.bib``, or whole BibTeX entries."""

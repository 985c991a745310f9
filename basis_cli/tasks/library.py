"""What the library's functions of all tasks have in common. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .base import Shape, Task, as_batch

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import DirectModel, Prior
    from ..compute import Compute
    from ..posterior import Result, Sampling, SavedState
    from ..samplers import Watch
    from .base import Picture


def answer(
    task: Task,
    pictures: Picture | Sequence[Picture],
    *,
    prior: str | Prior | Sequence[str | Prior] | None = None,
    preset: str | None = None,
    samples: int | None = None,
    select: str | None = None,
    references: Any = None,
    weights: Path | None = None,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    model: str | DirectModel | None = None,
    refine: bool = False,
    uncertainty: bool = False,
    watch: Watch | None = None,
    saved: SavedState | None = None,
) -> Result:
    """Draw what ``task`` asks for from ``p(x | y)``: what the functions of all tasks have in common.

    Args:
        pictures: one or several files or ``(c, h, w)`` arrays in [0, 1], or one ``(n, c, h, w)`` array.
        prior: a name or a :class:`basis_cli.api.Prior`; for several components one for all, or one for each. By default
            the task's.
        preset: ``fast`` or ``best``: the task's choice of what is not chosen here, see :attr:`Task.presets`.
        samples: posterior samples for each picture, by default one.
        select: what to keep of several samples, see :meth:`basis_cli.posterior.ranking.Ranked.select`; by default all.
        references: the true pictures, one for each, if known; of several components ``(k, n, c, h, w)``.
        sampling: sampler, noise levels, seed. A picture depends on the seed and what was observed, not on what runs
            beside it.
        compute: device, precision, batch.
        model: a direct model to answer instead of a prior and a sampler; a name or a
            :class:`basis_cli.api.DirectModel`. ``weights`` are its own.
        refine: begin the sampler, at a middle noise level, with the model's answers.
        uncertainty: of several components, ``Result.std`` is calibrated whatever the sampler, also of one sample.
        watch: called after each step of the sampler.
        saved: where to keep the state of a long run; given again, a killed run goes on.

    Raises:
        InputError, UsageError, UnknownPriorError, WeightsError, NotFiniteError.
    """
    from ..compute import Compute
    from ..posterior import Result, Sampling, answers
    from ..samplers import picture_seeds, unwatched

    compute = compute or Compute()
    sampling = sampling or Sampling()
    model = task.answering(model, prior, sampling, refine, saved is not None)
    direct = model is not None and not refine
    sampling, samples, select = task.chosen(preset, sampling, samples, select, direct)
    if samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if model is not None:
        network, name = loaded_model(task, model, weights, compute), model if isinstance(model, str) else ""
        priors = loaded(task, prior, None, compute) if refine else []
        shape, larger = task.least([network, *priors])
    else:
        priors = loaded(task, prior, weights, compute)
        shape, larger = task.least(priors)
    given = task.given(pictures, shape, larger)
    h, w = given.shape[-2:] if given.ndim > 2 else shape[1:]
    groups: dict[tuple[bool, Sampling], list[int]] = {}
    for i, picture in enumerate(given):
        own = sampling.measured(task.measurable(picture))
        groups.setdefault((model is None and task.gray(picture), own), []).append(i)
    if saved and len(groups) > 1:
        kinds = "gray pictures and coloured ones, or of different noise,"
        raise UsageError(f"{kinds} cannot be resumed together", "one call for each kind")
    found = []
    for (gray, sampling), chosen in groups.items():
        posterior: Any
        if model is not None:
            posterior = task.directed(network, (h, w), sampling, name, priors)
        else:
            posterior = task.posterior(task.suited(priors, (h, w), gray), sampling)
        y = task.observed(given[chosen], posterior.operator)
        truth = None if references is None else _truth(task, references, posterior.shape, len(given))[:, chosen]
        results = answers(
            posterior,
            y,
            picture_seeds(sampling.seed, y, samples),
            compute=compute,
            select=select,
            truth=truth,
            watch=watch or unwatched,
            saved=lambda inputs: saved,
            begun=[range(len(y))] if saved else (),
            uncertainty=uncertainty,
        )
        found += [(chosen[i], result) for i, result in results]
    return Result.joined([result for _, result in sorted(found, key=lambda each: each[0])])  # type: ignore[misc]


def _truth(task: Task, references: Any, shape: Shape, count: int) -> Tensor:
    """The true pictures ``(k, n, c, h, w)`` of ``count`` answers."""
    import torch

    given = references if task.several else [references]
    if len(given) != task.k:
        raise UsageError(f"{len(given)} references for {task.k} components", "one for each")
    truth = torch.stack([as_batch(reference, shape, task.fit, white_level=task.white_level) for reference in given])
    if truth.shape[1] != count:
        raise UsageError(f"references for {truth.shape[1]} pictures, but there are {count}")
    return truth


def loaded(
    task: Task, prior: str | Prior | Sequence[str | Prior] | None, weights: Path | None, compute: Compute
) -> list[Prior]:
    """A prior for each component, each name loaded once.

    Raises:
        UsageError: neither one nor as many as there are components, or of different shapes.
        UnknownPriorError, WeightsError.
    """
    from ..priors import load_prior

    if task.k < 1:
        raise UsageError(f"a mixture has at least one component, not k = {task.k}", "-k 2")
    given: list[Any] = list(prior) if isinstance(prior, (list, tuple)) else [prior or task.prior]
    if len(given) not in (1, task.k):
        raise UsageError(f"{len(given)} priors for {task.k} components", "give --prior once for all, or once for each")
    names = {one: load_prior(one, weights_path=weights, device=compute.place) for one in given if isinstance(one, str)}
    priors = [names[one] if isinstance(one, str) else one for one in given]
    shapes = sorted({tuple(one.shape) for one in priors})
    if len(shapes) > 1:
        raise UsageError(f"the priors model pictures of different shapes: {shapes}")
    return priors * task.k if len(priors) == 1 else priors


def loaded_model(task: Task, model: str | DirectModel, weights: Path | None, compute: Compute) -> DirectModel:
    """A direct model, by its name or itself.

    Raises:
        UsageError: it answers another task.
        UnknownPriorError, WeightsError.
    """
    from ..priors.loading import load_model

    if task.k != 1:
        raise UsageError(f"a direct model answers with one picture, not with {task.k}", "leave out --model")
    return load_model(model, task.name, weights, compute.place) if isinstance(model, str) else model

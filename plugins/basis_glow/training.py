"""``basis train glow``: maximum likelihood. ``basis finetune-glow``: the ladder of noise levels (appendix A.1)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basis_cli.api import Dataset, NotFiniteError, UsageError, atomically, training, write_sheet

from .network import Glow
from .objectives import SIGMAS, bits, bits_and_score_error, inverse_error, measured, noise_levels, noisy
from .prior import LADDER, add_rung, read, read_ladder, save

PRINCIPAL, FITTED = 10_000, 60_000  # pictures that principal directions, and Gaussians, are taken from
SHOWN = (0.0, 0.01, 0.1, 1.0)  # levels at which its likelihood is reported
ATTEMPTS = 3  # at a rung of the ladder
LOST = 0.01  # intensity by which inverse(encode(x)) may miss x

Callback = Callable[[int, dict[str, float]], None]


def no_callback(step: int, metrics: dict[str, float]) -> None:
    """Does nothing; called as that of :func:`basis_cli.training.fit`."""


def _fit(
    network: Glow,
    sigma: float | None,
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    device: str,
    resume: bool,
    notes: dict[str, str],
    callback: Callback,
    score_matching: float = 0.0,
) -> Glow:
    """Maximize the likelihood at level ``sigma`` (``None``: at all of them) and return the averaged network.

    ``score_matching`` times the error of the score is added to the bits/dim that are minimized.
    """

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        if sigma is None:
            level = noise_levels(len(x), generator, x.device)
        else:
            level = torch.full((len(x),), sigma, device=x.device)
        if not score_matching:
            return bits(model, x, level, generator).mean()
        value, error = bits_and_score_error(model, x, level, generator)
        return (value + score_matching * error).mean()

    def evaluate(model: Any) -> dict[str, float]:
        sigmas = SHOWN if sigma is None else (sigma,)
        found = measured(model, held_out[:500].to(model.top.device), sigmas)
        weights = {name: score_matching if name.startswith("score_error") else 1 for name in found}
        loss = sum(weight * found[name] for name, weight in weights.items() if weight) / len(sigmas)
        return found | {"held_out_loss": loss}

    @torch.no_grad()
    def sheet(model: Any, path: Path) -> None:
        level = torch.full((1,), SIGMAS[0] if sigma is None else sigma, device=model.top.device)
        x = model.sample(36, torch.Generator(model.top.device).manual_seed(0), level, temperature=0.7)
        write_sheet(path, x.nan_to_num(0).clamp(0, 1).cpu().numpy())

    average = training.fit(
        network,
        loss,
        data.images,
        settings,
        out,
        device=device,
        resume=resume,
        architecture=network.config
        | {"shape": list(network.shape), "sigma": sigma}
        | ({"score_matching": score_matching} if score_matching else {}),
        export=lambda model, path: save(path, model, sigma, notes),  # type: ignore[arg-type]
        sheet=sheet,
        evaluate=evaluate,
        callback=callback,
    )
    return average  # type: ignore[return-value]


def _network(data: Dataset, settings: training.Settings, config: dict[str, Any], score_matching: float) -> Glow:
    """A new Glow for the pictures of ``data``; raises what :func:`train` says of ``config``."""
    conditional, whiten, gaussians = (config.get(name, 0) for name in ("conditional", "whiten", "gaussians"))
    if score_matching and not conditional:
        raise UsageError("score matching needs noise levels", "--conditional")
    if score_matching and settings.compile:
        raise UsageError("score matching needs second derivatives, which compiled networks do not have", "no --compile")
    if (whiten or gaussians) and not conditional:
        raise UsageError(f"{'whitening needs' if whiten else 'Gaussians need'} noise levels", "--conditional")
    shape, count = settings.shape(data.shape), len(_spread(data, PRINCIPAL))
    if whiten >= count or whiten > math.prod(shape):
        few = f"{count} pictures of {shape} have fewer than {whiten} principal directions"
        raise UsageError(few, "a smaller --whiten")
    torch.manual_seed(settings.seed)
    try:
        return Glow(**{"shape": shape} | config)
    except ValueError as error:
        raise UsageError(str(error), "fewer --levels, --whiten or --directions") from error


def _begin_with(network: Glow, path: Path) -> bool:
    """Load the weights in ``path``, which may lack the Gaussians of ``network`` or have other activations.

    Returns:
        Whether they include Gaussians.

    Raises:
        UsageError: they are another network's.
        WeightsError: the file cannot be read.
    """
    start, at = read(path)
    may_differ = {"smooth"} if start.gaussians is not None else {"smooth", "gaussians", "directions"}
    theirs, ours = start.config | ({"sigma": at} if at else {}), network.config
    differ = [name for name in ours | theirs if theirs.get(name) != ours.get(name) and name not in may_differ]
    if differ:
        hint = "it has " + ", ".join(f"{name} {theirs.get(name) or 0}" for name in differ)
        raise UsageError(f"{path} holds another network", hint)
    network.load_state_dict(network.state_dict() | start.state_dict())
    return start.gaussians is not None


def _prepare(network: Glow, data: Dataset, settings: training.Settings, scratch: bool, fitted: bool) -> None:
    """Fit to the pictures what is not learned: Gaussians and, from ``scratch``, the whitening and all actnorms.

    Raises:
        UsageError: fewer pictures than Gaussians or directions.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    if network.gaussians is not None and not fitted:
        pictures = _spread(data, FITTED)
        if len(pictures) < max(network.gaussians.directions.shape[:2]):
            few = f"{len(pictures)} pictures are too few for that many Gaussians or directions"
            raise UsageError(few, "a smaller --gaussians or --directions")
        network.gaussians.fit(_taken(pictures, settings, generator).flatten(1))
    if scratch:
        if network.config.get("whiten"):
            network.whitening.fit(_taken(_spread(data, PRINCIPAL), settings, generator))
        first = torch.from_numpy(data.images[:256].copy())
        x = training.taken(first, torch.arange(len(first)), settings.side, generator) / 255
        level = noise_levels(len(x), generator, x.device) if network.conditional else torch.zeros(len(x))
        network.initialize(noisy(x, level, generator), level)


def train(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    config: dict[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    start_from: Path | None = None,
    score_matching: float = 0.0,
    notes: dict[str, str] | None = None,
    callback: Callback = no_callback,
) -> Path:
    """Train a Glow on ``data`` and return the file of its weights, ``out/weights.safetensors``.

    ``config`` are the network's own arguments (``levels``, ``depth``, ``width``, ``conditional``, ``whiten``,
    ``smooth``, ``gaussians``, ``directions``). A conditional Glow learns all noise levels, any other one pictures
    without noise. With ``score_matching`` the likelihood is not all that a conditional Glow is trained for: so many
    times the error of :func:`bits_and_score_error` is added, because the likelihood hardly sees what the score gets
    wrong at much noise. With ``whiten`` a new one begins with the Gaussian of the pictures, which is most of that;
    ``gaussians`` are fitted to the pictures before anything else is learned. ``start_from`` is a file of such a
    network's weights, ``smooth`` or not, with these Gaussians or without any.

    Raises:
        UsageError: ``score_matching``, ``whiten`` or ``gaussians`` of a Glow that is not conditional,
            ``score_matching`` of a compiled one, or fewer pictures than Gaussians or principal directions.
        UsageError: ``config`` does not make a network for these pictures, or not the one in ``start_from``.
        WeightsError: ``start_from`` cannot be read.
        and what :func:`basis_cli.training.fit` raises.
    """
    network = _network(data, settings, config or {}, score_matching)
    sigma = None if network.conditional else 0.0
    begun = training.to_be_continued(out, resume)
    fitted = _begin_with(network, start_from) if start_from else False
    if not begun:
        _prepare(network, data, settings, scratch=not start_from, fitted=fitted)
    _fit(
        network,
        sigma,
        data,
        held_out,
        out,
        settings,
        device=device,
        resume=resume,
        notes=notes or {},
        callback=callback,
        score_matching=score_matching,
    )
    return out / "weights.safetensors"


def _spread(data: Dataset, most: int) -> np.ndarray:
    """At most so many of the pictures, of a folder not just those of its first names."""
    return data.images[:: math.ceil(len(data.images) / most)]


def _taken(images: np.ndarray, settings: training.Settings, generator: torch.Generator) -> Tensor:
    """Pictures as training sees them, cut out and half of them mirrored, ``(n, c, h, w)`` in [0, 1]."""
    x = training.taken(torch.tensor(images), torch.arange(len(images)), settings.side, generator) / 255
    if settings.flip:
        x[::2] = x[::2].flip(-1)
    return x


def _noiseless(path: Path) -> tuple[Glow, bool]:
    """The Glow of pictures without noise in ``path``, and whether it was made of a conditional one.

    Raises:
        UsageError: there is none.
        WeightsError: the file cannot be read.
    """
    network, level = read(path)
    if level:
        hint = "a ladder starts from a noiseless Glow: basis train glow"
        raise UsageError(f"{path} holds the model of noise level {level:.4g}", hint)
    if level == 0:
        return network, False
    try:
        return network.of_level(0.0), True
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "start from one without whitening: basis train glow") from error


def finetune(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    start_from: Path,
    sigmas: Sequence[float],
    device: str = "auto",
    resume: bool = False,
    notes: dict[str, str] | None = None,
    callback: Callback = no_callback,
    report: Callable[[str], None] = lambda text: None,
) -> Path:
    """Climb from the Glow in ``start_from`` to every noise level of ``sigmas``; returns ``out/ladder.json``.

    It is a noiseless one, or conditional without whitening: then the ladder begins with its level of no noise.
    Each rung begins with the weights of the one below and takes ``settings.steps`` steps: from the noiseless model
    straight to much noise, invertibility breaks. A rung whose likelihood is not finite or whose inverse is lost is
    tried again with a third of the learning rate, and ``report`` told. What is done is kept: with ``resume``, finished
    rungs stand and the one that was interrupted goes on where it was saved.

    ``callback`` is that of :func:`basis_cli.training.fit`, with steps counted over the whole ladder and the ``sigma``
    of the rung among the metrics.

    Raises:
        UsageError: ``start_from`` has no noiseless level, or one behind a whitening, or is of other pictures; ``out``
            holds a ladder and ``resume`` is off, or it has another start.
        WeightsError: ``start_from`` cannot be read.
        NotFiniteError: a rung failed at every learning rate.
        and what :func:`basis_cli.training.fit` raises.
    """
    ladder, below = out / LADDER, out / "sigma-0.safetensors"
    network, made = _noiseless(start_from)
    shape = settings.shape(data.shape)
    if network.shape != shape:
        raise UsageError(f"{start_from} models {network.shape} pictures, but {data.name}'s are {shape}")
    if ladder.exists() and not resume:
        raise UsageError(f"{out} already holds a ladder", "--resume continues it; else choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if not below.exists():
        save(below, network, 0.0, notes or {}) if made else _copy(start_from, below)
    elif not _same(read(below)[0], network):
        raise UsageError(f"{out} holds the ladder of another model", "resume with the --start-from that began it")
    add_rung(below, 0.0, network.shape)
    done = {rung.sigma for rung in read_ladder(ladder)[0]}
    rungs = sorted(set(sigmas))
    for index, sigma in enumerate(rungs):
        path = out / f"sigma-{sigma:.6g}.safetensors"
        if sigma not in done:

            def counted(step: int, metrics: dict[str, float], before: int = index, sigma: float = sigma) -> None:
                share = (before + metrics["progress"]) / len(rungs)
                callback(before * settings.steps + step, metrics | {"sigma": sigma, "progress": share})

            _rung(below, sigma, data, held_out, path, settings, device, notes or {}, counted, report)
            add_rung(path, sigma, network.shape)
        below = path
    return ladder


def _copy(file: Path, to: Path) -> None:
    with atomically(to) as partial:
        shutil.copyfile(file, partial)


def _same(one: Glow, other: Glow) -> bool:
    """Whether two networks are the same, up to how a machine rounds."""
    a, b = one.state_dict(), other.state_dict()
    return one.config == other.config and all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-5) for name in a)


def _rung(
    below: Path,
    sigma: float,
    data: Dataset,
    held_out: Dataset,
    path: Path,
    settings: training.Settings,
    device: str,
    notes: dict[str, str],
    callback: Callback,
    report: Callable[[str], None],
) -> None:
    """Train one noise level from the weights in ``below`` and write it to ``path``.

    Every attempt has a folder, so that after a kill the last one goes on.
    """
    folders = [path.with_name(path.stem + (f".retry{attempt}" if attempt else "")) for attempt in range(ATTEMPTS)]
    begun = max((attempt for attempt, folder in enumerate(folders) if folder.exists()), default=0)
    for attempt in range(begun, ATTEMPTS):
        milder = replace(settings, learning_rate=settings.learning_rate / 3**attempt)
        try:
            network = _fit(
                read(below)[0],
                sigma,
                data,
                held_out,
                folders[attempt],
                milder,
                device=device,
                resume=True,
                notes=notes,
                callback=callback,
            )
            error = inverse_error(network, held_out[:500].to(network.top.device), sigma)
            if error > LOST:
                raise NotFiniteError(f"inverse(encode(x)) misses x by {error:.2g}")
        except NotFiniteError as failure:
            rate = f"learning rate {milder.learning_rate:.2g}"
            report(f"noise level {sigma:.4g} failed with {rate}: {failure.message}")
            continue
        _copy(folders[attempt] / "weights.safetensors", path)
        (folders[attempt] / training.STATE).unlink()  # as large as four networks, and done with
        return
    raise NotFiniteError(
        f"noise level {sigma:.4g} failed {ATTEMPTS} times", "more --steps, or a smaller --learning-rate"
    )

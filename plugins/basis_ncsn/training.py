"""``basis train ncsn``: denoising (Vincent 2011) or sliced score matching over all noise levels at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from basis_cli.api import Dataset, UsageError, operators, samplers, training, write_sheet

from .given import KINDS, Projection
from .network import NETWORKS
from .prior import ScorePrior, read, save
from .unet import UNet

OBJECTIVES = ("dsm", "ssm")
SIGMAS = (0.008, 1.4)  # a margin around the paper's 0.01 ... 1
GIVEN = 0.7
"""Share of the pictures of which a part is given, for a network that learns this."""


def random_levels(x: Tensor, generator: torch.Generator, highest: float = SIGMAS[1]) -> Tensor:
    """A noise level from the lowest of :data:`SIGMAS` to ``highest`` for each picture, ``(n,)``, stratified over them.

    The density of ``log s`` rises linearly from nothing: the high levels, where a separation is decided, are also the
    hardest to learn.
    """
    low, high = math.log(SIGMAS[0]), math.log(highest)
    strata = torch.arange(len(x), device=x.device) + torch.rand(len(x), generator=generator, device=x.device)
    return torch.exp(low + (high - low) * (strata / len(x)).sqrt())


def denoising_loss(
    network: nn.Module,
    x: Tensor,
    generator: torch.Generator,
    std: float,
    sigmas: Tensor | None = None,
    highest: float = SIGMAS[1],
    unknown: Projection | None = None,
) -> Tensor:
    """``E lambda(s) ||D(x + s z, s) - x||^2`` per pixel over ``sigmas``, by default :func:`random_levels`.

    With the projection ``unknown`` ``P`` of :mod:`.given` noise is ``s P z``, and the rest of ``x`` is given.

    ``lambda = (s^2 + std^2) / (s std)^2`` makes every level weigh the same at the start (Karras et al. 2022).
    """
    sigma = random_levels(x, generator, highest) if sigmas is None else sigmas[_indices(sigmas, x, generator)]
    s = sigma[:, None, None, None]
    z = torch.randn(x.shape, generator=generator, device=x.device)
    weight = (s**2 + std**2) / (s * std) ** 2
    denoised = network(x + s * unknown(z), sigma, unknown) if unknown else network(x + s * z, sigma)
    return (weight * (denoised - x) ** 2).mean()


def given_loss(
    network: nn.Module, x: Tensor, generator: torch.Generator, std: float, kinds: Sequence[str], share: float
) -> Tensor:
    """:func:`denoising_loss`, but for a ``share`` of ``x`` noise lies only in what is not given (:mod:`.given`).

    That share is divided evenly among ``kinds``, of which one may be there twice.
    """
    ends = [round(share * len(x) * (i + 1) / len(kinds)) for i in range(len(kinds))]
    *parts, white = x.tensor_split(ends)
    total = denoising_loss(network, white, generator, std) * len(white) if len(white) else x.new_zeros(())
    for kind, part in zip((KINDS[name] for name in kinds), parts, strict=True):
        if len(part):
            unknown = kind.random(part, generator)
            loss = denoising_loss(network, part, generator, std, highest=kind.highest, unknown=unknown)
            total = total + loss * len(part)
    return total / len(x)


def score_matching_loss(network: nn.Module, x: Tensor, generator: torch.Generator, sigmas: Tensor) -> Tensor:
    """``E sigma^2 / 2 ||score(x + sigma z) + z / sigma||^2`` a picture over fixed levels: Song & Ermon's equation 6."""
    level = _indices(sigmas, x, generator)
    z = torch.randn(x.shape, generator=generator, device=x.device)
    s = sigmas[level][:, None, None, None]
    return 0.5 * ((s * network(x + s * z, level) + z) ** 2).flatten(1).sum(1).mean()


def _indices(sigmas: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(len(sigmas), (len(x),), generator=generator, device=x.device)


def sliced_objective(score: Callable[[Tensor], Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
    """``v^T (d score / dx) v + ||score(x)||^2 / 2`` for each picture, ``(n,)``, with one ``v ~ N(0, I)`` for each.

    Sliced score matching (Song et al. 2019): its expectation over pictures is, up to a constant, half
    the squared distance between ``score`` and the score of the pictures' distribution.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
        x = x.detach().requires_grad_()
        v = torch.randn(x.shape, generator=generator, device=x.device)
        s = score(x)
        (product,) = torch.autograd.grad((v * s).sum(), x, create_graph=True)
        return (v * product + 0.5 * s**2).flatten(1).sum(1)


def sliced_loss(
    network: nn.Module,
    x: Tensor,
    generator: torch.Generator,
    sigmas: Tensor | None = None,
    is_denoiser: bool = True,
) -> Tensor:
    """``E sigma^2`` times :func:`sliced_objective` of noisy pictures over ``sigmas``, by default :func:`random_levels`.

    ``network`` is a denoiser as :class:`UNet`, else a score at fixed levels as :class:`RefineNet`.
    """
    with torch.autocast(x.device.type, enabled=False):  # second derivatives are too coarse in bfloat16
        if sigmas is None:
            sigma = random_levels(x, generator)
        else:
            level = _indices(sigmas, x, generator)
            sigma = sigmas[level]
        s = sigma[:, None, None, None]
        noisy = x + s * torch.randn(x.shape, generator=generator, device=x.device)

        def score(x: Tensor) -> Tensor:
            return (network(x, sigma) - x) / s**2 if is_denoiser else network(x, level)

        return (sigma**2 * sliced_objective(score, noisy, generator)).mean()


def loss_of(network: Any, objective: str = "dsm") -> training.Loss:
    """The loss that trains ``network`` at its own noise levels: denoising (``dsm``) or sliced (``ssm``) score matching.

    Raises:
        UsageError: another objective.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"no training objective is called {objective!r}", ", ".join(OBJECTIVES))
    is_denoiser = isinstance(network, UNet)

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        sigmas = torch.tensor(network.sigmas, device=x.device) if network.sigmas else None
        if objective == "ssm":
            return sliced_loss(model, x, generator, sigmas, is_denoiser)
        if is_denoiser and network.given:
            return given_loss(model, x, generator, network.std, network.given, GIVEN)
        if is_denoiser:
            return denoising_loss(model, x, generator, network.std, sigmas, network.sigma_max)
        return score_matching_loss(model, x, generator, network.levels.to(x.device))

    return loss


@torch.no_grad()
def denoising_error(
    prior: ScorePrior, pictures: Tensor, sigmas: tuple[float, ...] = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
) -> dict[str, float]:
    """``E ||D(x + s z, s) - x||^2`` a pixel at each level, with the same ``z`` every time: the held-out error."""
    errors = {}
    for sigma in sigmas:
        z = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0)).to(pictures.device)
        noisy = pictures + sigma * z
        level = prior.at(sigma)
        score = torch.cat([level.score(batch) for batch in noisy.split(100)])
        errors[f"denoising_error_{sigma}"] = float(((noisy + sigma**2 * score - pictures) ** 2).mean())
    return errors


def held_out_loss(errors: dict[str, float]) -> float:
    """One number of :func:`denoising_error`'s: the geometric mean, so that every level counts alike."""
    return math.exp(sum(map(math.log, errors.values())) / len(errors))


def sheet(prior: ScorePrior, path: Path, device: torch.device, count: int = 36) -> None:
    """Write ``count`` samples of the prior: a short annealed Langevin run, enough to see how training goes."""
    with torch.no_grad():
        operator = operators.Unobserved(prior.shape)
        y = torch.zeros(count, 0, device=device)
        sigmas = prior.sigmas or samplers.PAPER_SIGMAS
        x = samplers.langevin([prior], operator, y, seeds=range(count), sigmas=sigmas, steps=20, step_size=5e-5)
    write_sheet(path, x[0].clamp(0, 1).cpu().numpy())


def begin_with(network: nn.Module, path: Path) -> None:
    """Load the weights in ``path`` into ``network``, which may have more residual blocks: new ones are the identity.

    Raises:
        UsageError: they are another network's.
        WeightsError: the file cannot be read.
    """
    start = read(path)[0].state_dict()
    own = network.state_dict()
    blocks = {name.rsplit(".blocks.", 1)[0] for name in own if ".blocks." in name}
    fits = all(name in own and own[name].shape == p.shape for name, p in start.items())
    added = (name for name in own if name not in start and name != "partial")
    if not fits or any(name.rsplit(".blocks.", 1)[0] not in blocks for name in added):
        raise UsageError(
            f"{path} holds another network",
            "give its --backbone and --widths, and at least as many --blocks",
        )
    network.load_state_dict(start, strict=False)


def _network(backbone: str, config: dict[str, Any], shape: tuple[int, int, int], start_from: Path | None) -> nn.Module:
    """A new network for pictures of ``shape``; raises as :func:`train`."""
    try:
        network: Any = NETWORKS[backbone](**config)
    except ValueError as error:
        raise UsageError(str(error), "see basis train ncsn --help") from error
    if start_from:
        begin_with(network, start_from)
    if any(side % getattr(network, "stride", 1) for side in shape[1:]):
        hint = "fewer --widths or a smaller --patch"
        raise UsageError(f"{shape[2]} x {shape[1]} pictures are not multiples of {network.stride}", hint)
    return network


def train(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    backbone: str = "unet",
    config: dict[str, Any] | None = None,
    objective: str = "dsm",
    device: str = "auto",
    resume: bool = False,
    start_from: Path | None = None,
    notes: dict[str, str] | None = None,
    callback: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Path:
    """Train a score network on ``data`` and return the file of its weights, ``out/weights.safetensors`` (bfloat16).

    ``config`` are the network's own arguments; the mean and standard deviation of the pixels are measured.
    ``objective`` is denoising (``dsm``) or sliced score matching (``ssm``: exact, needs no known noise, and slower).
    ``start_from`` is a file of weights of the same network, or one of fewer ``blocks``, to begin with.
    Raises:
        UsageError: ``config`` does not make a network for these pictures, or not the one in ``start_from``.
        WeightsError: ``start_from`` cannot be read.
        and what :func:`basis_cli.training.fit` raises.
    """
    shape = settings.shape(data.shape)
    config = {"channels": shape[0]} | (config or {})
    if backbone == "unet":
        scaled = data[:: max(1, len(data.images) // 10_000)]
        config |= {"mean": round(float(scaled.mean()), 4), "std": round(float(scaled.std()), 4)}
    torch.manual_seed(settings.seed)
    network = _network(backbone, config, shape, start_from)

    def as_prior(model: nn.Module) -> tuple[ScorePrior, torch.device]:
        return ScorePrior(model, shape, getattr(model, "sigmas", None)), next(model.parameters()).device

    def evaluate(model: nn.Module) -> dict[str, float]:
        prior, where = as_prior(model)
        errors = denoising_error(prior, held_out[:1000].to(where))
        return errors | {"held_out_loss": held_out_loss(errors)}

    def draw(model: nn.Module, path: Path) -> None:
        prior, where = as_prior(model)
        sheet(prior, path, where)

    training.fit(
        network,
        loss_of(network, objective),
        data.images,
        settings,
        out,
        device=device,
        resume=resume,
        architecture={"backbone": backbone} | config | ({} if objective == "dsm" else {"objective": objective}),
        export=lambda average, path: save(path, average, backbone, config, shape, notes or {}),
        sheet=draw,
        evaluate=evaluate,
        callback=callback,
    )
    return out / "weights.safetensors"

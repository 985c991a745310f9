"""A Glow as a prior: one file for all noise levels, or a ladder of files with one for each."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from basis_cli.api import InputError, PriorSpec, WeightsError, atomically, checkpoint
from basis_cli.api import weights as files

from .gaussians import full_precision
from .network import MEMORY, Glow

LADDER = "ladder.json"
CACHE = 2 * 2**30  # bytes of weights of other noise levels that a ladder keeps at hand


class GlowLevel:
    """A Glow at one noise level; see :class:`basis_cli.api.Level`. Works in inference mode too.

    The score is multiplied with ``scale``, for a level near the one that the network was trained at. Pictures go
    through in parts whose activations fit in memory; one picture goes as two, because a convolution of one rounds
    differently.
    """

    def __init__(self, network: Glow, sigma: float, scale: float = 1.0):
        self.network, self.sigma, self.scale = network, sigma, scale

    def score(self, x: Tensor) -> Tensor:
        """``grad log p_sigma(x)`` by automatic differentiation, ``(n, c, h, w)``."""
        return torch.cat([self._score(part) for part in self._parts(x)])[: len(x)] * self.scale

    def log_prob(self, x: Tensor) -> Tensor:
        """``log p_sigma(x)`` in nats, ``(n,)``, in full precision; at level 0 the density of dequantized pictures."""
        with torch.no_grad(), full_precision(x):
            return torch.cat([self.network(part, self._sigma(part)) for part in self._parts(x)])[: len(x)]

    def _score(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()  # what inference mode made cannot be differentiated; its copy can
            return torch.autograd.grad(self.network(x, self._sigma(x)).sum(), x)[0]

    def _sigma(self, x: Tensor) -> Tensor:
        return torch.full((1,), self.sigma, device=x.device)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.expand(2, -1, -1, -1) if len(x) == 1 else x
        most = max(2, MEMORY // self.network.activation_bytes())
        return x.tensor_split(math.ceil(len(x) / most))


class GlowPrior:
    """A conditional Glow, good for any noise level, or a Glow of the one level ``sigma``."""

    def __init__(self, network: Glow, sigma: float | None):
        self.network, self.sigma, self.shape = network.eval().requires_grad_(False), sigma, network.shape
        self.sigmas = (sigma,) if sigma else None

    def at(self, sigma: float) -> GlowLevel:
        """The network at ``sigma``; a Glow of one level stands in for levels near it, its score scaled to size.

        Raises:
            InputError: it was trained at another level.
        """
        if self.sigma is None:
            return GlowLevel(self.network, sigma)
        return GlowLevel(self.network, self.sigma, _ratio(self.sigma, sigma))


def _ratio(rung: float, sigma: float) -> float:
    """By what to multiply the score of level ``rung`` at ``sigma``: its size goes as 1 / sigma.

    Raises:
        InputError: more than a factor of two apart.
    """
    if rung == sigma:
        return 1.0
    if not min(rung, sigma) > 0 or not 0.5 <= rung / sigma <= 2:
        what = f"noise level {rung:.4g}" if rung else "pictures without noise"
        raise InputError(
            f"this Glow models {what}, not noise level {sigma:.4g}", "basis finetune-glow makes the other levels"
        )
    return rung / sigma


@dataclass(frozen=True)
class Rung:
    """One noise level of a ladder: its file, and the SHA-256 that it must have."""

    sigma: float
    path: Path
    sha256: str


class LadderPrior:
    """A Glow for each of several noise levels. While one samples, the next one's file is read in the background."""

    def __init__(self, rungs: list[Rung], shape: tuple[int, int, int], device: torch.device):
        self.rungs = sorted(rungs, key=lambda rung: -rung.sigma)
        self.shape, self.device = shape, device
        self.sigmas = tuple(rung.sigma for rung in self.rungs if rung.sigma > 0)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="glow-ladder")
        self._networks: OrderedDict[Rung, Future[Glow]] = OrderedDict()

    def at(self, sigma: float) -> GlowLevel:
        """The rung nearest to ``sigma``, its score scaled to size.

        Raises:
            InputError: no rung is near.
            WeightsError: its file is missing, is not the one the ladder names, or cannot be read.
        """
        index = min(range(len(self.rungs)), key=lambda i: abs(_log(self.rungs[i].sigma) - _log(sigma)))
        rung = self.rungs[index]
        ratio = _ratio(rung.sigma, sigma)
        network = self._read(rung).result()
        following = self.rungs[(index + 1) % max(1, len(self.sigmas))]  # after the last level, the next batch's first
        self._read(following)
        self._forget({rung, following})
        return GlowLevel(network, rung.sigma, ratio)

    def _read(self, rung: Rung) -> Future[Glow]:
        if rung not in self._networks:
            self._networks[rung] = self._reader.submit(_read_rung, rung, self.shape, self.device)
        self._networks.move_to_end(rung)
        return self._networks[rung]

    def _forget(self, needed: set[Rung]) -> None:
        """Drop the levels longest unused while they take more than :data:`CACHE`."""
        for rung in [rung for rung in self._networks if rung not in needed]:
            if len(self._networks) * rung.path.stat().st_size > CACHE:
                del self._networks[rung]


def _log(sigma: float) -> float:
    return math.log(max(sigma, 1e-6))


def _read_rung(rung: Rung, shape: tuple[int, int, int], device: torch.device) -> Glow:
    if not rung.path.is_file():
        raise WeightsError(f"{rung.path} is missing", f"{LADDER} beside it names it")
    if files.sha256(rung.path) != rung.sha256:
        raise WeightsError(f"{rung.path} is not the file that {LADDER} names: its SHA-256 differs", "make it again")
    network, sigma = read(rung.path)
    if network.shape != shape or sigma != rung.sigma:
        raise WeightsError(
            f"{rung.path} is for {network.shape} pictures at noise level {sigma}, not what {LADDER} says"
        )
    return _ready(network, device)


def _ready(network: Glow, device: torch.device) -> Glow:
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def save(
    path: Path,
    network: Glow,
    sigma: float | None,
    notes: dict[str, str],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write ``network`` and what is needed to build it again; ``notes`` are kept for the reader.

    ``sigma`` is the noise level it models, ``None`` if it is conditional. ``dtype`` is that of the matrices
    inside the couplings and of the Gaussians' directions; the rest, a small part, stays float32: what transforms the
    picture itself needs more digits.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
        BasisError: the file cannot be written; what stood there before is kept.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        rounded = (tensor.ndim > 1 and ".coupling." in name) or name == "gaussians.directions"
        tensors[name] = tensor.to(dtype) if rounded else tensor
    about = {"format": "basis-glow", "config": json.dumps(network.config), "sigma": json.dumps(sigma)}
    checkpoint.save(path, tensors, notes | about)


def read(path: Path) -> tuple[Glow, float | None]:
    """The network in a file that :func:`save` wrote, and its noise level (``None``: conditional).

    Raises:
        WeightsError: not such a file, or its tensors do not fit the network it names.
    """
    hint = "convert it: basis weights convert glow"
    with (
        torch.inference_mode(False),
        checkpoint.opened(path, "basis-glow", "a Glow", hint) as (tensors, about),
    ):
        config = json.loads(about["config"])
        network = Glow(**config | {"shape": tuple(config["shape"])})
        network.load_state_dict(tensors)
        if network.gaussians is not None:
            network.gaussians.orthonormalize()
        sigma = json.loads(about["sigma"])
    return network, sigma


def add_rung(path: Path, sigma: float, shape: tuple[int, int, int]) -> Path:
    """Enter the file ``path`` into the ladder of its folder, in place of any other for ``sigma``; returns the ladder.

    Raises:
        WeightsError: the folder's ladder cannot be read, or is for pictures of another shape.
    """
    ladder = path.with_name(LADDER)
    rungs: list[Rung] = []
    if ladder.exists():
        rungs, known = read_ladder(ladder)
        if known != shape:
            raise WeightsError(f"{ladder} is for pictures of shape {known}, not {shape}", "choose another folder")
    rungs = [rung for rung in rungs if rung.sigma != sigma] + [Rung(sigma, path, files.sha256(path))]
    rungs.sort(key=lambda rung: rung.sigma)
    entries = [{"sigma": rung.sigma, "file": rung.path.name, "sha256": rung.sha256} for rung in rungs]
    content = {"format": "basis-glow-ladder", "shape": shape, "rungs": entries}
    with atomically(ladder) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return ladder


def read_ladder(path: Path) -> tuple[list[Rung], tuple[int, int, int]]:
    """The rungs that a ``ladder.json`` lists, low to high, and the shape of their pictures.

    Raises:
        WeightsError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != "basis-glow-ladder" or not content["rungs"]:
            raise ValueError("no ladder")
        c, h, w = content["shape"]
        rungs = [Rung(float(r["sigma"]), path.with_name(r["file"]), r["sha256"]) for r in content["rungs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no ladder of Glow models: {error}", "basis finetune-glow writes one") from error
    return rungs, (c, h, w)


def load(spec: PriorSpec, weights: Path | None, device: torch.device) -> GlowPrior | LadderPrior:
    """The prior that ``spec`` names, on ``device``: from one file, or from a ladder's ``ladder.json``.

    Raises:
        WeightsError: no weights, unreadable, or made for pictures of another shape.
    """
    if weights is None:
        hint = "give them with --weights; basis train glow makes them"
        raise WeightsError(f"{spec.name} has no weights of its own", hint)
    prior: GlowPrior | LadderPrior
    if weights.suffix == ".json":
        prior = LadderPrior(*read_ladder(weights), device)
    else:
        network, sigma = read(weights)
        prior = GlowPrior(_ready(network, device), sigma)
    if spec.shape and prior.shape != tuple(spec.shape):
        raise WeightsError(f"{weights} is for pictures of shape {prior.shape}, but {spec.name} models {spec.shape}")
    return prior

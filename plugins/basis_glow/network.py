"""Glow (Kingma & Dhariwal 2018): an invertible network between pictures and white noise, with an exact likelihood.

Pictures are ``(n, c, h, w)`` in [0, 1]. What is transformed stays float32; under autocast only the networks inside the
couplings and splits run in bfloat16, so that the map stays invertible and its log-determinant exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .gaussians import Gaussians, Whitening, full_precision
from .layers import ActNorm, Noise, NormalizedConv, Step, softened

DEQUANTIZATION = 1 / 255  # width of the uniform noise that makes 8-bit intensities continuous
SHARE_RATE = 10  # by which the logit of the flow's share learns faster: little of the likelihood depends on it
EMBEDDING = 32  # width of the embedding of the noise level
MEMORY = 2**30  # bytes of activations to keep for a gradient; beyond that, they are computed a second time


class Glow(nn.Module):
    """The density of pictures of ``shape`` ``(c, h, w)`` as published: ``levels`` resolutions, ``depth`` steps at each.

    At every level the picture is squeezed (2 x 2 pixels become channels), goes through the steps, and hands over half
    of its channels, whose distribution is a Gaussian given the other half; what is left at the top has a learned one.
    ``width`` is that of the networks in the couplings. A ``conditional`` model is one for all noise levels: every
    actnorm, those in the couplings included, sees ``log sigma``. ``whiten`` is of how many principal directions its
    :class:`Whitening` knows the variance. ``smooth`` couplings have a continuous score, see :class:`Coupling`.

    With ``gaussians``, of a conditional model, the density is a mixture of the flow's and of so many
    :class:`~.gaussians.Gaussians` with ``directions`` each, the flow's share learned as a function of the noise level::

        p_sigma(x) = w(sigma) p_flow(x) + (1 - w(sigma)) sum_k pi_k N_k(x)

    A smooth map can hardly send apart what noise has blurred into each other; at much noise the Gaussians are better.

    Raises:
        ValueError: sides that cannot be halved ``levels`` times, or numbers below one; a whitening of more directions
            than a picture has values, Gaussians of as many, or either for a model that is not conditional.
    """

    frequencies: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        levels: int = 2,
        depth: int = 16,
        width: int = 128,
        conditional: bool = False,
        whiten: int = 0,
        smooth: bool = False,
        gaussians: int = 0,
        directions: int = 20,
    ):
        super().__init__()
        channels, h, w = shape
        if gaussians and not conditional:
            raise ValueError("Gaussians of no conditional model")
        if gaussians and not 0 < directions < math.prod(shape):
            raise ValueError(f"Gaussians with {directions} directions of {math.prod(shape)}")
        if not 0 <= whiten <= (math.prod(shape) if conditional else 0):
            raise ValueError(f"{whiten} principal directions of {math.prod(shape)} values, or of no conditional model")
        if min(levels, depth, width) < 1 or h % 2**levels or w % 2**levels:
            raise ValueError(f"{w} x {h} pictures cannot be halved {levels} times, or a number is below one")
        self.config = {"shape": shape, "levels": levels, "depth": depth, "width": width, "conditional": conditional}
        self.config |= ({"whiten": whiten} if whiten else {}) | ({"smooth": True} if smooth else {})
        self.config |= {"gaussians": gaussians, "directions": directions} if gaussians else {}
        self.shape, self.size, self.width, self.conditional = shape, math.prod(shape), width, conditional
        self.smooth, self.gaussians = smooth, None
        embedding = EMBEDDING if conditional else 0
        if conditional:
            self.whitening = Whitening(self.size, whiten)
            self.register_buffer("frequencies", math.pi * torch.arange(1, 9), persistent=False)
            self.embed = nn.Sequential(nn.Linear(17, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        if gaussians:
            self.gaussians = Gaussians(self.size, gaussians, directions)
            self.share = nn.Linear(embedding, 1)
            nn.init.zeros_(self.share.weight)
            nn.init.zeros_(self.share.bias)
        self.levels, self.splits = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            channels *= 4
            self.levels.append(nn.ModuleList(Step(channels, width, embedding, smooth) for _ in range(depth)))
            if level + 1 < levels:
                channels //= 2
                self.splits.append(NormalizedConv(channels, 2 * channels, 3, embedding, zero=True))
        self.top = nn.Parameter(torch.zeros(1, 2 * channels, h >> levels, w >> levels))
        self.top_norm = ActNorm(2 * channels, embedding)
        if whiten:
            for step in self.steps():
                step.mix.requires_grad_(False)  # rotations: anything else would undo the whitening

    def steps(self) -> Iterator[Step]:
        for steps in self.levels:
            yield from steps  # type: ignore[misc]

    def _noise(self, sigma: Tensor | None) -> Noise | None:
        """For noise levels ``(rows,)``; none unless the model is conditional."""
        if not self.conditional:
            return None
        assert sigma is not None, "a conditional model needs a noise level"
        with full_precision(sigma):
            u = (sigma**2 + DEQUANTIZATION**2 / 12).log()[:, None] / 14  # log of the whole noise, in about [-1, 0]
            angles = u * self.frequencies
            embedding = self.embed(torch.cat([u, angles.cos(), angles.sin()], dim=1))
        if not self.whitening.components:
            return Noise(embedding, None)
        return Noise(embedding, (1 - self.whitening.share(sigma)).square()[..., None, None])

    @torch.no_grad()
    def of_level(self, sigma: float) -> Glow:
        """A Glow that is not conditional, with the density that this one's flow has at ``sigma``.

        Raises:
            ValueError: this one begins with a :class:`Whitening`, or is not conditional.
        """
        if not self.conditional or self.whitening.components:
            raise ValueError("only a conditional Glow without whitening has levels that can be taken out of it")
        device = self.top.device
        level = torch.full((1,), sigma, device=device)
        plain = Glow(**self.config | {"conditional": False, "gaussians": 0}).to(device)
        shared = plain.state_dict().keys()
        plain.load_state_dict({name: tensor for name, tensor in self.state_dict().items() if name in shared})
        norms = [[m for m in net.modules() if isinstance(m, ActNorm)] for net in (self, plain)]
        for ours, its in zip(*norms, strict=True):
            log_scale, bias = ours.at(self._noise(level))
            its.logs.copy_(log_scale.flatten() / 3)
            its.bias.copy_(bias.flatten())
        std, _ = self.whitening.stds(level)  # what the input is divided by is the first actnorm's now
        first = next(plain.steps()).actnorm
        first.bias.mul_(std.flatten())
        first.logs.sub_(std.log().flatten() / 3)
        return plain

    def activation_bytes(self) -> int:
        """About how much a gradient keeps for each picture: what goes in and out of every convolution."""
        _, h, w = self.shape
        planes = sum(len(steps) * self.width * (h >> i + 1) * (w >> i + 1) for i, steps in enumerate(self.levels))
        return 4 * (5 if self.smooth else 3) * planes  # SiLU keeps its input as well

    def _moments(self, kept: Tensor | None, level: int, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of what leaves at ``level``, given what goes on (at the top, nothing)."""
        if kept is None:
            log_scale, bias = self.top_norm.at(noise)
            moments = (self.top + bias) * log_scale.exp()
        else:
            moments = self.splits[level](kept, noise).float()
        mean, logs = softened(noise, *moments.chunk(2, dim=1))
        return mean, logs

    def encode(self, x: Tensor, sigma: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """White noise for each level (the top last), as large as ``x`` in all, and the log-determinant ``(n,)``.

        ``sigma``, ``(n,)`` or ``(1,)``, is what a conditional model needs and any other one ignores.
        """
        noise = self._noise(sigma)
        again = torch.is_grad_enabled() and len(x) * self.activation_bytes() > MEMORY
        if self.conditional:
            assert sigma is not None
            z, log_det = self.whitening(x.float(), sigma)
            log_det = log_det.expand(len(x))
        else:
            z, log_det = x.float() - 0.5, torch.zeros(len(x), device=x.device)
        latents = []
        for level, steps in enumerate(self.levels):
            z = F.pixel_unshuffle(z, 2).contiguous(memory_format=torch.channels_last)
            for step in steps:
                z, more = checkpoint(step, z, noise, use_reentrant=False) if again else step(z, noise)
                log_det = log_det + more
            kept, leaving = z.chunk(2, dim=1) if level + 1 < len(self.levels) else (None, z)
            mean, logs = self._moments(kept, level, noise)
            latents.append((leaving - mean) * (-logs).exp())
            log_det = log_det - logs.expand_as(leaving).flatten(1).sum(1)
            z = kept
        return latents, log_det

    def inverse(self, latents: list[Tensor], sigma: Tensor | None = None) -> Tensor:
        """The pictures ``(n, c, h, w)`` that :meth:`encode` makes ``latents`` of."""
        noise = self._noise(sigma)
        z = None
        for level in reversed(range(len(self.levels))):
            mean, logs = self._moments(z, level, noise)
            leaving = latents[level] * logs.exp() + mean
            z = leaving if z is None else torch.cat([z, leaving], dim=1)
            for step in reversed(self.levels[level]):
                z = step.inverse(z, noise)
            z = F.pixel_shuffle(z, 2)
        if self.conditional:
            assert sigma is not None
            return self.whitening.inverse(z, sigma)
        return z + 0.5

    def share_logit(self, sigma: Tensor) -> Tensor:
        """The logit of the flow's share of a density with Gaussians, for each noise level ``(rows,)``."""
        noise = self._noise(sigma)
        assert noise is not None
        with full_precision(sigma):
            return SHARE_RATE * self.share(noise.embedding)[:, 0]

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """``log p(x)`` in nats, ``(n,)``, for ``x`` ``(n, c, h, w)``; ``sigma`` as for :meth:`encode`."""
        latents, log_det = self.encode(x, sigma)
        square = torch.stack([z.square().flatten(1).sum(1) for z in latents]).sum(0)
        flow = log_det - 0.5 * square - 0.5 * self.size * math.log(2 * math.pi)
        if self.gaussians is None:
            return flow
        assert sigma is not None
        logit = self.share_logit(sigma)
        with full_precision(x):
            mixture = self.gaussians(x.flatten(1).float(), sigma)
        return torch.stack([flow + F.logsigmoid(logit), mixture + F.logsigmoid(-logit)]).logsumexp(0)

    def sample(
        self, n: int, generator: torch.Generator, sigma: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """``n`` pictures; ``temperature`` scales the standard deviation of the noise that they are made of."""
        c, h, w = self.shape
        top = len(self.levels) - 1
        shapes = [(n, c * 2 ** (i + 1) * (2 if i == top else 1), h >> i + 1, w >> i + 1) for i in range(top + 1)]
        device = self.top.device
        latents = [temperature * torch.randn(shape, generator=generator, device=device) for shape in shapes]
        x = self.inverse(latents, sigma)
        if self.gaussians is None:
            return x
        assert sigma is not None
        others = self.gaussians.sample(n, generator, sigma, temperature).view_as(x)
        flows = torch.rand(n, generator=generator, device=device) < self.share_logit(sigma).sigmoid()
        return torch.where(flows[:, None, None, None], x, others)

    @torch.no_grad()
    def initialize(self, x: Tensor, sigma: Tensor | None = None) -> None:
        """Choose every actnorm so that its output for ``x`` has mean 0 and variance 1 (data-dependent start)."""
        norms = [module for module in self.modules() if isinstance(module, ActNorm)]
        if self.conditional and self.whitening.components:  # what goes through has about that variance already
            through = {step.actnorm for step in self.steps()}
            norms = [norm for norm in norms if norm not in through]
        for norm in norms:
            norm.watching = True
        try:
            self.encode(x, sigma)
        finally:
            for norm in norms:
                norm.watching = False

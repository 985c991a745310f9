"""What a Glow knows of much noise without a flow: the whitening before it, the mixture of Gaussians beside it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DATA_STD = 0.3  # of the pictures' intensities, about: with the noise it sets the scale of a conditional model's input
KMEANS, EM = 15, 6  # rounds of each
FITTED_AT = 0.3  # noise level: about where Gaussians begin to know more of pictures than a flow does
FLOOR = 1e-6  # least variance, and pictures' worth of the mean that keeps a Gaussian without any from nowhere
SPARE = 8  # directions more than are kept, for the randomized decomposition
SEEN = 1e-3  # least responsibility of a Gaussian for a picture that it learns from
PART = 5_000  # pictures at a time
ROWS = 16  # of a matrix product


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast."""
    return torch.autocast(x.device.type, enabled=False)


class Whitening(nn.Module):
    """Linear and exactly invertible: at much noise pictures come out white, at little noise only scaled.

    Noisy pictures have the covariance ``C + s^2 I``. What is taken for ``C`` goes from ``DATA_STD^2 I`` at little
    noise, where whitening would spread the noise unevenly and hide edges, to the pictures' own at much noise, where a
    Gaussian is nearly all that is left of them::

        C(s) = g sum_i variance_i u_i u_i^T + (1 - g) DATA_STD^2 I,   g = s^2 / (s^2 + DATA_STD^2)

    with the ``components`` principal directions ``u_i`` of the pictures. With none it is a scale and nothing else. What
    comes behind it counts as ``(1 - g)^2`` (:class:`Noise`).
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    def __init__(self, size: int, components: int):
        super().__init__()
        self.size, self.components = size, components
        kept = components > 0
        self.register_buffer("mean", torch.full((size,), 0.5), persistent=kept)
        self.register_buffer("variances", torch.zeros(components), persistent=kept)
        self.register_buffer("directions", torch.eye(size, components), persistent=kept)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and principal directions from pictures ``x`` ``(n, c, h, w)``, more of them than directions."""
        flat = x.flatten(1)
        _, deviations, directions = torch.pca_lowrank(flat, self.components, niter=6)
        self.mean.copy_(flat.mean(0))
        self.variances.copy_(deviations**2 / (len(x) - 1))
        self.directions.copy_(directions)

    def share(self, sigma: Tensor) -> Tensor:
        """``g`` at noise levels ``(rows,)``, ``(rows, 1)``; zero if there are no directions."""
        share = sigma**2 / (sigma**2 + DATA_STD**2) if self.components else torch.zeros_like(sigma)
        return share[:, None]

    def stds(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """At noise levels ``(rows,)``: of what no direction covers ``(rows, 1)``, of each ``(rows, components)``."""
        share = self.share(sigma)
        rest = sigma[:, None] ** 2 + (1 - share) * DATA_STD**2
        return rest.sqrt(), (rest + share * self.variances).sqrt()

    def _each(self, flat: Tensor, rest: Tensor, along: Tensor) -> Tensor:
        """``flat`` ``(n, size)`` times ``along`` in the principal directions, and times ``rest`` in all others."""
        if not self.components:
            return flat * rest
        with full_precision(flat):
            return flat * rest + ((flat @ self.directions) * (along - rest)) @ self.directions.T

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(n, c, h, w)`` white, and the log-determinant ``(rows,)``."""
        rest, along = self.stds(sigma)
        flat = x.flatten(1) - self.mean
        log_det = (self.components - self.size) * rest.log()[:, 0] - along.log().sum(1)
        return self._each(flat, 1 / rest, 1 / along).view_as(x), log_det

    def inverse(self, z: Tensor, sigma: Tensor) -> Tensor:
        flat = self._each(z.flatten(1), *self.stds(sigma))
        return (flat + self.mean).view_as(z)


class Gaussians(nn.Module):
    """``K`` Gaussians that each have a variance of their own along ``R`` directions and one along all others.

    Mixtures of probabilistic principal component analyzers (Tipping & Bishop 1999). Noise is added to each variance, so
    the density of noisy pictures is exact at every noise level::

        p_sigma(x) = sum_k pi_k N(x; mu_k, U_k diag(v_k) U_k^T + (r_k + sigma^2) I)

    The rows of ``U_k^T`` ``(R, size)`` are orthonormal and not trained by gradients; everything else is.
    """

    directions: Tensor

    def __init__(self, size: int, gaussians: int, directions: int):
        super().__init__()
        self.size = size
        self.means = nn.Parameter(torch.full((gaussians, size), 0.5))
        self.log_variances = nn.Parameter(torch.zeros(gaussians, directions))
        self.log_rest = nn.Parameter(torch.zeros(gaussians))
        self.logits = nn.Parameter(torch.zeros(gaussians))
        self.register_buffer("directions", torch.eye(directions, size).repeat(gaussians, 1, 1))

    def each(self, x: Tensor, sigma: Tensor, rows: int = ROWS) -> Tensor:
        """``log(pi_k N_k(x))`` in nats, ``(n, K)``, for ``x`` ``(n, size)`` at noise levels ``(n,)`` or ``(1,)``.

        What is said of a picture is the same to the last bit whatever the others are. ``rows`` go at a time.
        """
        k, r, _ = self.directions.shape
        middle = (self.logits.softmax(0) @ self.means).detach()  # lest the squares of distances cancel
        x, means = x - middle, self.means - middle
        rest = self.log_rest.exp() + sigma[:, None] ** 2
        along = self.log_variances.exp() + rest[..., None]
        projected = _products(x, self.directions.flatten(0, 1), rows).view(-1, k, r)
        projected = projected - torch.einsum("krd,kd->kr", self.directions, means)
        distance = x.square().sum(1)[:, None] - 2 * _products(x, means, rows) + means.square().sum(1)
        square = (distance - projected.square().sum(2)) / rest + (projected.square() / along).sum(2)
        log_det = (self.size - r) * rest.log() + along.log().sum(2)
        return self.logits.log_softmax(0) - 0.5 * (square + log_det + self.size * math.log(2 * math.pi))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``log p_sigma(x)`` in nats, ``(n,)``; arguments as for :meth:`each`."""
        return self.each(x, sigma).logsumexp(1)

    def sample(self, n: int, generator: torch.Generator, sigma: Tensor, temperature: float = 1.0) -> Tensor:
        """``n`` pictures ``(n, size)`` at noise level ``(1,)``; ``temperature`` scales the standard deviations."""
        k = torch.multinomial(self.logits.softmax(0), n, replacement=True, generator=generator)
        z = torch.randn(n, self.size + self.directions.shape[1], generator=generator, device=k.device) * temperature
        within = torch.einsum("nrd,nr->nd", self.directions[k], (0.5 * self.log_variances[k]).exp() * z[:, self.size :])
        return self.means[k] + within + (self.log_rest[k].exp() + sigma**2).sqrt()[:, None] * z[:, : self.size]

    @torch.no_grad()
    def orthonormalize(self) -> None:
        """Make directions that were rounded orthonormal again, else this is no density: to the nearest that are."""
        left, _, right = torch.linalg.svd(self.directions, full_matrices=False)
        self.directions.copy_(left @ right)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Learn pictures ``x`` ``(n, size)``, at least as many as Gaussians and directions, from k-means on.

        Expectation maximization, but that which Gaussian has which picture is told from pictures with noise
        (:data:`FITTED_AT`), while means and variances are those of the pictures without. Draws from torch's global
        generator.
        """
        sigma = torch.full((1,), FITTED_AT, device=x.device)
        spread = FLOOR * x.var(0, correction=0).sum()
        responsible = F.one_hot(_kmeans(x, len(self.means)), len(self.means)).to(x.dtype)
        for again in range(EM):
            if again:
                noisy = (part + FITTED_AT * torch.randn_like(part) for part in x.split(PART))
                responsible = torch.cat([self.each(part, sigma, PART).softmax(1) for part in noisy])
            count = responsible.sum(0) + FLOOR
            self.means.copy_((responsible.T @ x + FLOOR * x.mean(0)) / count[:, None])
            self.logits.copy_((count / len(x)).log())
            for k in range(len(self.means)):
                self._fit_one(k, x, responsible[:, k], spread)

    def _fit_one(self, k: int, x: Tensor, responsible: Tensor, spread: Tensor) -> None:
        """Directions and variances of Gaussian ``k``, from the pictures that it is responsible for, and a little
        ``spread`` in any direction."""
        r, count = self.directions.shape[1], responsible.sum() + FLOOR
        rank = min(r + SPARE, *x.shape)
        weight, chosen = responsible.topk(max(rank, int((responsible > SEEN).sum())))
        scattered = (x[chosen] - self.means[k]) * weight.sqrt()[:, None]
        _, deviations, directions = torch.svd_lowrank(scattered, rank, niter=3)
        variances = deviations[:r] ** 2 / count
        total = (scattered.square().sum() + spread) / count
        rest = (total - variances.sum()).clamp_min(0) / (self.size - r) + FLOOR
        self.directions[k] = directions[:, :r].T
        self.log_variances[k] = (variances - rest).clamp_min(FLOOR).log()
        self.log_rest[k] = rest.log()


def _products(x: Tensor, others: Tensor, rows: int) -> Tensor:
    """``x @ others.T``, each row of it the same whatever the others are: rounding goes with the number of rows."""
    blocks = F.pad(x, (0, 0, 0, -len(x) % rows)).split(rows)
    return torch.cat([F.linear(block, others) for block in blocks])[: len(x)]


def _kmeans(x: Tensor, k: int) -> Tensor:
    """Which of ``k`` clusters each row of ``x`` belongs to, ``(n,)`` int64."""
    centres = x[torch.randperm(len(x), device=x.device)[:k]]
    for _ in range(KMEANS):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(PART)])
        count = torch.bincount(nearest, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        strays = x[torch.randint(len(x), (k,), device=x.device)]  # a cluster that has lost all starts elsewhere
        centres = torch.where(count[:, None] > 0, sums / count.clamp_min(1)[:, None], strays)
    return torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(PART)])

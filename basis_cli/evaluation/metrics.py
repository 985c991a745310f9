"""How good a result is beside its PSNR (:mod:`basis_cli.posterior.ordering`): SSIM; FID and IS of many pictures."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

SSIM_WINDOW = 11
"""Pixels."""


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) over the last three axes, at most 1, which equal pictures have::

        SSIM = (2 m_x m_r + c1) (2 s_xr + c2) / ((m_x^2 + m_r^2 + c1) (s_x^2 + s_r^2 + c2)),  c1 = .01^2, c2 = .03^2

    Means m, variances and covariance s are those under a Gaussian window of 11 x 11 pixels with a deviation of 1.5;
    the result is the mean over the channels and over all places where the window is within the picture. So
    scikit-image has it, with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1``. float64,
    on the CPU.

    Raises:
        UsageError: a side of less than 11 pixels.
    """
    shape = torch.broadcast_shapes(x.shape, reference.shape)
    if min(shape[-2:]) < SSIM_WINDOW:
        raise UsageError(f"SSIM needs {SSIM_WINDOW} pixels a side, not {shape[-1]} x {shape[-2]}")
    a, b = (each.cpu().double().expand(shape).reshape(-1, 1, *shape[-2:]) for each in (x, reference))
    window = torch.exp(-((torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def local(values: Tensor) -> Tensor:
        """The mean under the window."""
        return F.conv2d(F.conv2d(values, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_a, mean_b = local(a), local(b)
    spread = local(a * a) + local(b * b) - mean_a**2 - mean_b**2
    together = local(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return (likeness * (2 * together + 0.03**2) / (spread + 0.03**2)).view(*shape[:-2], -1).mean((-1, -2))


def best_of(samples: Tensor, truth: Tensor) -> dict[str, dict[str, float]]:
    """How near several ``samples`` ``(n, m, c, h, w)`` of each picture come to the ``truth`` ``(n, c, h, w)``.

    ``one`` is the first of them; ``best value`` has of each number in a picture the nearest among the samples, which is
    what Ardizzone et al. (2019) call "best of 8"; ``best picture`` is the nearest sample. Of each, the mean over
    pictures of the root mean square ``rms`` (published as 100 times that), its standard error, and the mean ``mse``.
    ``variance`` is that over the samples, the mean over all numbers.
    """
    squares = (samples - truth[:, None]).square()
    each = {
        "one": squares[:, 0].flatten(1).mean(1),
        "best value": squares.amin(1).flatten(1).mean(1),
        "best picture": squares.flatten(2).mean(2).amin(1),
    }
    found = {}
    for name, mse in each.items():
        rms = mse.sqrt()
        found[name] = {"rms": float(rms.mean()), "standard_error": float(rms.std() / len(rms) ** 0.5)}
        found[name]["mse"] = float(mse.mean())
    return found | {"variance": {"mean": float(samples.var(1, correction=0).mean())}}


@dataclass(frozen=True)
class Statistics:
    """All that a Frechet distance needs to know of a set of ``count`` pictures; float64, on the CPU."""

    mean: Tensor
    """``(d,)``, of their features."""
    covariance: Tensor
    """``(d, d)``, of their features."""
    count: int

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Those of ``features`` ``(n, d)``, n at least 2."""
        features = features.cpu().double()
        return cls(features.mean(0), features.T.cov(), len(features))


@torch.no_grad()
def features_of(network: nn.Module, pictures: Tensor, batch: int = 250) -> tuple[Tensor, Tensor]:
    """Logits ``(n, classes)`` and features ``(n, d)`` of ``pictures`` ``(n, 3, h, w)``: float64, on the CPU.

    Pictures are uint8, or floats in [0, 1] that are rounded to 8 bits, as files hold them. ``network`` gives both for
    floats in [0, 1].
    """
    device = next(network.parameters(), pictures).device
    found = []
    for part in pictures.split(batch):
        levels = part if part.dtype == torch.uint8 else part.clamp(0, 1).mul(255).round()
        found.append([each.cpu().double() for each in network(levels.to(device).float() / 255)])
    logits, features = map(torch.cat, zip(*found, strict=True))
    return logits, features


def frechet_distance(features: Tensor, reference: Statistics) -> float:
    """Between the Gaussians of the moments of ``features`` ``(n, d)``, n at least 2, and of ``reference``.

    With fewer pictures it is larger: compare figures of equally many only.
    """
    fid = torchmetrics("image.fid").FrechetInceptionDistance(_Given(features.shape[1]))
    n, mean = reference.count, reference.mean
    fid.real_features_num_samples += n
    fid.real_features_sum += n * mean
    fid.real_features_cov_sum += (n - 1) * reference.covariance + n * mean.outer(mean)
    fid.update(features.cpu().double(), real=False)
    return float(fid.compute())


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """``exp E KL(p(class | picture) || p(class))`` from ``logits`` ``(n, classes)``: mean and deviation over splits."""
    module = torchmetrics("image.inception")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the logits of all pictures
        torch.manual_seed(0)  # it shuffles them
        score = module.InceptionScore(nn.Identity(), splits=min(splits, len(logits)))
        score.update(logits.cpu().double())
        mean, deviation = score.compute()
    return float(mean), float(deviation)


class _Given(nn.Identity):
    """Stands in for the network where its ``num_features`` features are already known."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


FEW = 500
"""Pictures: an Inception score of fewer depends more on how many they are than on what they show."""


class Realism:
    """How much pictures look like those of ``reference``, to ``network``: Frechet distance and Inception score.

    ``network`` gives logits ``(n, classes)`` and features ``(n, d)`` of pictures ``(n, 3, h, w)`` in [0, 1]. The
    figures' names begin with ``prefix``: ``cifar-`` for this project's own network, nothing for the Inception network.
    :func:`~basis_cli.evaluation.features.cifar_realism` and its neighbour ``inception_realism`` make one.
    """

    def __init__(self, network: nn.Module, reference: Statistics, prefix: str = ""):
        self.network, self.reference, self.prefix = network, reference, prefix

    def __call__(self, pictures: Tensor) -> dict[str, float]:
        """``FID``, ``IS`` and ``IS-std`` of ``pictures`` ``(n, 3, h, w)`` in [0, 1], rounded to 8 bits first.

        ``IS-std`` is the deviation over ten parts of the pictures.

        Raises:
            UsageError: fewer than two pictures or no RGB, or torchmetrics is not installed.
        """
        if len(pictures) < 2 or pictures.shape[1] != 3:
            raise UsageError(f"{self.prefix}FID needs two RGB pictures, not {tuple(pictures.shape)}")
        logits, features = features_of(self.network, pictures)
        score, deviation = inception_score(logits)
        found = {"FID": frechet_distance(features, self.reference), "IS": score, "IS-std": deviation}
        return {self.prefix + name: value for name, value in found.items()}

    def caveats(self, count: int) -> list[str]:
        """What to know of the figures of so few pictures as ``count``."""
        found, dimensions = [], len(self.reference.mean)
        if count <= dimensions:
            found.append(f"{self.prefix}FID: {count} pictures do not tell the covariance of {dimensions} features")
        if count < FEW:
            found.append(f"{self.prefix}IS: too low, from ten parts of {-(-count // 10)} pictures")
        return [f"{caveat}; compare figures of equally many only" for caveat in found]


def torchmetrics(module: str) -> Any:
    """A module of torchmetrics; long runs ask for it before they begin.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(f"torchmetrics.{module}")
    except ImportError:
        raise UsageError("this measurement needs torchmetrics", "pip install 'basis-cli[eval]'") from None
    except Exception as error:  # it imports torchvision where there is one, which may be made for another torch
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"torchmetrics cannot be imported: {reason}", "pip uninstall torchvision, if it is that"
        ) from error

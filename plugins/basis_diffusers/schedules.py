"""From what a network of diffusers was trained on to a denoiser of ``x0 + sigma z``, in the network's own range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from basis_cli.api import WeightsError

Network = Callable[[Tensor, float], Tensor]
"""What it returns for its input ``(n, c, h, w)`` at a timestep, or whatever else tells it the noise level."""


@dataclass(frozen=True)
class VariancePreserving:
    """DDPM's ``s x0 + sqrt(1 - s^2) z`` with ``s^2 = alphas_cumprod[t]``: ours, ``x0 + sigma z``, times ``s``.

    ``log_sigmas[t]`` is the logarithm of ``sigma = sqrt(1 - s^2) / s``; between timesteps it is interpolated.
    """

    log_sigmas: np.ndarray
    prediction: str
    """Of the network: ``epsilon`` (z), ``sample`` (x0) or ``v_prediction`` (``s z - sqrt(1 - s^2) x0``)."""

    @property
    def sigmas(self) -> tuple[float, float]:
        """Lowest and highest noise level."""
        return math.exp(self.log_sigmas[0]), math.exp(self.log_sigmas[-1])

    def denoised(self, network: Network, x: Tensor, sigma: float) -> Tensor:
        t = float(np.interp(math.log(sigma), self.log_sigmas, np.arange(len(self.log_sigmas))))
        s = (1 + sigma**2) ** -0.5
        predicted = network(s * x, t)
        if self.prediction == "epsilon":
            return x - sigma * predicted
        if self.prediction == "v_prediction":
            return s * (s * x) - sigma * s * predicted
        return predicted


@dataclass(frozen=True)
class Preconditioned:
    """Karras et al. (2022), Table 1, column "Ours"; ``sign`` is -1 for networks that predict v."""

    sigmas: tuple[float, float]
    std: float
    sign: int

    def denoised(self, network: Network, x: Tensor, sigma: float) -> Tensor:
        total = sigma**2 + self.std**2
        raw = network(x * total**-0.5, math.log(sigma) / 4)
        return x * (self.std**2 / total) + self.sign * sigma * self.std * total**-0.5 * raw


@dataclass(frozen=True)
class VarianceExploding:
    """The score of ``x0 + sigma z``, as the NCSN++ of Song et al. (2021)."""

    sigmas: tuple[float, float]

    def denoised(self, network: Network, x: Tensor, sigma: float) -> Tensor:
        return x + sigma**2 * network(x, sigma)


Schedule = VariancePreserving | Preconditioned | VarianceExploding


def schedule(config: Mapping[str, Any]) -> Schedule:
    """What a ``scheduler_config.json`` says of the training; of sampling it may say what it likes.

    Raises:
        WeightsError: noise of another kind, or a prediction of another kind.
    """
    kind, prediction = config.get("_class_name", "a scheduler"), config.get("prediction_type", "epsilon")
    if kind == "ScoreSdeVeScheduler":
        return VarianceExploding((config["sigma_min"], config["sigma_max"]))
    known = ("epsilon", "v_prediction") if "sigma_data" in config else ("epsilon", "v_prediction", "sample")
    if prediction not in known or not ("sigma_data" in config or "beta_schedule" in config):
        hint = "known: schedulers with betas (DDPM, DDIM, ...), EDM's and ScoreSdeVe's; epsilon, v_prediction, sample"
        raise WeightsError(f"{kind} with prediction_type {prediction!r} is not supported", hint)
    if "sigma_data" in config:
        ends = (config["sigma_min"], config["sigma_max"])
        return Preconditioned(ends, config["sigma_data"], -1 if prediction == "v_prediction" else 1)
    from diffusers import DDPMScheduler

    betas = {name: config[name] for name in BETAS if name in config}
    kept = DDPMScheduler(**betas).alphas_cumprod.double().numpy()
    kept = kept[kept > 0]  # the last is zero where training began with pure noise
    return VariancePreserving(0.5 * np.log((1 - kept) / kept), prediction)


BETAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)

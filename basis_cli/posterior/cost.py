"""How long it will take."""

from __future__ import annotations

import time

import torch

from .. import plugins
from ..compute import Compute
from ..samplers import joint_score
from . import ranking, spread
from .blind import Blind
from .guided import Guided


def estimated_seconds(
    posterior: Guided, inputs: int, samples: int, compute: Compute, uncertainty: bool = False
) -> float:
    """About how long ``samples`` of each of ``inputs`` take, from one evaluation of a batch; 0 for baselines.

    ``uncertainty``: with the samples about them, where such are drawn (:mod:`.spread`). The estimate costs that
    evaluation more: of a picture alone a fiftieth of what :func:`~basis_cli.samplers.project` takes.
    """
    sampling, priors = posterior.sampling, posterior.priors
    spec = plugins.sampler_spec(str(sampling.sampler))
    if not spec.guided:
        return 0.0
    sigmas = sampling.sigmas(priors)
    steps = sampling.described(priors).get("steps") or 1 if spec.steps else 1
    chains = posterior.chains if isinstance(posterior, Blind) else 1
    evaluations = chains * len(sigmas) * steps * spec.evaluations + (len(ranking.SIGMAS) if samples > 1 else 0)
    about = spread.evaluations(priors) if uncertainty and spread.needed(posterior) else 0
    with compute.inference():
        size = compute.batch or posterior.batch_size(inputs * samples, compute.place)
        x = torch.full((len(priors), size, *posterior.shape), 0.5, device=compute.place)
        try:
            score = joint_score(priors, sigmas[0])
            began = time.perf_counter()
            float(score(x).sum())  # waits for a GPU
        except (RuntimeError, MemoryError):  # the run itself says what is wrong, or goes on with smaller batches
            return 0.0
        took = time.perf_counter() - began
    return took * (evaluations * samples + about) * inputs / size

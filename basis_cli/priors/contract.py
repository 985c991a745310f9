"""What a plugin's priors, models and samplers must return (:mod:`basis_cli.api`): an error names the one that does not.

A wrong shape would often broadcast, and come out as a wrong picture without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..api import Level, Likelihood, Prior
from ..errors import BasisError, out_of_memory

REPORT = "report it to its plugin's author"


def called(thing: object) -> str:
    """The class of a plugin's object, with its module."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Whatever is raised here becomes a ``BasisError`` on ``what``, but for what is caught elsewhere: too little
    memory, networks that cannot be compiled, steps that cannot be recorded, a recomputation that has enough."""
    try:
        yield
    except BasisError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may even call sys.exit
        torchs_own = type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch.utils.checkpoint"))
        recording = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if out_of_memory(error) or torchs_own or recording:
            raise
        raise BasisError(f"{what} failed: {type(error).__name__}: {error}", REPORT) from error


def checked(answer: object, shape: Sequence[int], device: torch.device, what: str) -> Tensor:
    """``answer``, a tensor of floats of this shape on this device.

    Raises:
        BasisError: it is something else; ``what`` says whose.
    """
    if not isinstance(answer, Tensor):
        raise BasisError(f"{what} is {type(answer).__name__}, not a tensor", REPORT)
    if answer.shape != torch.Size(shape):
        raise BasisError(f"{what} has shape {tuple(answer.shape)}, not {tuple(shape)}", REPORT)
    if answer.device != device or not answer.is_floating_point():
        raise BasisError(f"{what} is {answer.dtype} on {answer.device}, not floats on {device}", REPORT)
    return answer


def level(prior: Prior, sigma: float) -> Level:
    """``prior.at(sigma)``."""
    with blamed(f"the prior {called(prior)} at noise level {sigma:.4g}"):
        found = prior.at(sigma)
    if not callable(getattr(found, "score", None)):
        raise BasisError(f"the prior {called(prior)} has no score at noise level {sigma:.4g}", REPORT)
    return found


def score(level: Level, x: Tensor) -> Tensor:
    """``level.score(x)``."""
    what = f"the score of {called(level)}"
    with blamed(what):
        found = level.score(x)
    return checked(found, x.shape, x.device, what)


def log_prob(level: Likelihood, x: Tensor) -> Tensor:
    """``level.log_prob(x)``."""
    what = f"the log-likelihood of {called(level)}"
    with blamed(what):
        found = level.log_prob(x)
    return checked(found, x.shape[:1], x.device, what)

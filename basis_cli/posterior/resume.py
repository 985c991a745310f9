"""Long runs that may be killed: their state in a file after every noise level, and how they go on from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from .. import checkpoint
from ..errors import BasisError, InputError, UsageError
from ..operators import Operator
from ..samplers.noise import PerImageNoise


class SavedState:
    """The state of a run of :func:`basis_cli.posterior.runner.answers` on some inputs in a file, to give to it again.

    It holds the batches that are done, the components of the batch at work after its last full noise level, how far its
    noise has been used, and what tells this run from others. It is written when a level ends and read back exactly, so
    a run that goes on makes the very pictures of an unbroken one.

    Args:
        about: what must be the same for a run to go on, besides what the runner knows: names, hashes; JSON.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.identity = path, about
        self.parts: list[Tensor] = []
        """Samples ``(k, n, c, h, w)`` of the batches that are done."""
        self.likelihoods: list[Tensor] = []
        self._observed: dict[str, Tensor] = {}
        self._chain: tuple[Tensor, int, int, int] | None = None

    def begin(self, settings: dict[str, Any], operator: Operator, y: Tensor, shape: Sequence[int]) -> int | None:
        """Read the file if there is one; how many pictures its run had at work.

        Raises:
            InputError: the file cannot be read.
            UsageError: another run left it there.
        """
        self.identity = json.loads(json.dumps(self.identity | settings))
        probe = PerImageNoise([0]).uniform((operator.k, 1, *shape))
        self._observed = {"picture": y, "operator": operator(probe)}
        if not os.path.lexists(self.path):
            return None
        with _damage(self.path):
            tensors, about = _read(self.path)
            before = json.loads(about["identity"])
            changed = [name for name in sorted(before | self.identity) if before.get(name) != self.identity.get(name)]
            changed += [name for name, value in self._observed.items() if not _equal(tensors[name], value)]
            if changed:
                hint = "resume with the command that began it, or remove the file"
                raise UsageError(f"{self.path} is from another run: it differs in {', '.join(changed)}", hint)
            done = range(int(about["batches"]))
            self.parts = [tensors[f"part.{i}"] for i in done]
            self.likelihoods = [tensors[f"likelihood.{i}"] for i in done if f"likelihood.{i}" in tensors]
            x, level, words, pictures = tensors["x"], *(int(about[name]) for name in ("level", "words", "pictures"))
            shapes = {(operator.k, part.shape[1], *shape) for part in (*self.parts, x)}
            if shapes != {tuple(part.shape) for part in (*self.parts, x)} or min(level, words, pictures) < 0:
                raise ValueError("it does not fit together")
        self._chain = x, level, words, pictures
        return x.shape[1]

    def descent(
        self, pictures: Tensor, sigmas: Sequence[float], x: Tensor, noise: PerImageNoise
    ) -> Iterator[tuple[int, float]]:
        """As :func:`basis_cli.samplers.descend`, from where the file says, writing it when a level ends.

        ``pictures`` counts network evaluations.
        """
        first = 0
        if self._chain:
            saved, first, noise.offset, count = self._chain
            x.copy_(saved)
            pictures.fill_(count)
            self._chain = None
        for level in range(first, len(sigmas)):
            yield level, sigmas[level]
            if level + 1 < len(sigmas):
                self._write(x, {"level": level + 1, "words": noise.offset, "pictures": int(pictures)})

    def _write(self, x: Tensor, numbers: dict[str, int]) -> None:
        tensors = self._observed | {"x": x}
        tensors |= {f"part.{i}": part for i, part in enumerate(self.parts)}
        tensors |= {f"likelihood.{i}": values for i, values in enumerate(self.likelihoods)}
        about = {"format": "basis-state", "identity": json.dumps(self.identity)}
        about |= {name: str(number) for name, number in (numbers | {"batches": len(self.parts)}).items()}
        checkpoint.write(self.path, tensors, about)

    def remove(self) -> None:
        """Remove the file, if there is one: the run is over."""
        self.path.unlink(missing_ok=True)


def begun(path: Path) -> list[str]:
    """The inputs that the run whose state is in ``path`` had at work.

    Raises:
        InputError: the file cannot be read.
    """
    with _damage(path):
        inputs = json.loads(_read(path)[1]["identity"])["inputs"]
        if not isinstance(inputs, list):
            raise TypeError("it names no inputs")
        return inputs


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever a file may hold that is no state."""
    try:
        yield
    except BasisError:
        raise
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"cannot resume from {path}: {error}", "remove it to begin anew") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, about = checkpoint.read(path)
    if about.get("format") != "basis-state":
        raise InputError(f"{path} is not the state of a run", "remove it, or choose another --out")
    # clones: Windows cannot replace a file that tensors are still mapped to
    return {name: tensor.clone() for name, tensor in tensors.items()}, about


def _equal(a: Tensor, b: Tensor) -> bool:
    """Up to rounding, which differs between machines."""
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)

"""Take pictures apart that were laid over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .base import FitOption, Shape, Task, answer, as_fit

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import Prior
    from ..operators import Operator
    from ..posterior import Result
    from .base import Picture


@dataclass(frozen=True)
class Separate(Task):
    """Separate a picture into the k pictures that were laid over each other.

    Writes STEM.x1.png ... STEM.xk.png and STEM.json, the components ordered by PSNR: to the references if given, else
    to the mixture. --uncertainty adds STEM.x1.std.png ..., where white is a standard deviation of a quarter or more.
    """

    name, noun, prior, defaults, several = "separate", "separation", "ncsn-mnist", {"sampler": "ep"}, True
    k: Annotated[int, typer.Option("-k", help="How many pictures were laid over each other.")] = 2
    alpha: Annotated[str | None, typer.Option(help="Mixing coefficients, a,b,... (default: 1/k each)")] = None
    fit: FitOption = None

    @property
    def coefficients(self) -> list[float]:
        """``alpha``, or ``1/k`` each: an eight-bit file holds a mean, not a sum.

        Raises:
            UsageError: not a number for each.
        """
        given = numbers(self.alpha, "--alpha") or [1 / self.k] * self.k
        if len(given) != self.k:
            hint = "--alpha takes one number for each"
            raise UsageError(f"{len(given)} mixing coefficients for {self.k} components", hint)
        return given

    def operator(self, shape: Shape) -> Operator:
        from ..operators import Mixture

        return Mixture(self.coefficients)

    def check(self, shape: Shape, larger: bool = False) -> None:
        self.operator(shape)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return y


def separate(
    mixtures: Picture | Sequence[Picture],
    *,
    k: int = 2,
    prior: str | Prior | Sequence[str | Prior] | None = None,
    alpha: Sequence[float] | None = None,
    references: Sequence[Picture] | None = None,
    fit: str | None = None,
    **options: Any,
) -> Result:
    """Separate each mixture ``m = sum_i alpha_i x_i`` into ``k`` components drawn from ``p(x | m)``.

    Args:
        mixtures: one or several files or ``(c, h, w)`` arrays in [0, 1], or one ``(n, c, h, w)`` array.
        prior: one for all components or one for each; names or :class:`basis_cli.api.Prior` objects.
        alpha: mixing coefficients; ``1/k`` each unless given, as 8-bit files hold means.
        references: the true components ``x_1 ... x_k`` of the one mixture, or ``(k, n, c, h, w)``, if known.
        fit: what to do with a file of another size: ``crop``, ``resize`` or ``pad``.
        options: those of :func:`basis_cli.tasks.base.answer`: samples, select, weights, sampling, compute ...

    Raises:
        InputError, UsageError, UnknownPriorError, WeightsError, NotFiniteError.
    """
    text = None if alpha is None else ",".join(map(repr, map(float, alpha)))
    return answer(Separate(k, text, as_fit(fit)), mixtures, prior=prior, references=references, **options)


def numbers(text: str | None, option: str) -> list[float] | None:
    """The numbers in ``a,b,...``.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers", f"for example {option} 0.7,0.3") from None


TASKS = (Separate,)

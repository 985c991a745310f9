"""Take pictures apart that were laid over each other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, InputWarning, UsageError
from .base import FitOption, Shape, Task, WhiteOption, as_fit
from .decompression import Compressed, coded
from .library import answer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from ..api import Prior
    from ..compute import Compute
    from ..data.images import JpegCoding, Stored
    from ..operators import Mixture, Unknown, Updating
    from ..posterior import Guided, Result, Sampling
    from .base import Picture


class Mixing(str, Enum):
    """How pictures were laid over each other."""

    mean = "mean"
    sum = "sum"
    max = "max"
    screen = "screen"
    over = "over"
    reflection = "reflection"


@dataclass(frozen=True)
class Separate(Task):
    """Separate a picture into the k pictures that were laid over each other.

    Writes STEM.x1.png ... STEM.xk.png and STEM.json, the components ordered by PSNR: to the references if given, else
    to the mixture. --uncertainty adds STEM.x1.std.png ..., where white is a standard deviation of a quarter or more.
    """

    name, noun, prior, defaults, several = "separate", "separation", "ncsn-mnist", {"sampler": "ep"}, True
    presets = {**Task.presets, "best": {"samples": 4, "select": "mode", "levels": 58}}  # noqa: RUF012
    k: Annotated[int, typer.Option("-k", help="How many pictures were laid over each other.")] = 2
    alpha: Annotated[
        str | None,
        typer.Option(
            help="Mixing coefficients, a,b,... (default: 1/k each, of a sum 1), or auto: not known, at four times the "
            "cost. Of over, the opacity of each layer but the lowest, from the top. --together: rows, a,b;c,d."
        ),
    ] = None
    mixing: Annotated[
        Mixing,
        typer.Option(
            help="How: their mean; their sum, cut at white; the lighter one at each pixel (max); light on light "
            "(screen); layers, the first on top (over); a picture behind glass that reflects another, dimmer one out "
            "of focus (reflection: a sum with --alpha 1,0.3 --blur 0,3)."
        ),
    ] = Mixing.mean
    blur: Annotated[
        str | None,
        typer.Option(
            help="How far each component was out of focus: a Gaussian's standard deviation in pixels, a,b,..."
        ),
    ] = None
    invert: Annotated[bool, typer.Option("--invert", help="The prior's pictures are negatives of these.")] = False
    together: Annotated[
        bool, typer.Option("--together", help="The inputs are mixtures of the same pictures, by other coefficients.")
    ] = False
    guide: Annotated[
        list[str] | None,
        typer.Option(help="A picture that the first component is like; again for the second, ..."),
    ] = None
    guide_std: Annotated[
        float, typer.Option(help="By how much it differs from its --guide: standard deviation of the pixels.")
    ] = 0.2
    fit: FitOption = None
    white_level: WhiteOption = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "guide", tuple(self.guide or ()))  # equal tasks are done together
        if len(self.guides) > max(self.k, 0):
            raise UsageError(f"{len(self.guides)} guides for {self.k} components", "at most one for each")
        if not self.guide_std > 0:
            raise UsageError(f"a guide's standard deviation must be greater than 0, not {self.guide_std}")

    @property
    def guides(self) -> Sequence[str]:
        """Of the first components."""
        return self.guide or ()

    def gathered(self, inputs: list[str]) -> tuple[Task, list[str]]:
        if not self.together:
            return self, inputs
        from .together import Together

        first, *beside = inputs
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Together(**own, observations=len(inputs), others=tuple(beside)), [first]

    @property
    def coefficients(self) -> list[float]:
        """``alpha``, or ``1/k`` each, since an eight-bit file holds a mean; of layers what is seen of each.

        Raises:
            UsageError: not a number for each, or a way of mixing that has none.
        """
        given = None if self.unknown else numbers(self.alpha, "--alpha")
        if self.unknown and self.mixing not in (Mixing.mean, Mixing.over):
            raise UsageError("--alpha auto is for a mean of pictures", f"not for --mixing {self.mixing.value}")
        if self.mixing in (Mixing.max, Mixing.screen) and given:
            raise UsageError(f"--mixing {self.mixing.value} has no coefficients", "leave out --alpha")
        if self.mixing is Mixing.over:
            opacities, given, left = given or [1 / (self.k - i) for i in range(self.k - 1)], [], 1.0
            for opacity in opacities:
                given, left = [*given, left * opacity], left * (1 - opacity)
            given.append(left)
        given = given or self._usual
        if len(given) != self.k:
            hint = "--alpha takes one number for each" + (" but the lowest" if self.mixing is Mixing.over else "")
            raise UsageError(f"{len(given)} mixing coefficients for {self.k} components", hint)
        return given

    @property
    def _usual(self) -> list[float]:
        """The coefficients unless others are given."""
        if self.mixing is Mixing.reflection:
            return [1.0, *[REFLECTED] * (self.k - 1)]
        return [1.0 if self.mixing is Mixing.sum else 1 / self.k] * self.k

    @property
    def blurs(self) -> list[float] | None:
        """How far each component was out of focus, in pixels; ``None``: all were in focus.

        Raises:
            UsageError: a way of mixing that is no sum.
        """
        stds = numbers(self.blur, "--blur")
        if stds and self.mixing in (Mixing.max, Mixing.screen):
            raise UsageError(f"--mixing {self.mixing.value} has no blurs", "leave out --blur")
        return stds or ([0.0, *[DEFOCUS] * (self.k - 1)] if self.mixing is Mixing.reflection else None)

    def preset(self, name: str) -> Mapping[str, Any]:
        """More samples instead of more levels where many separations explain the mixture."""
        many = name == "best" and self.k > 2
        return {"samples": 8, "select": "mode", "levels": 25} if many else super().preset(name)

    @property
    def unknown(self) -> bool:
        """Whether the coefficients are to be estimated."""
        return self.alpha == "auto"

    @property
    def cut(self) -> bool:
        """Whether a mixture may be brighter than white."""
        linear = self.mixing not in (Mixing.max, Mixing.screen)
        return linear and sum(a for a in self.coefficients if a > 0) > 1 + 1e-6

    def operator(self, shape: Shape) -> Updating:
        from ..operators import Composed, Maximum, Mixture, Saturated, Screen

        coefficients = self.coefficients
        if self.mixing in (Mixing.max, Mixing.screen):
            return (Maximum if self.mixing is Mixing.max else Screen)(self.k)
        mixture = self._focused(Mixture(coefficients))
        return Composed(Saturated(), mixture) if self.cut else mixture

    def _focused(self, mixture: Mixture | Unknown) -> Updating:
        """``mixture``, of blurred components if some were out of focus."""
        from ..operators import Blurred

        return Blurred(mixture, self.blurs) if self.blurs else mixture

    def suited(self, priors: Sequence[Prior], seen: tuple[int, int], gray: bool = False) -> list[Prior]:
        from ..priors.wrapper import NegativePrior, wrapped

        priors = super().suited(priors, seen, gray)
        priors = wrapped(priors, NegativePrior) if self.invert else priors
        return self._guided(priors) if self.guides else priors

    def _guided(self, priors: Sequence[Prior]) -> list[Prior]:
        """Each of the ``priors`` given the guide of its component, if it has one."""
        import torch

        from ..data import images
        from ..priors.wrapper import AlikePrior

        found = list(priors)
        for i, file in enumerate(self.guides):
            if priors[i].sigmas is not None:
                raise UsageError("a guide needs a prior of any noise level", "--prior ncsn-mnist, for example")
            guide = images.read(file, priors[i].shape, self.fit, False, self.white_level)
            found[i] = AlikePrior(priors[i], torch.from_numpy(guide), self.guide_std)
        return found

    def posterior(self, priors: Sequence[Prior], sampling: Sampling) -> Guided:
        from ..operators import Unknown
        from ..posterior import Blind, conditioned

        defaults = self._defaults(priors)
        if not self.unknown:
            return conditioned(priors, self.operator(priors[0].shape), sampling, defaults)
        self.check(priors[0].shape)
        starts = [[ratio**i for i in range(self.k)] for ratio in RATIOS]
        scaled = [tuple(a / sum(start) for a in start) for start in starts]
        shape = priors[0].shape

        def made(alpha: tuple[float, ...], below: float) -> Updating:
            return self.stored(self._focused(Unknown(alpha, None, below)), shape)

        return Blind(priors, scaled, made, sampling.over(defaults))

    def _defaults(self, priors: Sequence[Prior]) -> Mapping[str, Any]:
        """How to sample, unless it is said: as measured best for components out of focus, for photographs, or else."""
        if self.blurs:
            return BLURRED
        if self.mixing is Mixing.max:
            return LIGHTER
        strength = [abs(a) for a in self.coefficients]
        if priors[0].shape[0] == 1 or max(strength) <= UNEQUAL * min(strength):
            return self.defaults
        return FAINT | {"sigma_max": min(strength) / sum(strength)}

    def stored(self, mixture: Updating, shape: Shape) -> Updating:
        """What a file keeps of ``mixture``."""
        return mixture

    def check(self, shape: Shape, larger: bool = False) -> None:
        self.operator(shape)

    def read(self, source: Path | str, shape: Shape, larger: bool = False) -> tuple[Task, Stored]:
        """Also says what a file itself tells: where it is cut at white, and what JPEG lost of it."""
        from ..data import images

        file = source if os.path.isfile(source) else images.contents(source)  # a pipe can be read once only
        coding = self._coding(file, shape, larger) if self.white_level is None else None
        stored = images.load(file, self.seen(shape), self.fit, larger, coding is not None, self.white_level)
        self._tell(str(source), stored.pixels, coding)
        if coding is None:
            return self, stored
        return Recorded(**{field.name: getattr(self, field.name) for field in fields(self)}, coding=coding), stored

    def _coding(self, file: Path | str | bytes, shape: Shape, larger: bool) -> JpegCoding | None:
        """How a file was compressed, if it is JPEG and was neither fitted nor turned."""
        from ..data import images

        try:
            coding = images.jpeg_coding(file)
            c, h, w = shape
            height, width = coding.size
            coded(coding, (c, height, width) if larger and height >= h and width >= w else shape)
        except InputError:
            return None
        return coding

    def _tell(self, name: str, pixels: np.ndarray, coding: JpegCoding | None) -> None:
        white = float((pixels >= 1).mean())
        if coding:
            warnings.warn(f"{name} is JPEG: what it lost is taken from its tables", InputWarning, stacklevel=2)
        if self.cut and white:
            warnings.warn(f"{name} is cut at white in {white:.0%}: more may be there", InputWarning, stacklevel=2)
        elif white > WHITE and self.mixing is Mixing.mean and not self.alpha and not self.invert:
            message = f"{white:.0%} of {name} is white, as if pictures were added (--mixing sum) or are dark on white"
            warnings.warn(f"{message} (--invert)", InputWarning, stacklevel=2)

    def cause(
        self, priors: Sequence[Prior], y: Tensor, before: float, sampling: Sampling, compute: Compute
    ) -> str | None:
        from .doubt import likely_cause

        return likely_cause(self, priors, y, before, sampling, compute)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return y


RATIOS = (1.0, 3 / 7, 1 / 8)
"""Of the coefficients of neighbouring components, from the strongest: what unknown ones begin with."""
BLURRED = {"sampler": "project", "levels": 10, "sigma_max": 0.5, "overrelaxation": 0.9}
"""Defaults where components were out of focus."""
LIGHTER = {"sampler": "ep", "levels": 50}
"""Defaults for the lighter of several pictures at each pixel, which tells less of them than their sum."""
FAINT = {"sampler": "ep", "levels": 6}
"""Defaults for photographs, pictures in colour, of which one is faint, from a noise level that is its share of the
mixture. More noise hides the detail that tells them apart: answers are then farther from the truth than the mixture."""
UNEQUAL = 1.5
"""A ratio of coefficients above which photographs count as unequal."""
REFLECTED, DEFOCUS = 0.3, 3.0
"""How bright a reflection is, and its blur in pixels."""
WHITE = 0.05
"""A share of white pixels that a mean of pictures seldom has."""


@dataclass(frozen=True)
class Recorded(Separate):
    """Mixtures that were stored as JPEG alike: with this ``coding``, or at a ``quality``."""

    coding: JpegCoding | None = None
    quality: int = 75

    def operator(self, shape: Shape) -> Updating:
        return self.stored(super().operator(shape), shape)

    def stored(self, mixture: Updating, shape: Shape) -> Updating:
        from ..operators import Composed

        jpeg = coded(self.coding, shape) if self.coding else Compressed(self.quality).operator(shape)
        return Composed(jpeg, mixture)


def separate(
    mixtures: Picture | Sequence[Picture],
    *,
    k: int = 2,
    prior: str | Prior | Sequence[str | Prior] | None = None,
    alpha: Sequence[float] | Sequence[Sequence[float]] | str | None = None,
    mixing: str = "mean",
    blur: Sequence[float] | None = None,
    invert: bool = False,
    together: bool = False,
    guides: Sequence[str] = (),
    guide_std: float = 0.2,
    references: Sequence[Picture] | None = None,
    fit: str | None = None,
    white_level: float | None = None,
    **options: Any,
) -> Result:
    """Separate each mixture ``m = sum_i alpha_i x_i`` into ``k`` components drawn from ``p(x | m)``.

    Args:
        mixtures: one or several files or ``(c, h, w)`` arrays in [0, 1], or one ``(n, c, h, w)`` array.
        prior: one for all components or one for each; names or :class:`basis_cli.api.Prior` objects.
        alpha: mixing coefficients; ``1/k`` each unless given, as 8-bit files hold means, of a sum 1. ``auto``:
            estimated with the components, see ``Result.alpha``.
        mixing: ``mean``; ``sum``, cut at white; ``max``; ``screen``; ``over``, whose ``alpha`` is the opacity of every
            layer but the lowest, from the top; ``reflection``, a sum whose second component is dim and out of focus.
        blur: how far each component was out of focus: the standard deviation of a Gaussian, in pixels.
        invert: the prior's pictures are negatives of these.
        together: ``mixtures`` are observations of the same components, one or a batch of each, and ``alpha`` has a row
            for each of them, ``y_m = sum_i alpha_mi x_i``.
        guides: files of pictures that the first components are like; each is taken to be its component with white
            noise of ``guide_std``.
        references: the true components ``x_1 ... x_k`` of the one mixture, or ``(k, n, c, h, w)``, if known.
        fit: what to do with a file of another size: ``crop``, ``resize`` or ``pad``.
        white_level: the stored value that is white, 4095 of 12-bit pictures; by default the largest.
        options: those of :func:`basis_cli.tasks.library.answer`: samples, select, weights, sampling, compute ...

    Raises:
        BasisError: the input (``InputError``), an option (``UsageError``), a name (``UnknownPriorError``), the weights
            (``WeightsError``) or the answer (``NotFiniteError``) cannot be used.
    """
    text = alpha if alpha is None or isinstance(alpha, str) else _text(alpha)
    if mixing not in list(Mixing):
        raise UsageError(f"no way of mixing is called {mixing!r}", f"known: {', '.join(each.value for each in Mixing)}")
    own = {
        "blur": None if blur is None else _text(blur),
        "invert": invert,
        "guide": guides,
        "guide_std": guide_std,
        "fit": as_fit(fit),
        "white_level": white_level,
    }
    task = Separate(k, text, Mixing(mixing), **own)  # type: ignore[arg-type]
    if together:
        from .together import Together

        task = Together(k, text, Mixing(mixing), **own, observations=len(mixtures))  # type: ignore[arg-type]
    return answer(task, mixtures, prior=prior, references=references, **options)


def _text(alpha: Sequence[float] | Sequence[Sequence[float]]) -> str:
    """As ``--alpha`` takes it."""
    rows = [row if isinstance(row, Sequence) else [row] for row in alpha]
    several = any(isinstance(row, Sequence) for row in alpha)
    return (";" if several else ",").join(",".join(repr(float(a)) for a in row) for row in rows)


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

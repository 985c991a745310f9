"""Measurement operators: how the unknown pictures ``x`` ``(k, n, c, h, w)`` make the observed one ``y = A x``."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .errors import UsageError


class Operator(Protocol):
    """``y = A(x)``, differentiable."""

    k: int
    """How many unknown pictures it takes."""
    scale: float
    """Standard deviation of ``A z``, per value, relative to what one picture with coefficient 1 gives; see
    :func:`basis_cli.samplers.langevin`."""

    def __call__(self, x: Tensor) -> Tensor:
        """``A(x)``."""


@runtime_checkable
class LinearOperator(Operator, Protocol):
    """``y = A x`` with its adjoint and its pseudo-inverse in closed form."""

    @property
    def gram(self) -> tuple[float, ...] | None:
        """``c_i`` of ``A_i A_i^T = c_i I`` on what ``A`` can give, ``A_i`` being what it does to picture ``i``.

        Systems in ``A A^T`` are then divisions. ``None`` if it is no multiple of the identity.
        """

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``, shaped like ``x``."""

    def pinv(self, y: Tensor) -> Tensor:
        """``A^+ y``, the smallest ``x`` with ``A x = y`` (Moore-Penrose)."""


@runtime_checkable
class Constraint(Operator, Protocol):
    """An operator that knows the nearest pictures that explain ``y``; every linear one does."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The ``x'`` nearest to ``x`` with ``A(x') = y``."""


def consistent(x: Tensor, operator: Operator, y: Tensor, rounds: int = 8) -> Tensor:
    """``x`` ``(k, n, c, h, w)`` moved a little: ``A x = y`` and [0, 1] hold to a fraction of a level.

    Alternating projections onto both convex sets, which hold the true pictures: no round takes ``x`` farther from them
    if the operator is linear. Onto [0, 1] alone if the operator is no :class:`Constraint`.
    """
    if not isinstance(operator, Constraint):
        return x.clamp(0, 1)
    for _ in range(rounds):
        x = operator.project(x, y).clamp(0, 1)
    return x


class _Linear(ABC):
    """What linear operators share."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor: ...

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + A^+ (y - A x)``, the nearest solution of ``A x = y``."""
        return x + self.pinv(y - self(x))


class _Constant:
    """A tensor that operators compute with, kept on every device it was used on: copying makes a GPU's host wait."""

    def __init__(self, values: Any):
        self.values = torch.as_tensor(values)
        self._copies: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """With the type of ``x``, on its device."""
        key = x.dtype, x.device
        if key not in self._copies:
            with torch.inference_mode(False):  # so that gradients may flow through it later
                self._copies[key] = self.values.to(x.device, x.dtype)
        return self._copies[key]


def _resampled(matrices: tuple[_Constant, ...], x: Tensor, transposed: bool = False) -> Tensor:
    """The rows of ``x`` ``(..., h, w)`` combined by the first matrix, the columns by the second; never in bfloat16."""
    rows, columns = (m.like(x).T if transposed else m.like(x) for m in matrices)
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.T


class Mixture(_Linear):
    """``y = sum_i alpha_i x_i``, equation 1: ``(k, n, c, h, w) -> (n, c, h, w)``.

    Raises:
        UsageError: no coefficient, or one that is zero, NaN or infinite.
    """

    def __init__(self, alpha: Sequence[float]):
        if not alpha or not all(math.isfinite(a) and a != 0 for a in alpha):
            raise UsageError(f"mixing coefficients must be finite and not zero, got {list(alpha)}")
        self.alpha = tuple(float(a) for a in alpha)
        self.k = len(self.alpha)
        self.gram = tuple(a * a for a in self.alpha)
        self.scale = math.sqrt(sum(self.gram) / self.k)
        self._coefficients = _Constant(torch.tensor(self.alpha, dtype=torch.float64).view(-1, 1, 1, 1, 1))

    def __call__(self, x: Tensor) -> Tensor:
        return (self._coefficients.like(x) * x).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._coefficients.like(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / sum(self.gram)


class Gray(_Linear):
    """``y = sum_c w_c x_c``, equation 14: ``(1, n, c, h, w) -> (n, 1, h, w)``, the mean of the channels by default.

    Args:
        weights: one for each channel, by default a third each; ``images.LUMA`` is what most programs call gray.

    Raises:
        UsageError: no weights, or all of them zero, NaN or infinite.
    """

    k = 1

    def __init__(self, weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)):
        if not any(weights) or not all(map(math.isfinite, weights)):
            raise UsageError(f"channel weights must be finite and not all zero, got {list(weights)}")
        self.gram = (sum(w * w for w in weights),)
        self.scale = math.sqrt(self.gram[0])
        self._weights = _Constant(torch.tensor(weights, dtype=torch.float64).view(-1, 1, 1))

    def __call__(self, x: Tensor) -> Tensor:
        return (self._weights.like(x) * x[0]).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return (self._weights.like(y) * y)[None]

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self.gram[0]


class Mask(_Linear):
    """``y = known * x``: some values are seen as they are, the others are 0: ``(1, n, c, h, w) -> (n, c, h, w)``.

    Args:
        known: 1 or true where a value is seen; ``(h, w)``, or ``(c, h, w)``.

    Raises:
        UsageError: nothing is known.
    """

    k, scale = 1, 1.0
    gram = (1.0,)

    def __init__(self, known: Tensor):
        if not known.any():
            raise UsageError("the mask leaves nothing of the picture", "white is unknown; --invert-mask turns it round")
        self._known = _Constant(known.bool())

    def __call__(self, x: Tensor) -> Tensor:
        return self._known.like(x) * x[0]

    def adjoint(self, y: Tensor) -> Tensor:
        return (self._known.like(y) * y)[None]

    pinv = adjoint


class Downsample(_Linear):
    """Pictures at ``1 / factor`` of their size: ``(1, n, c, h, w) -> (n, c, h / factor, w / factor)``.

    Args:
        factor: at least 2, or 1 for nothing.
        size: ``(h, w)``, multiples of ``factor``.
        method: ``box`` averages ``factor x factor`` pixels; ``bicubic`` is Pillow's (antialiased, a = -0.5).

    Raises:
        UsageError: an unknown method, or ``factor`` does not divide the size.
    """

    k = 1

    def __init__(self, factor: int, size: tuple[int, int], method: str = "box"):
        if method not in ("box", "bicubic"):
            raise UsageError(f"no way to shrink is called {method!r}", "box or bicubic")
        if factor < 1 or any(side % factor for side in size):
            raise UsageError(f"{size[1]} x {size[0]} pixels cannot be shrunk {factor} times", "another --factor")
        rows, columns = (_shrinking(side, factor, method) for side in size)
        self._down = _Constant(rows), _Constant(columns)
        self._up = _Constant(torch.linalg.pinv(rows)), _Constant(torch.linalg.pinv(columns))
        self.gram = (factor**-2.0,) if method == "box" else None
        self.scale = math.sqrt(float((rows @ rows.T).diagonal().mean() * (columns @ columns.T).diagonal().mean()))

    def __call__(self, x: Tensor) -> Tensor:
        return _resampled(self._down, x[0])

    def adjoint(self, y: Tensor) -> Tensor:
        return _resampled(self._down, y, transposed=True)[None]

    def pinv(self, y: Tensor) -> Tensor:
        return _resampled(self._up, y)[None]


def _shrinking(side: int, factor: int, method: str) -> Tensor:
    """The matrix ``(side / factor, side)`` that shrinks one axis."""
    if method == "box":
        return torch.eye(side // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor
    image = torch.eye(side, dtype=torch.float64)[None, None]  # Pillow's filter is torch's with antialias
    return F.interpolate(image, (side // factor, side), mode="bicubic", antialias=True, align_corners=False)[0, 0]


class Jpeg:
    """What a JPEG file leaves of a picture: ``(1, n, c, h, w) -> (n, c, h, w)``, coded and decoded again. Not linear.

    As libjpeg does it: YCbCr, chroma shrunk by averaging, 8 x 8 discrete cosine transforms, each coefficient rounded to
    a multiple of its step in the quantization table; decoded with triangular interpolation of the chroma. Its
    derivative takes the rounding for the identity.

    Args:
        tables: 8 x 8 quantization steps, of brightness and, for colour, of chroma; as Pillow gives them.
        size: ``(h, w)``.
        subsampling: how many pixels ``(high, wide)`` share a chroma value: (1, 1), (1, 2) or (2, 2).

    Raises:
        UsageError: tables that are not positive, or a subsampling that is not known.
    """

    k, scale = 1, 1.0

    def __init__(self, tables: Sequence[Sequence[int]], size: tuple[int, int], subsampling: tuple[int, int] = (2, 2)):
        steps = torch.tensor([list(table) for table in tables], dtype=torch.float64).view(-1, 8, 8)
        if not (steps > 0).all():
            raise UsageError("a quantization table holds steps that are not positive")
        if subsampling not in ((1, 1), (1, 2), (2, 2)):
            raise UsageError(f"chroma subsampling {subsampling} is not known", "4:4:4, 4:2:2 or 4:2:0")
        if len(steps) == 1:
            subsampling = (1, 1)
        self.size, self.subsampling = size, subsampling
        self._steps = [_Constant(steps[i].repeat(*self._blocks(i))) for i in range(len(steps))]
        self._cosines = [
            tuple(_Constant(torch.block_diag(*[_cosines()] * n)) for n in self._blocks(i)) for i in range(len(steps))
        ]
        self._shrink = tuple(
            _Constant(_shrinking(side, s, "box")) for side, s in zip(self._padded, subsampling, strict=True)
        )
        self._replicate = tuple(_Constant(s * m.values.T) for s, m in zip(subsampling, self._shrink, strict=True))
        smooth = [_triangular(side, s) for side, s in zip(self._padded, subsampling, strict=True)]
        self._enlarge = tuple(map(_Constant, smooth))
        self._unenlarge = tuple(_Constant(torch.linalg.pinv(matrix)) for matrix in smooth)
        self._to_ycc = _Constant(torch.tensor(YCC, dtype=torch.float64))
        self._to_rgb = _Constant(torch.linalg.inv(torch.tensor(YCC, dtype=torch.float64)))

    @property
    def _padded(self) -> tuple[int, int]:
        """Size in whole blocks of all planes."""
        h, w = (-(-side // (8 * s)) * 8 * s for side, s in zip(self.size, self.subsampling, strict=True))
        return h, w

    def _blocks(self, table: int) -> tuple[int, int]:
        """How many blocks a plane with quantization table ``table`` has, down and across."""
        h, w = self._padded
        return (h // 8, w // 8) if table == 0 else (h // 8 // self.subsampling[0], w // 8 // self.subsampling[1])

    def _coefficients(self, x: Tensor, shrink: tuple[_Constant, ...]) -> list[Tensor]:
        """Cosine coefficients of pictures ``(n, c, h, w)`` in units of their steps: brightness, then chroma."""
        (h, w), (height, width) = self._padded, self.size
        x = 255 * F.pad(x, (0, w - width, 0, h - height), mode="replicate") - 128
        if x.shape[1] == 1:
            planes = [x]
        else:
            x = torch.einsum("dc,nchw->ndhw", self._to_ycc.like(x), x)  # subtracting 128 changes no chroma
            planes = [x[:, :1], _resampled(shrink, x[:, 1:])]
        return [
            _resampled(cosines, plane) / steps.like(plane)
            for plane, cosines, steps in zip(planes, self._cosines, self._steps, strict=False)
        ]

    def _picture(self, coefficients: list[Tensor], enlarge: tuple[_Constant, ...]) -> Tensor:
        """Pictures ``(n, c, h, w)`` with these coefficients, not clipped."""
        planes = [
            _resampled(cosines, quantized * steps.like(quantized), transposed=True)
            for quantized, cosines, steps in zip(coefficients, self._cosines, self._steps, strict=False)
        ]
        x = planes[0]
        if len(planes) > 1:
            x = torch.cat([x, _resampled(enlarge, planes[1])], dim=1)
            x = torch.einsum("dc,nchw->ndhw", self._to_rgb.like(x), x)
        return x[..., : self.size[0], : self.size[1]] / 255

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            coded = [c + (c.round() - c).detach() for c in self._coefficients(x[0], self._shrink)]
            return (self._picture(coded, self._enlarge) + 128 / 255).clamp(0, 1)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with every coefficient moved into the interval that rounds to that of ``y``.

        ``y`` ``(n, c, h, w)`` is the decoded file; its coefficients are those of the file except where its pixels were
        clipped.
        """
        with torch.autocast(x.device.type, enabled=False):
            own = self._coefficients(x[0], self._shrink)
            seen = [c.round() for c in self._coefficients(y, self._unenlarge)]
            moved = [c.clamp(q - 0.49, q + 0.49) - c for c, q in zip(own, seen, strict=True)]
            return x + self._picture(moved, self._replicate)


YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""RGB to YCbCr (JFIF), chroma about 0."""


def _cosines() -> Tensor:
    """The orthonormal 8 x 8 matrix of the discrete cosine transform."""
    frequency, position = torch.meshgrid(*[torch.arange(8, dtype=torch.float64)] * 2, indexing="ij")
    matrix = torch.cos(math.pi * (2 * position + 1) * frequency / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def _triangular(side: int, factor: int) -> Tensor:
    """The matrix ``(side, side / factor)`` by which libjpeg enlarges one axis of the chroma once or twice."""
    if factor == 1:
        return torch.eye(side, dtype=torch.float64)
    small = side // 2
    near = torch.eye(small, dtype=torch.float64).repeat_interleave(2, dim=0)
    neighbour = (torch.arange(side) // 2 + torch.tensor([-1, 1]).repeat(small)).clamp(0, small - 1)
    return 0.75 * near + 0.25 * torch.eye(small, dtype=torch.float64)[neighbour]


def standard_tables(quality: int) -> list[list[int]]:
    """The quantization tables that libjpeg uses at ``quality`` (1 to 100), rows first: brightness, chroma.

    Raises:
        UsageError: another quality.
    """
    if not 1 <= quality <= 100:
        raise UsageError(f"JPEG quality is from 1 to 100, not {quality}")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization  # type: ignore[attr-defined]
    return [list(tables[key]) for key in sorted(tables)]


class Unobserved(_Linear):
    """Nothing is measured, so the posterior is the prior: ``y`` has no values. Unconditional sampling."""

    k, scale = 1, 1.0
    gram = (1.0,)

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape

    def __call__(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[1], 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(1, len(y), *self.shape)

    pinv = adjoint


class Derivative:
    """The derivative of a differentiable operator at ``x`` ``(k, n, c, h, w)``, with its adjoint."""

    def __init__(self, operator: Operator, x: Tensor):
        self.operator = operator
        with torch.inference_mode(False):
            self.x = x.detach().clone()

    def __call__(self, v: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.func.jvp(self.operator, (self.x,), (v.clone(),))[1].detach()

    def adjoint(self, u: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            _, pullback = torch.func.vjp(self.operator, self.x)  # type: ignore[misc]
            return pullback(u.clone())[0].detach()


def linearized(operator: Operator, x: Tensor) -> LinearOperator | Derivative:
    """``operator`` itself if it is linear, else its derivative at ``x``."""
    return operator if isinstance(operator, LinearOperator) else Derivative(operator, x)

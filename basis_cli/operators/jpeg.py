"""What JPEG takes from a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UsageError
from .base import Constant, Noise, truncated
from .image import LUMA

Plane = Callable[[Tensor], Tensor]
"""What is done to chroma ``(n, 2, h, w)``."""


class Jpeg:
    """What a JPEG file leaves of a picture: ``(1, n, c, h, w) -> (n, c, h, w)``, coded and decoded again. Not linear.

    As libjpeg does it: YCbCr, chroma shrunk by averaging, 8 x 8 discrete cosine transforms, each coefficient rounded to
    a multiple of its step in the quantization table; decoded with triangular interpolation of chroma that was halved.
    Its derivative takes the rounding for the identity. Of a gray file and pictures of three channels, the brightness is
    coded, and the colours, of which the file has none, are left.

    Args:
        tables: 8 x 8 quantization steps, of brightness and, for colour, of chroma; as Pillow gives them.
        size: ``(h, w)``, upright.
        subsampling: how many pixels ``(high, wide)`` of the file share a chroma value, each at most 4.
        orientation: EXIF's, from 1 to 8: how the file is turned to be upright.

    Raises:
        UsageError: tables that are not positive, or a subsampling or an orientation that is not known.
    """

    k, scale = 1, 1.0

    def __init__(
        self,
        tables: Sequence[Sequence[int]],
        size: tuple[int, int],
        subsampling: tuple[int, int] = (2, 2),
        orientation: int = 1,
    ):
        steps = torch.tensor([list(table) for table in tables], dtype=torch.float64).view(-1, 8, 8)
        if not (steps > 0).all():
            raise UsageError("a quantization table holds steps that are not positive")
        if not set(subsampling) <= {1, 2, 3, 4}:
            raise UsageError(f"chroma subsampling {subsampling} is not known", "(2, 2) is 4:2:0")
        if orientation not in TURNED:
            raise UsageError(f"EXIF orientation {orientation} is not known", "1 to 8")
        if len(steps) == 1:
            subsampling = (1, 1)
        self._transposed, self._flipped = TURNED[orientation]
        self.size, self.subsampling = size[::-1] if self._transposed else size, subsampling
        self.step = float(steps[0].mean()) / 255
        """The mean quantization step of brightness, in intensities."""
        self._steps = [Constant(steps[i].repeat(*self._blocks(i))) for i in range(len(steps))]
        self._cosines = Constant(_cosines())
        self._shrink = partial(F.avg_pool2d, kernel_size=subsampling)
        self._replicate = partial(F.interpolate, scale_factor=subsampling)
        if max(subsampling) <= 2:  # as libjpeg-turbo does
            self._enlarge = partial(F.interpolate, scale_factor=subsampling, mode="bilinear")
            self._unenlarge = partial(_from_triangular, subsampling=subsampling)
        else:
            self._enlarge, self._unenlarge = self._replicate, self._shrink
        self._to_ycc = Constant(torch.tensor(YCC, dtype=torch.float64))
        self._to_rgb = Constant(torch.linalg.inv(torch.tensor(YCC, dtype=torch.float64)))

    @property
    def _padded(self) -> tuple[int, int]:
        """Size in whole blocks of all planes."""
        h, w = (-(-side // (8 * s)) * 8 * s for side, s in zip(self.size, self.subsampling, strict=True))
        return h, w

    def _blocks(self, table: int) -> tuple[int, int]:
        """How many blocks a plane with quantization table ``table`` has, down and across."""
        h, w = self._padded
        return (h // 8, w // 8) if table == 0 else (h // 8 // self.subsampling[0], w // 8 // self.subsampling[1])

    def _coefficients(self, x: Tensor, shrink: Plane) -> list[Tensor]:
        """Cosine coefficients of pictures ``(n, c, h, w)`` in units of their steps: brightness, then chroma."""
        (h, w), (height, width) = self._padded, self.size
        x = 255 * F.pad(x, (0, w - width, 0, h - height), mode="replicate") - 128
        if x.shape[1] == 1:
            planes = [x]
        else:
            x = torch.einsum("dc,nchw->ndhw", self._to_ycc.like(x), x)  # subtracting 128 changes no chroma
            planes = [x[:, :1], shrink(x[:, 1:])]
        cosines = self._cosines.like(x)
        return [_blockwise(cosines, plane) / s.like(plane) for plane, s in zip(planes, self._steps, strict=False)]

    def _picture(self, coefficients: list[Tensor], enlarge: Plane) -> Tensor:
        """Pictures ``(n, c, h, w)`` with these coefficients, not clipped."""
        back = self._cosines.like(coefficients[0]).T
        planes = [_blockwise(back, c * s.like(c)) for c, s in zip(coefficients, self._steps, strict=False)]
        x = planes[0]
        if len(planes) > 1:
            x = torch.cat([x, enlarge(planes[1])], dim=1)
            x = torch.einsum("dc,nchw->ndhw", self._to_rgb.like(x), x)
        return x[..., : self.size[0], : self.size[1]] / 255

    def _as_stored(self, x: Tensor) -> Tensor:
        """Upright pictures as the file has them."""
        x = x.flip(self._flipped)
        return x.mT if self._transposed else x

    def _upright(self, x: Tensor) -> Tensor:
        return (x.mT if self._transposed else x).flip(self._flipped)

    def _coded_part(self, x: Tensor) -> Tensor:
        """What the file holds of pictures: of a gray file the brightness ``(n, 1, h, w)``."""
        if x.shape[1] == 1 or len(self._steps) > 1:
            return x
        return torch.einsum("c,nchw->nhw", self._to_ycc.like(x)[0], x)[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = self._as_stored(x[0])
            part = self._coded_part(x)
            coded = [c + (c.round() - c).detach() for c in self._coefficients(part, self._shrink)]
            decoded = self._picture(coded, self._enlarge) + 128 / 255
            return self._upright((decoded + (x - part)).clamp(0, 1))

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with every coefficient moved into the interval that rounds to that of ``y``.

        ``y`` ``(n, c, h, w)`` is the decoded file; its coefficients are those of the file except where its pixels were
        clipped. A gray file makes ``x`` gray.
        """
        with torch.autocast(x.device.type, enabled=False):
            part, seen = self._coded_part(self._as_stored(x[0])), self._coded_part(self._as_stored(y))
            own = self._coefficients(part, self._shrink)
            rounded = [c.round() for c in self._coefficients(seen, self._unenlarge)]
            moved = [c.clamp(q - 0.49, q + 0.49) - c for c, q in zip(own, rounded, strict=True)]
            return self._upright(part + self._picture(moved, self._replicate)).expand_as(x[0])[None]

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.base.Record`: in the coefficients, whose noise is white as well.

        The variance is taken to be the same at all pixels, as it is left: of chroma, as if it were not shrunk.
        """
        with torch.autocast(mean.device.type, enabled=False):
            own = self._coefficients(mean[0], self._shrink)
            seen = [c.round() for c in self._coefficients(y, self._unenlarge)]
            white = (variance + noise_std**2).expand_as(mean).mean((0, 2, 3, 4), keepdim=True)[0]
            moved, left = [], []
            for c, q, steps in zip(own, seen, self._steps, strict=True):
                unit = (255 / steps.like(c)).square()
                inside, rest = truncated(c, white * unit, q - 0.5, q + 0.5)
                moved.append(inside - c)
                left.append((rest / unit).mean((1, 2, 3), keepdim=True))
            share = variance / (variance + noise_std**2)
            return mean + share * self._picture(moved, self._replicate), variance * (1 - share) + share**2 * left[0]


TURNED = {
    1: (False, ()),
    2: (False, (-1,)),
    3: (False, (-2, -1)),
    4: (False, (-2,)),
    5: (True, ()),
    6: (True, (-1,)),
    7: (True, (-2, -1)),
    8: (True, (-2,)),
}
"""EXIF orientations: whether the stored picture is transposed, and along which axes it is mirrored then."""
YCC = (LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""RGB to YCbCr (JFIF), chroma about 0."""


def _cosines() -> Tensor:
    """The orthonormal 8 x 8 matrix of the discrete cosine transform."""
    frequency, position = torch.meshgrid(*[torch.arange(8, dtype=torch.float64)] * 2, indexing="ij")
    matrix = torch.cos(math.pi * (2 * position + 1) * frequency / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def _blockwise(matrix: Tensor, x: Tensor) -> Tensor:
    """The rows and the columns of every 8 x 8 block of ``x`` ``(n, c, h, w)`` combined by ``matrix``."""
    blocks = x.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    return (matrix @ blocks @ matrix.T).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _from_triangular(x: Tensor, subsampling: tuple[int, int]) -> Tensor:
    """The planes whose enlargement by triangular interpolation is nearest to ``x`` ``(n, c, h, w)``: its pinv.

    Along an axis the enlargement ``E`` takes (3, 1) / 4 of the two nearest values, edges repeated. So ``E^T E`` is the
    filter (3, 10, 3) / 8 of a signal mirrored at its ends, and a Fourier transform of that inverts it.
    """
    for axis, factor in zip((-2, -1), subsampling, strict=True):
        if factor == 2:
            y = x.transpose(axis, -1)
            y = torch.cat([y[..., :1], y, y[..., -1:]], dim=-1)
            y = (0.75 * (y[..., 1:-1:2] + y[..., 2:-1:2]) + 0.25 * (y[..., :-2:2] + y[..., 3::2])) / 1.25
            side = y.shape[-1]
            gain = 1 + 0.6 * torch.cos(math.pi / side * torch.arange(side + 1, dtype=torch.float64)).to(y)
            y = torch.fft.irfft(torch.fft.rfft(torch.cat([y, y.flip(-1)], dim=-1)) / gain, n=2 * side)
            x = y[..., :side].transpose(axis, -1)
    return x


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

"""Pictures inside of a page: as they are if they are small, else in WebP that fits into a budget."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...data import images

BUDGET = 16_000_000
"""Bytes of all pictures of a report; text makes a third more of them."""
LEAST, MOST = 1_500, 400_000
"""Bytes of a picture: what all may have, and what none needs more than."""


@dataclass(frozen=True)
class Picture:
    """A picture on a page."""

    uri: str
    width: int
    height: int
    """Its own, which may be more than the page shows."""


class Inline:
    """Encodes the ``count`` pictures of a report."""

    def __init__(self, count: int):
        self.most = int(min(MOST, max(LEAST, BUDGET / max(count, 1))))

    def __call__(self, picture: np.ndarray) -> Picture:
        """``(c, h, w)`` in [0, 1], or uint8 ``(h, w, 3)``."""
        image = Image.fromarray(picture) if picture.dtype == np.uint8 else images.to_pillow(picture)
        kind, data = self._encoded(image)
        return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", image.width, image.height)

    def _encoded(self, image: Image.Image) -> tuple[str, bytes]:
        if image.width * image.height <= 20_000 or image.width * image.height < self.most:
            data = io.BytesIO()
            image.save(data, "PNG", optimize=True)
            if len(data.getvalue()) <= self.most:
                return "png", data.getvalue()
        side = max(image.size)
        while True:
            data, smaller = io.BytesIO(), image.convert("RGB")
            smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
            smaller.save(data, "WEBP", quality=88, method=2)
            if len(data.getvalue()) <= self.most or side <= 48:
                return "webp", data.getvalue()
            side = max(48, min(side * 3 // 4, round(side * (self.most / len(data.getvalue())) ** 0.5)))

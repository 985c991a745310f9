"""How to train, for every trainable prior alike."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How to train. One step is one batch on every process."""

    steps: int = 10_000
    batch: int = 64
    """Pictures a step on each process."""
    learning_rate: float = 1e-3
    """Adam's; matrices under Muon take 20 times as much, since their updates are orthogonal."""
    optimizer: str = "muon"
    """``muon`` (matrices by Muon, the rest by Adam) or ``adam``."""
    decay: str = "cosine"
    """``cosine``, ``inverse-square-root`` or ``constant``."""
    warmup: int = 200
    clip: float | None = None
    """Norm to which a step's longer gradient is shortened; one that is not finite is left out."""
    ema: float = 16.0
    """Exponent of the power-function average of the weights (Karras et al. 2024, eq. 121): 16 averages the last 5 %."""
    seed: int = 0
    bf16: bool = True
    """Autocast to bfloat16 where the hardware multiplies it; weights, optimizer and EMA stay float32."""
    compile: bool = False
    flip: bool = False
    """Mirror half of the pictures."""
    crops: tuple[int, ...] = ()
    """Sides of the squares to cut from pictures, at another place every time; empty: whole pictures. A step takes one
    of them in turn, and of larger ones fewer pictures: as many pixels as a batch of the first has."""
    octaves: int = 1
    """Scales of the crops: pictures are shrunk by 2 x 2 means not at all, once ..., where they are large enough."""
    hours: float | None = None
    """End after so much time instead of after ``steps``: the learning rate falls by the clock."""
    patience: int | None = None
    """Stop after so many measurements without a better held-out loss, and keep the weights of the best one."""
    save_every: int = 500
    sheet_every: int = 2_000

    @property
    def side(self) -> int | None:
        """That of the first crops."""
        return self.crops[0] if self.crops else None

    def pictures(self, side: int | None) -> int:
        """How many a step takes when they are cut to ``side``: as many pixels as ``batch`` of the first crops."""
        return max(1, self.batch * self.crops[0] ** 2 // side**2) if side else self.batch

    def shape(self, of: tuple[int, int, int]) -> tuple[int, int, int]:
        """That of the pictures to learn, when those of the data are ``(c, h, w)``.

        Raises:
            UsageError: they are smaller than ``crops``.
        """
        if not self.crops:
            return of
        if max(self.crops) > min(of[1:]):
            raise UsageError(f"no square of {max(self.crops)} pixels can be cut from {of[2]} x {of[1]}")
        return of[0], max(self.crops), max(self.crops)

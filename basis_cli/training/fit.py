"""The training loop shared by every trainable prior: optimizer, EMA, resume, metrics, sample sheets.

A plugin brings a network and a loss; ``fit`` does the rest, on one device or several (Hugging Face Accelerate).
Whatever is random at a step is drawn from (seed, step, process), so a killed run that resumes is the unbroken run.
"""

from __future__ import annotations

import itertools
import json
import math
import pickle
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compute import choose_device, multiplies_bfloat16
from ..data.files import atomically
from ..errors import InputError, NotFiniteError, RunWarning, UsageError
from .optimizers import learning_rate_factor, optimizers_of

Loss = Callable[..., Tensor]
STATE = "state.pt"


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


def check_accelerate() -> None:
    """Raise what would otherwise come only after pictures have been read.

    Raises:
        UsageError: accelerate is not installed.
    """
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise UsageError("training needs accelerate", "pip install 'basis-cli[train]'") from None


def taken(data: Tensor, chosen: Tensor, side: int | None, generator: torch.Generator, octaves: int = 1) -> Tensor:
    """``data[chosen]`` ``(n, c, h, w)`` float32, or of each picture a square ``(n, c, side, side)`` at a place of its
    own: the first of the pictures as they are, as many shrunk to half their size, and so on for ``octaves`` scales."""
    if side is None:
        return data[chosen].float()
    fitting = [side << octave for octave in range(octaves) if side << octave <= min(data.shape[2:])]
    squares = []
    for window, some in zip(fitting, chosen.tensor_split(len(fitting)), strict=True):
        n, (h, w) = len(some), data.shape[2:]
        along = torch.arange(window, device=data.device)
        tops, lefts = (torch.randint(s - window + 1, (n, 1), generator=generator, device=data.device) for s in (h, w))
        rows, columns = (tops + along)[:, :, None], (lefts + along)[:, None]
        cut = data[some[:, None, None], :, rows, columns].permute(0, 3, 1, 2).float()
        squares.append(F.avg_pool2d(cut, window // side))
    return torch.cat(squares)


def fit(
    network: nn.Module,
    loss: Loss,
    images: np.ndarray,
    settings: Settings,
    out: Path,
    *,
    labels: np.ndarray | None = None,
    device: str = "auto",
    resume: bool = False,
    architecture: dict[str, Any] | None = None,
    export: Callable[[nn.Module, Path], None] | None = None,
    sheet: Callable[[nn.Module, Path], None] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    callback: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> nn.Module:
    """Minimize ``loss(network, x, generator)`` over ``images`` ``(n, c, h, w)`` uint8 and return the averaged network.

    ``x`` is float32 in [0, 1] on the device. With ``labels`` ``(n,)`` the loss is also given those of ``x``, int64:
    ``loss(network, x, generator, labels)``. The folder ``out`` receives ``metrics.jsonl`` (a line every 50 steps),
    ``state.pt`` (everything needed to resume, every ``save_every`` steps), ``samples-STEP.png`` (from ``sheet``) and at
    the end ``weights.safetensors`` (from ``export``). With several processes only the first writes.

    Every ``sheet_every`` steps ``evaluate`` measures the averaged network; its ``held_out_loss`` is what
    ``settings.patience`` waits for.

    Raises:
        UsageError: ``out`` holds another run's state and ``resume`` is off, or holds a run of other settings.
        InputError: the saved state cannot be read.
        NotFiniteError: the loss became NaN or infinite; the last saved state is kept.
    """
    check_accelerate()
    from accelerate import Accelerator
    from accelerate.utils import broadcast

    where = choose_device(device)
    if where.type == "cuda" and where.index is not None:  # Accelerate takes the current one
        torch.cuda.set_device(where)
    accelerator = Accelerator(cpu=where.type == "cpu")
    device_ = accelerator.device
    out.mkdir(parents=True, exist_ok=True)
    state_path, metrics_path = out / STATE, out / "metrics.jsonl"
    continued = to_be_continued(out, resume)

    network = network.to(device_).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(network).requires_grad_(False)
    optimizers = optimizers_of(network, settings)
    identity = {"settings": asdict(settings), "architecture": architecture or {}}
    start, elapsed, stopped = 0, 0.0, False
    best: dict[str, Any] = {"step": 0, "loss": math.inf, "average": {}}
    if continued:
        state = _read_state(state_path, device_)
        before = {
            "settings": asdict(Settings()) | state["settings"] | _may_change(identity["settings"]),
            "architecture": state["architecture"],
        }
        if before != identity:
            raise UsageError(f"{out} was trained with other settings", "resume with the command that began it")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, elapsed, best = state["step"], state["elapsed"], state.get("best", best)
        stopped = state.get("stopped") == [settings.patience, settings.steps]
    _keep_metrics_until(metrics_path, start)

    model = torch.compile(network) if settings.compile else network
    model = accelerator.prepare(model)
    optimizers = [accelerator.prepare(optimizer) for optimizer in optimizers]
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers_of(network, settings)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes to it
        data = torch.from_numpy(images).to(device_)
    classes = None if labels is None else torch.tensor(labels, dtype=torch.int64, device=device_)
    generator, bf16 = torch.Generator(device_), settings.bf16 and multiplies_bfloat16(device_)
    began, running, since, done = time.monotonic() - elapsed, torch.zeros((), device=device_), 0, start

    def save(step: int) -> None:
        if not accelerator.is_main_process:
            return
        state = identity | {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "elapsed": time.monotonic() - began,
            "best": best,
            "stopped": [settings.patience, settings.steps] if stopped else None,
        }
        with atomically(state_path) as partial:
            torch.save(state, partial)

    progress = elapsed / (3600 * settings.hours) if settings.hours else start / settings.steps
    for step in () if stopped or progress >= 1 else itertools.count(start):
        entropy = np.random.SeedSequence((settings.seed, step, accelerator.process_index))
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        factor = learning_rate_factor(settings, step, progress)
        for optimizer, rates in zip(optimizers, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        side = settings.crops[step % len(settings.crops)] if settings.crops else None
        batch = max(1, settings.batch * settings.crops[0] ** 2 // side**2) if side else settings.batch
        chosen = torch.randint(len(data), (batch,), generator=generator, device=device_)
        x = taken(data, chosen, side, generator, settings.octaves).div_(255)
        if settings.flip:
            mirrored = torch.rand(batch, 1, 1, 1, generator=generator, device=device_) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        x = x.contiguous(memory_format=torch.channels_last)
        given = (x, generator) if classes is None else (x, generator, classes[chosen])
        with torch.autocast(device_.type, torch.bfloat16, enabled=bf16):
            value = loss(model, *given)
        accelerator.backward(value)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        with torch.no_grad():  # power-function EMA: independent of how long the run is
            keep = (1 - 1 / done) ** (settings.ema + 1)
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in network.parameters()], 1 - keep)
        running += value.detach()
        since += 1
        if not settings.hours:
            progress = done / settings.steps
        elif done % 50 == 0:  # all processes by the clock of the first
            clock = torch.tensor((time.monotonic() - began) / (3600 * settings.hours), device=device_)
            progress = float(broadcast(clock))
        last = progress >= 1
        measuring = done % settings.sheet_every == 0 or last
        reporting = done % 50 == 0 or measuring
        saving = done % settings.save_every == 0 or last
        if saving or reporting:  # what is lost must not replace what was saved
            mean = float(running) / since
            if not math.isfinite(mean):
                raise NotFiniteError(f"the loss is {mean} at step {done}", "--resume with a smaller --learning-rate")
        measured = evaluate(average) if evaluate and measuring and accelerator.is_main_process else {}
        if settings.patience and measuring:
            held_out = float(broadcast(torch.tensor(measured.get("held_out_loss", math.nan), device=device_)))
            if not math.isfinite(held_out):
                raise NotFiniteError(f"the held-out loss is {held_out} at step {done}", "leave out --patience")
            if held_out < best["loss"]:
                best = {"step": done, "loss": held_out, "average": deepcopy(average.state_dict())}
            stopped = done - best["step"] >= settings.patience * settings.sheet_every
            last |= stopped
        if reporting:
            running.zero_()
            since = 0
            seconds = time.monotonic() - began
            metrics = {"step": done, "progress": progress, "loss": mean}
            metrics |= {"learning_rate": settings.learning_rate * factor, "seconds": seconds}
            metrics["images_per_second"] = done * settings.batch * accelerator.num_processes / seconds
            metrics |= measured
            if accelerator.is_main_process:
                with metrics_path.open("a") as file:
                    file.write(json.dumps(metrics) + "\n")
            callback(done, metrics)
        if saving or last:
            save(done)
        if sheet and accelerator.is_main_process and measuring:
            sheet(average, out / f"samples-{done:07d}.png")
        if last:
            break
    if settings.patience and best["step"]:
        average.load_state_dict(best["average"])
        if best["step"] < done:
            message = f"the held-out loss was best at step {best['step']} of {done}: those are the weights"
            warnings.warn(message, RunWarning, stacklevel=2)
    if export and accelerator.is_main_process:
        export(average, out / "weights.safetensors")
    accelerator.wait_for_everyone()
    return average


def to_be_continued(out: Path, resume: bool) -> bool:
    """Whether ``out`` holds a run to go on with.

    Raises:
        UsageError: it holds one and ``resume`` is off.
    """
    holds = (out / STATE).exists()
    if holds and not resume:
        raise UsageError(f"{out} already holds a training run", "--resume continues it; else choose another folder")
    return holds


def _read_state(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot resume from {path}: {reason}", "restore it, or train into another folder") from error


def _may_change(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a resumed run may change; with more ``steps`` it goes on where a finished one ended."""
    keys = ("steps", "hours", "learning_rate", "bf16", "patience", "save_every", "sheet_every", "compile")
    return {key: settings[key] for key in keys}


def _keep_metrics_until(path: Path, step: int) -> None:
    """Drop lines of steps that were done after the state was saved: they will be done again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))

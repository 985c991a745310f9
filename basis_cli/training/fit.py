"""The training loop shared by every trainable prior: optimizer, EMA, resume, metrics, sample sheets.

A plugin brings a network and a loss; ``fit`` does the rest, on one device or several (Hugging Face Accelerate).
Whatever is random at a step is drawn from (seed, step, process), so a killed run that resumes is the unbroken run.
"""

from __future__ import annotations

import json
import math
import pickle
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..compute import choose_device, multiplies_bfloat16
from ..data.files import atomically
from ..errors import InputError, NotFiniteError, RunWarning, UsageError
from .optimizers import learning_rate_factor, optimizers_of, shorten
from .pictures import Pictures, Rounds
from .settings import Settings

Loss = Callable[..., Tensor]
STATE, METRICS = "state.pt", "metrics.jsonl"
REPORTED = 50  # steps from one line of metrics to the next
MILDER = "--resume with a smaller --learning-rate"


def check_accelerate() -> None:
    """Raise what would otherwise come only after pictures have been read.

    Raises:
        UsageError: accelerate is not installed.
    """
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise UsageError("training needs accelerate", "pip install 'basis-cli[train]'") from None


class Run:
    """A training run between two steps: the network, its average, its optimizers, and how far they are.

    It begins in the folder ``out``, or with ``resume`` goes on with the one that was saved there.
    """

    def __init__(
        self, network: nn.Module, settings: Settings, out: Path, device: str, resume: bool, architecture: dict[str, Any]
    ):
        from accelerate import Accelerator

        where = choose_device(device)
        out.mkdir(parents=True, exist_ok=True)
        continued = to_be_continued(out, resume)
        if where.type == "cuda" and where.index is not None:  # Accelerate takes the current one
            torch.cuda.set_device(where)
        self.accelerator = Accelerator(cpu=where.type == "cpu")
        self.device, self.settings, self.out = self.accelerator.device, settings, out
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizers = optimizers_of(self.network, settings)
        self.identity = {"settings": asdict(settings), "architecture": architecture}
        self.step, self.elapsed, self.stopped = 0, 0.0, False
        self.best: dict[str, Any] = {"step": 0, "loss": math.inf, "average": {}}
        if continued:
            self.restore()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that measures and writes."""
        return self.accelerator.is_main_process

    @property
    def over(self) -> bool:
        return self.stopped or self.progress >= 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def mean_loss(self) -> float:
        """Over the steps since the last report."""
        return float(self._losses) / self._steps

    def restore(self) -> None:
        """Go back to the saved state.

        Raises:
            UsageError: it is of a run of other settings.
            InputError: it cannot be read.
        """
        state = _read_state(self.out / STATE, self.device)
        before = {
            "settings": asdict(Settings()) | state["settings"] | _may_change(self.identity["settings"]),
            "architecture": state["architecture"],
        }
        if before != self.identity:
            raise UsageError(f"{self.out} was trained with other settings", "resume with the command that began it")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state.get("best", self.best)
        self.stopped = state.get("stopped") == [self.settings.patience, self.settings.steps]

    def begin(self) -> None:
        """Make ready for the first step and start the clock."""
        settings = self.settings
        _keep_metrics_until(self.out / METRICS, self.step)
        self._rates = [[group["lr"] for group in each.param_groups] for each in optimizers_of(self.network, settings)]
        self._model = self.accelerator.prepare(torch.compile(self.network) if settings.compile else self.network)
        self.optimizers = [self.accelerator.prepare(optimizer) for optimizer in self.optimizers]
        self._bf16 = settings.bf16 and multiplies_bfloat16(self.device)
        self._losses, self._steps = torch.zeros((), device=self.device), 0
        self._began = time.monotonic() - self.elapsed
        hours = settings.hours
        self.progress = self.elapsed / (3600 * hours) if hours else self.step / settings.steps

    def advance(self, loss: Loss, batch: tuple[Any, ...]) -> None:
        """One step of the network and of its average."""
        self.factor = learning_rate_factor(self.settings, self.step, self.progress)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.factor
        value = self._loss(loss, self._model, batch)
        self.accelerator.backward(value)
        if self.settings.clip is not None:
            shorten(self.network.parameters(), self.settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        with torch.no_grad():  # power-function EMA: independent of how long the run is
            keep = (1 - 1 / self.step) ** (self.settings.ema + 1)
            now = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.average.parameters()), now, 1 - keep)
        self._losses += value.detach()
        self._steps += 1
        if not self.settings.hours:
            self.progress = self.step / self.settings.steps
        elif self.step % REPORTED == 0:
            self.progress = self._agreed(self.seconds / (3600 * self.settings.hours))

    def check(self) -> None:
        """Raise a :class:`NotFiniteError` if the loss or a weight is NaN or infinite."""
        if not math.isfinite(self.mean_loss):
            raise NotFiniteError(f"the loss is {self.mean_loss} at step {self.step}", MILDER)
        if not all(p.isfinite().all() for p in self.network.parameters()):
            raise NotFiniteError(f"the weights are not finite after step {self.step}", MILDER)

    def compare(self, held_out_loss: float) -> None:
        """Keep the average if it is the best so far, and stop if none was for long enough.

        Raises:
            NotFiniteError: the loss is NaN or infinite.
        """
        held_out = self._agreed(held_out_loss)
        if not math.isfinite(held_out):
            raise NotFiniteError(f"the held-out loss is {held_out} at step {self.step}", "leave out --patience")
        if held_out < self.best["loss"]:
            self.best = {"step": self.step, "loss": held_out, "average": deepcopy(self.average.state_dict())}
        patience = (self.settings.patience or 0) * self.settings.sheet_every
        self.stopped = self.step - self.best["step"] >= patience

    def report(self, measured: dict[str, float]) -> dict[str, float]:
        """Write a line of metrics, and begin a new mean of the loss."""
        seconds = self.seconds
        metrics = {"step": self.step, "progress": self.progress, "loss": self.mean_loss}
        metrics |= {"learning_rate": self.settings.learning_rate * self.factor, "seconds": seconds}
        each = [self.settings.pictures(side) for side in self.settings.crops or (None,)]
        pictures = self.step * sum(each) / len(each) * self.accelerator.num_processes
        metrics |= {"images_per_second": pictures / max(seconds, 1e-9)} | measured
        self._losses.zero_()
        self._steps = 0
        if self.is_main:
            with (self.out / METRICS).open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        return metrics

    def save(self, loss: Loss, following: tuple[Any, ...]) -> None:
        """Write all that :meth:`restore` needs, if there is a way on: the loss of the ``following`` batch is a number.

        Raises:
            NotFiniteError: it is not; what was saved before is kept.
        """
        with torch.no_grad():  # not the compiled network, which would be compiled again for this
            value = float(self._loss(loss, self.network, following))
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss is {value} after step {self.step}", MILDER)
        if not self.is_main:
            return
        state = self.identity | {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed": self.seconds,
            "best": self.best,
            "stopped": [self.settings.patience, self.settings.steps] if self.stopped else None,
        }
        with atomically(self.out / STATE) as partial:
            torch.save(state, partial)

    def choose_best(self) -> None:
        """With ``patience``, make the average what it was when its held-out loss was least."""
        if self.settings.patience and self.best["step"]:
            self.average.load_state_dict(self.best["average"])
            if self.best["step"] < self.step:
                steps = f"step {self.best['step']} of {self.step}"
                message = f"the held-out loss was best at {steps}: those are the weights"
                warnings.warn(message, RunWarning, stacklevel=3)

    def _loss(self, loss: Loss, model: nn.Module, batch: tuple[Any, ...]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            return loss(model, *batch)

    def _agreed(self, number: float) -> float:
        """The first process's ``number``, in all of them."""
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor(number, device=self.device)))


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
    rounds: Rounds | None = None,
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

    With ``rounds`` the loss is given the places of ``x`` in the round's pictures for labels.

    Every ``sheet_every`` steps ``evaluate`` measures the averaged network; its ``held_out_loss`` is what
    ``settings.patience`` waits for.

    Raises:
        UsageError: ``out`` holds another run's state and ``resume`` is off, or holds a run of other settings.
        InputError: the saved state cannot be read.
        NotFiniteError: the loss or a weight became NaN or infinite; the last saved state is kept.
    """
    check_accelerate()
    run = Run(network, settings, out, device, resume, architecture or {})
    pictures = Pictures(images, labels, settings, run.device, run.accelerator.process_index)
    if rounds and run.accelerator.num_processes > 1:
        raise UsageError("this network is trained by one process", "leave out accelerate launch")
    if rounds:
        pictures.begin(rounds, run.step)
    run.begin()
    while not run.over:
        if rounds and run.step % rounds.steps == 0:
            pictures.begin(rounds, run.step)
            rounds.begin(run.network, pictures.pool, run.step // rounds.steps)  # type: ignore[arg-type]
        run.advance(loss, pictures.batch(run.step))
        measuring = run.over or run.step % settings.sheet_every == 0
        reporting = measuring or run.step % REPORTED == 0
        saving = run.over or run.step % settings.save_every == 0
        if reporting or saving:
            run.check()
        measured = evaluate(run.average) if evaluate and measuring and run.is_main else {}
        if settings.patience and measuring:
            run.compare(measured.get("held_out_loss", math.nan))
        if reporting:
            callback(run.step, run.report(measured))
        if saving or run.over:
            run.save(loss, pictures.batch(run.step))
        if sheet and measuring and run.is_main:
            sheet(run.average, out / f"samples-{run.step:07d}.png")
    run.choose_best()
    if export and run.is_main:
        export(run.average, out / "weights.safetensors")
    run.accelerator.wait_for_everyone()
    return run.average


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
    keys = ("steps", "hours", "learning_rate", "bf16", "patience", "save_every", "sheet_every", "compile", "clip")
    return {key: settings[key] for key in keys}


def _keep_metrics_until(path: Path, step: int) -> None:
    """Drop lines of steps that were done after the state was saved: they will be done again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))

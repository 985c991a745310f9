"""The files of a command's answers: which there are, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .inputs import Place
from .options import OutputOptions
from .records import contents

if TYPE_CHECKING:
    import numpy as np

    from ..data.images import Stored
    from ..posterior import Frames, Result
    from ..tasks.base import Task
    from .ledger import Ledger


class Picture(NamedTuple):
    """One input."""

    name: str
    stem: str
    task: Task
    """As this file sets it."""
    stored: Stored
    sha256: dict[str, str | None]
    """Of this file and the others that options name."""


@dataclass(frozen=True)
class Results:
    """What a command leaves of each input."""

    task: Task
    samples: int
    answers: int
    """How many of them are answers by themselves."""
    place: Place
    output: OutputOptions
    recorded: Ledger | None = None
    """Where the records are, if not each in a file of its own."""

    def files(self, stem: str) -> list[Path]:
        """All that is written for an input, its record last, by its own name even if all are in one file."""
        from .answers import component_files, std_files

        base = self.place.folder / stem
        files = [file for own in component_files(base, self.task.k, self.answers, self.place) for file in own]
        files += std_files(base, self.task.k) if self.output.uncertainty else []
        files += [Path(f"{base}.sheet.png")] if self.output.sheet else []
        files += [Path(f"{base}.samples.png")] if self.unseen else []
        files += [Path(f"{base}.frames.png"), Path(f"{base}.frames.webp")] if self.output.frames else []
        return [*files, Path(f"{base}.json")]

    @property
    def unseen(self) -> bool:
        """Whether a report needs samples that are no answers."""
        return self.output.report and self.samples > self.answers

    @property
    def report(self) -> Path:
        """Where --report goes: one for all inputs, beside the answers."""
        return self.place.folder / ("report.html" if self.place.stem is None else f"{self.place.stem}.report.html")

    def state(self, stem: str) -> Path:
        """Where a run that may be resumed keeps what it has."""
        return self.place.folder / f"{stem}.state.safetensors"

    def all_files(self, stem: str) -> list[Path]:
        """Of an input, its saved state included."""
        return [*self.files(stem), self.state(stem)]

    def write(
        self,
        picture: Picture,
        result: Result,
        about: Mapping[str, Any],
        references: list[np.ndarray],
        frames: Frames | None = None,
        index: int = 0,
    ) -> dict[str, Any]:
        """Write the answers for one picture and, last, their record, which begins with what is ``about`` all of them.

        ``frames`` have those of input ``index``.
        """
        from ..data import images
        from .answers import listed, numbers, write_answers, write_samples, write_sheet, write_std

        base = self.place.folder / picture.stem
        record_file = images.with_ending(base, ".json")
        stale = listed(record_file) - set(self.files(picture.stem))
        record: dict[str, Any] = {"input": picture.name, "stem": picture.stem, "inputs_sha256": picture.sha256, **about}
        record |= {
            "settings": result.settings,
            "noise_seeds": result.seeds[0],
            "evaluations": result.evaluations,
            "seconds": round(result.seconds, 3),
        }
        if self.output.uncertainty:
            record |= write_std(base, result)
        if self.output.sheet:
            record["sheet"] = str(images.with_ending(base, ".sheet.png"))
            write_sheet(Path(record["sheet"]), result, references)
        if self.unseen:
            record["samples"] = str(images.with_ending(base, ".samples.png"))
            write_samples(Path(record["samples"]), result)
        if frames:
            states = frames.of(index, result.drawn[0][0], result.components[:, 0, 0])  # the most probable one's way
            record["frames"] = [str(file) for file in images.write_frames(base, states.numpy())]
        record |= {"read": picture.stored.tags.about, "format": self.place.ending.lower(), "bits": self.place.bits}
        opacity = picture.stored.opacity
        if opacity is not None:
            c, h, w = result.components.shape[-3:]
            opacity = picture.task.opacity(opacity, (c, h, w))
            record["read"] = record["read"] | {"opacity": "kept" if images.has_opacity(self.place.ending) else "lost"}
        record["answers"] = write_answers(base, result, self.place, opacity, picture.stored.tags)
        if result.log_likelihood is not None:
            record["log_likelihood_nats"] = numbers(result.log_likelihood[0], 2)
            record["samples_per_distinct_answer"] = result.answers[0]
            record["sample_answers"] = result.ranked[0].answer
        record["files_sha256"] = contents(self.files(picture.stem)[:-1])
        if not self.output.jsonl:
            images.write_text(record_file, json.dumps(record, indent=2) + "\n")
        for file in stale:  # of answers that the old record listed and this one does not
            file.unlink(missing_ok=True)
        return record

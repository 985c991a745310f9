"""A run that is killed and goes on makes the very pictures of an unbroken one."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import four_pictures, soft_blobs

from basis_cli import samplers, tasks
from basis_cli.compute import Compute
from basis_cli.errors import InputError, UsageError
from basis_cli.posterior import Sampling, SavedState
from basis_cli.priors.tiles import PyramidPrior, TiledPrior

SHAPE = (1, 8, 8)
MIXTURES = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)) / 2 + 0.25


class Killed(BaseException):
    """What no part of the program handles."""


def kill_at(level, batch=0):
    """Ends the run before a level of a batch is over."""

    def watch(progress):
        if (progress.batch, progress.level) == (batch, level):
            raise Killed

    return watch


def run(path=None, watch=samplers.unwatched, about=None, mixtures=MIXTURES, prior=None, alpha=None, **options):
    saved = SavedState(path, about or {}) if path else None
    sampling = Sampling(**({"sampler": "ep", "levels": 4} | options.pop("sampling", {})))
    priors = prior or [four_pictures(SHAPE), soft_blobs(SHAPE)]
    return tasks.separate(mixtures, prior=priors, alpha=alpha, sampling=sampling, watch=watch, saved=saved, **options)


def same(one, other):
    parts = ("components", "residual", "log_likelihood", "std")
    pairs = [(getattr(one, part), getattr(other, part)) for part in parts]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs) and one.evaluations == other.evaluations


GUIDED = [name for name, spec in samplers.built_in().items() if spec.guided and name != "conditional"]
"""Those for any prior."""


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("sampler", GUIDED)
def test_a_resumed_run_is_the_unbroken_run(tmp_path, sampler, level):
    steps = {"steps": 3} if sampler in ("langevin", "ascent") else {}
    options = {"sampling": {"sampler": sampler} | steps}
    path = tmp_path / "mix.state.safetensors"
    with pytest.raises(Killed):
        run(path, kill_at(level), **options)
    seen = []
    resumed = run(path, lambda progress: seen.append(progress.level), **options)
    assert min(seen) == level
    assert same(resumed, run(**options))


def test_killed_again_and_again_over_batches_of_samples(tmp_path):
    path = tmp_path / "state"
    options = {
        "samples": 3,
        "sampling": {"sampler": "mmps", "levels": 3},
        "compute": Compute(batch=4),
    }  # batches of 4, 4 and 1
    for batch, level in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 1)):
        with pytest.raises(Killed):
            run(path, kill_at(level, batch), **options)
    seen = []
    resumed = run(path, lambda p: seen.append((p.batch, p.batches, p.level)), **options)
    assert seen == [(2, 3, 1), (2, 3, 2)]
    assert same(resumed, run(**options))


@pytest.mark.parametrize("larger", [TiledPrior, PyramidPrior])
def test_a_tiled_run_resumes(tmp_path, larger):
    prior = larger(four_pictures(SHAPE), (15, 20))
    mixture = torch.rand(1, 15, 20, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "state"
    with pytest.raises(Killed):
        run(path, kill_at(2), mixtures=mixture, prior=prior)
    assert same(run(path, mixtures=mixture, prior=prior), run(mixtures=mixture, prior=prior))


def test_restoring_resumes(tmp_path):
    prior, path = soft_blobs((3, 8, 8)), tmp_path / "state"
    sampling = Sampling(levels=4)
    with pytest.raises(Killed):
        tasks.inpaint(
            torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)),
            "left",
            prior=prior,
            sampling=sampling,
            watch=kill_at(2),
            saved=SavedState(path, {}),
        )
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"prior": prior, "sampling": sampling}
    with pytest.raises(UsageError, match="differs in seeds, picture, operator"):
        tasks.inpaint(picture, "right", saved=SavedState(path, {}), **options)
    resumed = tasks.inpaint(picture, "left", saved=SavedState(path, {}), **options)
    assert same(resumed, tasks.inpaint(picture, "left", **options))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampling": {"seed": 1}}, "seed, seeds"),
        ({"sampling": {"levels": 5}}, "levels, sigmas"),
        ({"sampling": {"sampler": "project"}}, "sampler"),
        ({"samples": 2}, "likelihood, seeds, picture"),
        ({"mixtures": MIXTURES[:2]}, "seeds, picture"),
        ({"mixtures": MIXTURES.flip(0)}, "differs in seeds, picture"),
        ({"alpha": [0.7, 0.3]}, "differs in alpha, operator"),
        ({"about": {"weights": "other"}}, "differs in weights"),
    ],
)
def test_the_state_of_another_run_is_refused(tmp_path, changes, says):
    path = tmp_path / "state"
    with pytest.raises(Killed):
        run(path, kill_at(2))
    with pytest.raises(UsageError, match=says) as caught:
        run(path, **changes)
    assert "command that began it" in caught.value.hint


def test_a_damaged_state_is_an_input_error(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot resume from"):
        run(path)


def test_a_sampler_without_a_descent_cannot_be_resumed(tmp_path, sampler):
    def plain(priors, operator, y, *, seeds, sigmas=(1.0,), watch=samplers.unwatched):
        return y.expand(operator.k, *y.shape)

    sampler("plain", plain)
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(tmp_path / "state", sampling={"sampler": "plain"})
    assert run(sampling={"sampler": "plain"}).components.shape == (2, 3, 1, *SHAPE)


def test_the_file_is_written_at_the_end_of_a_level_only(tmp_path, monkeypatch):
    path, written = tmp_path / "state", []
    monkeypatch.setattr(SavedState, "_write", lambda self, x, numbers: written.append(numbers["level"]))
    run(path, sampling={"sampler": "langevin", "levels": 4, "steps": 5})
    assert written == [1, 2, 3]

"""Finds plugins, one at a time: a broken one is recorded and shown by ``basis plugins list``, never fatal."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from . import hookspecs
from .api import PosteriorSpec, PriorSpec, SamplerSpec
from .errors import BasisError, UnknownPriorError

if TYPE_CHECKING:
    import typer

    from .tasks.base import Task

GROUP = "basis"
BUILT_IN = ("toy", "ncsn", "glow", "cinn", "imle", "reproduce", "diffusers", "ui")
"""First, so that a clash never changes what a built-in name means."""


@dataclass
class Plugin:
    """One entry point and what came of it."""

    name: str
    module: str
    version: str = ""
    priors: dict[str, PriorSpec] = field(default_factory=dict)
    posteriors: dict[str, PosteriorSpec] = field(default_factory=dict)
    samplers: dict[str, SamplerSpec] = field(default_factory=dict)
    tasks: dict[str, type[Task]] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    clashes: list[str] = field(default_factory=list)
    """Names that an earlier plugin already holds; still reachable as ``plugin/name``."""
    refused: list[str] = field(default_factory=list)
    """Commands that it may not add, such as ``basis separate``: they were there before it."""
    error: str = ""
    manager: pluggy.PluginManager | None = field(default=None, repr=False)


def _selected() -> list[EntryPoint]:
    """Entry points to load: all, or those named in ``BASIS_PLUGINS`` (comma-separated); built-ins first."""
    found = entry_points(group=GROUP)
    wanted = os.environ.get("BASIS_PLUGINS")
    if wanted is not None:
        names = {name.strip() for name in wanted.split(",")}
        found = [entry for entry in found if entry.name in names]  # type: ignore[assignment]

    def rank(entry: EntryPoint) -> tuple[int, str]:
        ours = entry.name in BUILT_IN and entry.value == f"basis_{entry.name}"
        return (BUILT_IN.index(entry.name) if ours else len(BUILT_IN), entry.name)

    return sorted(found, key=rank)


def _checked_priors(returned: object) -> dict[str, PriorSpec]:
    """What ``basis_priors`` returned, by name; raises ``TypeError`` or ``ValueError`` for anything unusable."""
    if not isinstance(returned, list) or not all(isinstance(spec, PriorSpec) for spec in returned):
        raise TypeError(f"basis_priors must return a list of PriorSpec, not {returned!r:.80}")
    for spec in returned:
        if not (isinstance(spec.name, str) and spec.name and not set(spec.name) & set("/:, ")):
            raise ValueError(f"a prior's name must be a word without '/', ':', ',' or spaces, not {spec.name!r}")
        shape = (1, 1, 1) if spec.shape is None else spec.shape
        if not (len(shape) == 3 and all(isinstance(side, int) and side > 0 for side in shape)):
            raise ValueError(f"{spec.name}: shape must be (channels, height, width), not {spec.shape!r}")
    return {spec.name: spec for spec in returned}


def _checked(returned: object, hook: str, kind: type) -> dict[str, Any]:
    """What another hook returned, by name; raises ``TypeError`` for anything but a list of ``kind``."""
    if not isinstance(returned, list) or not all(isinstance(spec, kind) for spec in returned):
        raise TypeError(f"{hook} must return a list of {kind.__name__}, not {returned!r:.80}")
    return {spec.name: spec for spec in returned}


def _checked_tasks(returned: object) -> dict[str, type[Task]]:
    from .tasks.base import Task

    if not isinstance(returned, list) or not all(isinstance(t, type) and issubclass(t, Task) for t in returned):
        raise TypeError(f"basis_tasks must return a list of Task classes, not {returned!r:.80}")
    for task in returned:
        if not all(isinstance(getattr(task, name, None), str) for name in ("name", "noun")):
            raise TypeError(f"{task.__name__} needs a name and a noun")
    return {task.name: task for task in returned}


def _checked_datasets(returned: object) -> dict[str, str]:
    if not isinstance(returned, dict) or not all(isinstance(v, str) and ":" in v for v in returned.values()):
        raise TypeError(f"basis_datasets must return a dict of 'module:function' strings, not {returned!r:.80}")
    return returned


OFFERED: dict[str, Callable[[object], dict[str, Any]]] = {
    "priors": _checked_priors,
    "posteriors": lambda returned: _checked(returned, "basis_posteriors", PosteriorSpec),
    "samplers": lambda returned: _checked(returned, "basis_samplers", SamplerSpec),
    "tasks": _checked_tasks,
    "datasets": _checked_datasets,
}
"""What a plugin offers by name: the hook is ``basis_KIND``, and this makes a dictionary of its answer."""


def _returned(hook: pluggy.HookCaller) -> list[Any]:
    """What the plugin's function for ``hook`` returned, if it has one; pluggy would pass over ``None`` in silence."""
    results = hook()
    if len(results) < len(hook.get_hookimpls()):
        raise TypeError(f"{hook.name} returned None")
    return results


def _load(entry: EntryPoint) -> Plugin:
    manager = pluggy.PluginManager("basis")
    manager.add_hookspecs(hookspecs)
    plugin = Plugin(entry.name, entry.value, manager=manager)  # entry.module raises if the value is malformed
    try:
        if entry.dist:
            plugin.version = entry.dist.version or ""
        manager.register(entry.load(), entry.name)
        manager.check_pending()
        for kind, check in OFFERED.items():
            for returned in _returned(getattr(manager.hook, f"basis_{kind}")):
                getattr(plugin, kind).update(check(returned))
    except (Exception, SystemExit) as error:  # a plugin may even call sys.exit
        _disable(plugin, error)
    return plugin


def _disable(plugin: Plugin, error: BaseException) -> None:
    plugin.error = f"{type(error).__name__}: {error}".splitlines()[0]
    _withdraw(plugin)


def _withdraw(plugin: Plugin) -> None:
    """It offers nothing any more."""
    for kind in OFFERED:
        setattr(plugin, kind, {})


def add_commands(app: typer.Typer, add_task: Callable[[type[Task]], None] = lambda task: None) -> None:
    """Let every plugin add its tasks and its commands to ``app``; one that raises is recorded as broken, and adds none.

    ``add_task`` makes the commands of a task.
    """
    from .tree import Tree

    for plugin in plugins():
        if plugin.manager and not plugin.error:
            before = Tree(app)
            try:
                for task in plugin.tasks.values():
                    add_task(task)
                plugin.manager.hook.basis_commands(app=app)
                plugin.refused = before.keep_new_names()
            except (Exception, SystemExit) as error:
                before.restore()
                _disable(plugin, error)


@cache
def plugins() -> tuple[Plugin, ...]:
    """Every plugin found, built-ins first, with name clashes marked on the later one."""
    loaded: list[Plugin] = []
    taken: set[str] = set()
    for entry in _selected():
        plugin = _load(entry)
        if any(other.name == plugin.name for other in loaded):
            plugin.error = plugin.error or f"another plugin is called {plugin.name!r} and was loaded first"
            _withdraw(plugin)
        names = {*plugin.priors, *plugin.posteriors, *plugin.samplers}
        plugin.clashes = sorted(names & taken)
        taken |= names
        loaded.append(plugin)
    return tuple(loaded)


def _by_name(offered: Callable[[Plugin], dict[str, Any]]) -> dict[str, Any]:
    """``name`` for the first plugin that offers it, ``plugin/name`` for every one."""
    table: dict[str, Any] = {}
    for plugin in plugins():
        for name, value in offered(plugin).items():
            table.setdefault(name, value)
            table[f"{plugin.name}/{name}"] = value
    return table


def left_out() -> str:
    """A sentence on ``BASIS_PLUGINS`` if, because of it, a plugin is not loaded; else nothing."""
    wanted, loaded = os.environ.get("BASIS_PLUGINS"), {plugin.name for plugin in plugins()}
    names = sorted({entry.name for entry in entry_points(group=GROUP)} - loaded)
    return f"BASIS_PLUGINS={wanted} leaves out {', '.join(names)}." if wanted is not None and names else ""


def _look_up(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
    known = ", ".join(sorted(key for key in table if "/" not in key))
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = f"known: {known}" if known else "none is known"
    raise UnknownPriorError(f"no {kind} is called {name!r}", f"{hint}{known}. {left_out()}".rstrip(". "))


def prior_spec(name: str) -> PriorSpec:
    """The spec of ``name`` or ``plugin/name``; of ``name:own`` with weights of the user's own.

    Raises:
        UnknownPriorError: no plugin offers it; the hint names the closest one.
    """
    kind, _, own = name.partition(":")
    spec: PriorSpec = _look_up("prior", kind, prior_specs())
    return replace(spec, name=name, own=own) if own else spec


def posterior_spec(name: str) -> PosteriorSpec:
    """The direct model ``name`` or ``plugin/name``.

    Raises:
        UnknownPriorError: no plugin offers it.
    """
    return _look_up("model", name, posterior_specs())


def prior_specs() -> dict[str, PriorSpec]:
    """All priors by name."""
    return _by_name(lambda plugin: plugin.priors)


def posterior_specs() -> dict[str, PosteriorSpec]:
    """All direct models by name."""
    return _by_name(lambda plugin: plugin.posteriors)


def task_kinds() -> dict[str, type[Task]]:
    """All tasks by name: the built-in ones, which no plugin replaces, and plugins'."""
    from .tasks import built_in

    return {name: kind for plugin in reversed(plugins()) for name, kind in plugin.tasks.items()} | built_in()


def sampler_specs() -> dict[str, SamplerSpec]:
    """All samplers by name: the built-in ones, which no plugin replaces, and plugins'. Imports torch."""
    from .samplers import built_in

    return _by_name(lambda plugin: plugin.samplers) | built_in()


def sampler_spec(name: str) -> SamplerSpec:
    """The sampler ``name`` or ``plugin/name``.

    Raises:
        UnknownPriorError: no such sampler.
    """
    return _look_up("sampler", name, sampler_specs())


def sampler(name: str) -> Callable[..., Any]:
    """The function of the sampler called ``name``, imported now.

    Raises:
        UnknownPriorError: no such sampler.
    """
    return resolve(sampler_spec(name).draw)


def datasets() -> dict[str, str]:
    """Plugins' data sets by name, each ``"module:function"``."""
    return _by_name(lambda plugin: plugin.datasets)


def resolve(target: str) -> Callable[..., Any]:
    """The object that ``"module:attribute"`` names.

    Raises:
        BasisError: the module or attribute is not there, or raised while importing.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise BasisError(f"cannot load {target!r}: {error}", "`basis plugins list` shows who offers it") from error

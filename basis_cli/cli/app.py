"""The ``basis`` command: all built-in commands, then those of the plugins. Importing this never imports torch."""

from __future__ import annotations

from .. import plugins
from ..tasks import Task, built_in
from . import bench, evaluate, info, peers, records, report, restorations, run, sweep, train, weights
from .root import root

app = root()


def add_task(task: type[Task]) -> None:
    """The command of a task and, if it says how to damage test pictures, its evaluation."""
    app.command(task.name)(run.command(task))
    if task.damage:
        evaluate.app.command(task.noun)(restorations.restoration(task))


for own in built_in().values():
    add_task(own)
app.command()(run.sample)
app.command()(records.rerun)
app.command()(sweep.sweep)
app.command()(report.report)
app.add_typer(evaluate.app, name="evaluate")
bench.app.command()(peers.peers)
app.add_typer(bench.app, name="bench")
app.add_typer(train.app, name="train")
app.add_typer(info.priors_app, name="priors")
app.add_typer(info.plugins_app, name="plugins")
app.add_typer(weights.app, name="weights")
app.command()(info.samplers)
app.command()(info.cite)
app.command()(info.doctor)
plugins.add_commands(app, add_task)

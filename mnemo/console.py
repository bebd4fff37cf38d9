"""What a person sees in the terminal while a run goes on, and after it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from .datasets import Available
from .experiment import Experiment
from .learner import EpochDone, Event, PhaseDone
from .record import Run

console = Console(highlight=False)


class _TimeLeft(ProgressColumn):
    """Time left, from the work done since this process began."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))  # in a narrow terminal the bar gives way, not the time

    def render(self, task: Task) -> Text:
        return Text(_time_left(task), style="cyan")


def _time_left(task: Task) -> str:
    already = task.fields["already"]
    if already is None or task.total is None or task.completed <= already:
        return "-:--:--"
    return _clock((task.total - task.completed) * (task.elapsed or 0) / (task.completed - already))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Display:
    """A line for every phase that is done, and a live one for what is under way.

    Without a terminal there is a plain line a phase, and one every half minute in between.

    Args:
        experiment: whose events will be shown.
        quiet: show nothing.
    """

    def __init__(self, experiment: Experiment, quiet: bool = False) -> None:
        self._experiment, self._quiet = experiment, quiet
        self._work = experiment.work()
        self._started = self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[progress.percentage]{task.percentage:>3.0f} %"),
            _TimeLeft(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=sum(self._work.values()), already=None)

    def __enter__(self) -> "Display":
        run = self._experiment.run
        if not self._quiet:
            phases = len(run.phase_classes)
            console.print(
                f"[bold]{run.strategy}[/] on [bold]{run.protocol}[/], seed {run.seed}, {run.device}: "
                f"{len(run.class_order)} classes in {phases} phase{'s' * (phases != 1)}"
            )
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show what an event says."""
        if self._quiet:
            return
        if isinstance(event, PhaseDone):
            self._phase_line(event)
        else:
            self._advance(event)

    def _advance(self, event: EpochDone) -> None:
        done = self._done(event)
        task = self._progress.tasks[self._task]
        if task.fields["already"] is None:  # what a resumed run found done was not done in this process's time
            share = self._work.get((event.phase, event.stage), 0) / event.epochs
            self._progress.update(self._task, already=done - share)
        values = "  ".join(_value(name, value) for name, value in event.shown.items())
        text = (
            f"phase {event.phase + 1}/{len(self._experiment.run.phase_classes)}  "
            f"{event.stage.replace('_', ' ')} {event.epoch + 1}/{event.epochs}  {values}"
        )
        self._progress.update(self._task, description=text, completed=done)
        if not console.is_terminal and time.monotonic() - self._last_line > 30:
            self._last_line = time.monotonic()
            self._line(f"{text}  {_time_left(task)} left")

    def _done(self, event: EpochDone) -> float:
        before = 0.0
        for (phase, stage), work in self._work.items():
            if (phase, stage) == (event.phase, event.stage):
                return before + work * (event.epoch + 1) / event.epochs
            before += work
        return before

    def _phase_line(self, event: PhaseDone) -> None:
        run = self._experiment.run
        other = "nearest_mean" if run.classifier == "head" else "head"
        line = f"phase {event.phase + 1}/{len(run.phase_classes)}  accuracy [bold]{run.phase_accuracy[-1]:5.1f}[/] %"
        if other in run.by_classifier:
            line += f"  ({other.replace('_', ' ')} {run.by_classifier[other].phase_accuracy[-1]:.1f} %)"
        line += f"  first classes {run.accuracy[-1][0]:5.1f} %"
        if run.exemplars.count:
            line += f"  {run.exemplars.count} exemplars"
        if run.exemplars.rms_displacement is not None:
            line += f" moved {run.exemplars.rms_displacement:.1f} grey levels"
        self._last_line = time.monotonic()
        self._line(f"{line}  [dim]{_clock(self._last_line - self._started)}[/]")

    @staticmethod
    def _line(text: str) -> None:
        """One line of a file stays one line, however long it is."""
        console.print(text, soft_wrap=not console.is_terminal)


def _value(name: str, value: float) -> str:
    if name == "accuracy":
        return f"accuracy {value:.1f} %"
    return f"{name} {value:.0f}" if float(value).is_integer() else f"{name} {value:.3f}"


def summary(run: Run, page: Path) -> None:
    """The figures of a run, and where its report is."""
    table = Table(title=f"{run.strategy} on {run.protocol}, seed {run.seed}", title_justify="left")
    table.add_column("predicting by")
    for name in ("average accuracy", "last accuracy", "forgetting rate", "average forgetting"):
        table.add_column(name, justify="right")
    for name, values in run.by_classifier.items():
        figures = (
            values.average_incremental_accuracy,
            values.phase_accuracy[-1],
            values.forgetting_rate,
            values.average_forgetting,
        )
        style = "bold" if name == run.classifier else "dim"
        table.add_row(name.replace("_", " "), *(f"{figure or 0:.2f}" for figure in figures), style=style)
    console.print(table)
    console.print(f"report: {page}", soft_wrap=True)


def catalogue() -> None:
    """Protocols, strategies, data sets and networks, with a line on each."""
    from . import datasets, experiment, nets, protocols

    recipes = {name: experiment.recipe(name) for name in sorted(experiment.strategies())}
    _listing("protocols", {name: p.description for name, p in protocols.available().items()})
    _listing("strategies", {name: _first_line(recipe) for name, recipe in recipes.items()})
    _listing("data sets", datasets.KNOWN)
    _listing("networks", {name: _first_line(backbone) for name, backbone in nets.BACKBONES.items()})


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _listing(title: str, lines: dict[str, str]) -> None:
    table = Table("name", "", title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, line in lines.items():
        table.add_row(f"[bold]{name}[/]", Text(line))
    console.print(table)
    console.print()


def data_sets(found: Sequence[Available]) -> None:
    """The data sets that are known or found, and where."""
    table = Table("name", "what", "where", box=None, padding=(0, 2))
    for name, description, where in found:
        table.add_row(f"[bold]{name}[/]", Text(description), Text(where or "not here"))
    console.print(table)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a long conversion; gives a function of how much is done and of how much there is (0: unknown)."""
    errors = Console(stderr=True)
    bar = Progress(
        TextColumn(what),
        BarColumn(bar_width=24),
        TextColumn("[progress.percentage]{task.percentage:>3.0f} %"),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)

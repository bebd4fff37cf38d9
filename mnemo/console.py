"""What a person sees in the terminal while a run goes on, or several, and afterwards."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from .datasets import Available
from .experiment import Experiment
from .fewshot.progress import Progress as StageProgress
from .fewshot.record import FewShotRun
from .learner import EpochDone, Event
from .record import CLASSIFIERS, Run
from .report.summary import Estimate, gather
from .sweeps.messages import Failed, Finished, Message, PhaseResult, Started, Starting
from .sweeps.side_by_side import workers
from .sweeps.tasks import Plan
from .visible import in_a_line

console = Console(highlight=False)


def _shown(text: object) -> str:
    """What others may have written, as rich shows it: no markup, no control characters."""
    return escape(in_a_line(text))


class _TimeLeft(ProgressColumn):
    """Time left, from the work done since this process began; the time that it took once it is over."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))  # in a narrow terminal the bar gives way, not the time

    def render(self, task: Task) -> Text:
        if task.start_time is None or task.total is None:
            return Text()
        if task.stop_time is not None:
            return Text(f"took {_clock(task.stop_time - task.start_time)}", style="cyan")
        return Text(f"{_time_left(task)} left", style="cyan")


def _time_left(task: Task) -> str:
    already = task.fields["already"]
    if already is None or task.total is None or task.completed <= already:
        return "-:--:--"
    return _clock((task.total - task.completed) * (task.elapsed or 0) / (task.completed - already))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class _Bar(BarColumn):
    """Without rich's pulse in what has not begun: that waits. What is under way for nobody knows how long pulses."""

    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        bar.pulse = task.total is None
        return bar


class _Percent(TextColumn):
    """How much is done, where it is known how much there is."""

    def __init__(self) -> None:
        super().__init__("[progress.percentage]{task.percentage:>3.0f} %", table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


def _live(quiet: bool, *before: ProgressColumn, transient: bool) -> Progress:
    return Progress(
        *before,
        TextColumn("{task.description}"),
        _Bar(bar_width=24),
        _Percent(),
        _TimeLeft(),
        console=console,
        transient=transient,
        disable=quiet or not console.is_terminal,
    )


class _Row:
    """The live line of one run, and its plain lines where there is no terminal.

    Args:
        progress: where the live line is.
        phases: of the run.
        work: for each phase and stage; see :meth:`mnemo.experiment.Experiment.work`.
        name: what its lines begin with.
    """

    def __init__(self, progress: Progress, phases: int, work: Mapping[tuple[int, str], float], name: str = "") -> None:
        self._progress, self._phases, self._work, self._name = progress, phases, work, name
        self._id = progress.add_task("waiting", start=False, total=sum(work.values()), already=None, name=_shown(name))
        self._started = self._last_line = time.monotonic()

    def wait_for_process(self) -> None:
        """It will begin soon."""
        self._progress.update(self._id, description="starting")

    def begin(self) -> None:
        """From now on time counts."""
        self._started = self._last_line = time.monotonic()
        self._progress.start_task(self._id)
        self._progress.update(self._id, description="starting")

    def epoch(self, event: EpochDone, *shown: str) -> None:
        """An epoch is done; of what it shows the values named ``shown`` are on the live line, by default all."""
        done = self._done(event)
        task = self._task
        if task.fields["already"] is None:  # what a resumed run found done was not done in this process's time
            share = self._work.get((event.phase, event.stage), 0) / event.epochs
            self._progress.update(self._id, already=done - share)
        text = self._text(event, shown or tuple(event.shown))
        self._progress.update(self._id, description=text, completed=done)
        if not console.is_terminal and time.monotonic() - self._last_line > 30:
            self._last_line = time.monotonic()
            self._line(f"{self._text(event, tuple(event.shown))}  {_time_left(task)} left")

    def phase(self, result: PhaseResult) -> None:
        """A line that stays: a phase is done."""
        line = f"phase {result.phase + 1}/{self._phases}  accuracy [bold]{result.accuracy:5.1f}[/] %"
        for name, accuracy in result.others.items():
            line += f"  ({name.replace('_', ' ')} {accuracy:.1f} %)"
        line += f"  first classes {result.first_classes:5.1f} %"
        if result.exemplars:
            line += f"  {result.exemplars} exemplars"
        if result.moved is not None:
            line += f" moved {result.moved:.1f} grey levels"
        self._timed_line(line)

    def finish(self, result: Finished) -> None:
        """The run is complete; the live line stays as it is now."""
        text = f"{'complete already, ' if result.earlier else ''}average accuracy [bold]{result.average:.1f}[/] %"
        total = self._task.total or 1.0
        self._progress.update(self._id, description=text, completed=total, total=total, already=total)
        if not result.earlier:
            self._progress.stop_task(self._id)
        if not console.is_terminal:
            self._line(text)

    @property
    def _task(self) -> Task:
        return self._progress.tasks[self._id]

    def _done(self, event: EpochDone) -> float:
        before = 0.0
        for (phase, stage), work in self._work.items():
            if (phase, stage) == (event.phase, event.stage):
                return before + work * (event.epoch + 1) / event.epochs
            before += work
        return before

    def _text(self, event: EpochDone, shown: Sequence[str]) -> str:
        values = "  ".join(_value(name, value) for name, value in event.shown.items() if name in shown)
        stage = event.stage.replace("_", " ")
        return f"phase {event.phase + 1}/{self._phases}  {stage} {event.epoch + 1}/{event.epochs}  {values}"

    def _timed_line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._line(f"{text}  [dim]{_clock(self._last_line - self._started)}[/]")

    def _line(self, text: str) -> None:
        """One line of a file stays one line, however long it is."""
        name = f"{_shown(self._name)}  " if self._name else ""
        console.print(name + text, soft_wrap=not console.is_terminal)


class Display:
    """A line for every phase that is done, and a live one for what is under way.

    Without a terminal there is a plain line a phase, and one every half minute in between.

    Args:
        experiment: whose events will be shown.
        quiet: show nothing.
    """

    def __init__(self, experiment: Experiment, quiet: bool = False) -> None:
        self._experiment, self._quiet = experiment, quiet
        self._progress = _live(quiet, transient=True)
        self._row = _Row(self._progress, len(experiment.run.phase_classes), experiment.work())

    def __enter__(self) -> "Display":
        run = self._experiment.run
        if not self._quiet:
            console.print(
                f"[bold]{_shown(run.strategy)}[/] on [bold]{_shown(run.protocol)}[/], seed {run.seed}, {run.device}: "
                f"{len(run.class_order)} classes in {_count(len(run.phase_classes), 'phase')}"
            )
        self._row.begin()
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show what an event says."""
        if self._quiet:
            return
        if isinstance(event, EpochDone):
            self._row.epoch(event)
        else:
            self._row.phase(PhaseResult.of(event.phase, self._experiment.run))


class SideBySide:
    """A live line for every run, also for those that wait and those that are complete.

    Without a terminal there are the plain lines of :class:`Display`, each of which begins with its run's name.

    Args:
        plans: of the runs that will be shown.
        quiet: show nothing.
    """

    def __init__(self, plans: Sequence[Plan], quiet: bool = False) -> None:
        self._plans, self._quiet = plans, quiet
        self._progress = _live(quiet, TextColumn("[bold]{task.fields[name]}[/]"), transient=False)
        self._rows = {plan.task.name: _Row(self._progress, plan.phases, plan.work, plan.task.name) for plan in plans}

    def __enter__(self) -> "SideBySide":
        first = self._plans[0]
        strategies = ", ".join(dict.fromkeys(plan.task.strategy for plan in self._plans))
        if not self._quiet:
            console.print(
                f"[bold]{strategies}[/] on [bold]{_shown(first.task.protocol.name)}[/], {first.device}: "
                f"{_count(len(self._plans), 'run')}, {workers(self._plans)} at once",
                soft_wrap=not console.is_terminal,
            )
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, name: str, message: Message) -> None:
        """Show what the run ``name`` tells."""
        if self._quiet:
            return
        row = self._rows[name]
        if isinstance(message, Starting):
            row.wait_for_process()
        elif isinstance(message, Started):
            row.begin()
        elif isinstance(message, EpochDone):
            row.epoch(message, "loss")
        elif isinstance(message, Finished):
            row.finish(message)
        elif not console.is_terminal:
            row.phase(message)


class Sweep:
    """A bar over all runs of a sweep, and a plain line for each phase and each end of a run.

    Args:
        runs: how many there are.
        complete: how many of them were complete before.
        quiet: show nothing.
    """

    def __init__(self, runs: int, complete: int, quiet: bool = False) -> None:
        self._runs, self._complete, self._failed, self._quiet = runs, complete, 0, quiet
        self._progress = _live(quiet, transient=True)
        self._id = self._progress.add_task(self._text(), total=runs, completed=complete, already=complete)

    def __enter__(self) -> "Sweep":
        if not self._quiet:
            console.print(f"{_count(self._runs, 'run')}, {self._complete} complete already")
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, name: str, message: PhaseResult | Finished | Failed) -> None:
        """Show what is known of the run ``name``."""
        if isinstance(message, PhaseResult):
            text = f"phase {message.phase + 1}  accuracy [bold]{message.accuracy:5.1f}[/] %"
        elif isinstance(message, Finished):
            self._complete += 1
            text = f"average accuracy [bold]{message.average:.1f}[/] %"
        else:
            self._failed += 1
            text = f"[bold red]failed:[/] {escape(message.line)}"
        self._progress.update(self._id, description=self._text(), completed=self._complete + self._failed)
        if not self._quiet:
            console.print(f"{name}  {text}", soft_wrap=True)

    def _text(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._complete} of {_count(self._runs, 'run')}{failed}"


class Stages:
    """A live line for the stage of a few-shot run that is under way, and a plain one for each that is done.

    Without a terminal there is one every half minute in between.

    Args:
        run: whose events will be shown.
        quiet: show nothing.
    """

    def __init__(self, run: FewShotRun, quiet: bool = False) -> None:
        self._run, self._quiet = run, quiet
        self._progress = _live(quiet, transient=True)
        self._waiting = self._progress.add_task("starting", total=None, already=None)
        self._stage, self._id = "", self._waiting
        self._started = self._last_line = self._last_event = time.monotonic()

    def __enter__(self) -> "Stages":
        run = self._run
        if not self._quiet:
            console.print(
                f"[bold]{run.method}[/] on [bold]{run.data}[/], {run.way}-way {run.shot}-shot, seed {run.seed}, "
                f"{run.device}: {run.meta_learned:,} of {run.parameters:,} weights are meta-learned, "
                f"{_count(run.episodes, f'{run.evaluated_on} task')}",
                soft_wrap=not console.is_terminal,
            )
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, event: StageProgress) -> None:
        """Show what an event says."""
        if self._quiet:
            return
        if event.stage != self._stage:
            self._begin(event)
        text = f"{event.stage} {event.done}/{event.total}  " + "  ".join(_value(*each) for each in event.shown.items())
        self._progress.update(self._id, description=text, completed=event.done)
        self._last_event = time.monotonic()
        if event.done == event.total:
            self._end(text)
        elif not console.is_terminal and self._last_event - self._last_line > 30:
            console.print(f"{text}  {_time_left(self._progress.tasks[-1])} left", soft_wrap=True)
            self._last_line = self._last_event

    def _begin(self, event: StageProgress) -> None:
        """A stage's first event comes when its first part is done: the time counts from the event before it."""
        self._stage, self._started, self._last_line = event.stage, self._last_event, time.monotonic()
        self._progress.update(self._waiting, visible=False)
        self._id = self._progress.add_task(event.stage, total=event.total, already=event.already)
        self._progress.tasks[-1].start_time = self._started

    def _end(self, text: str) -> None:
        """The stage's line stays; until the next one tells something, the live line says that work goes on."""
        self._progress.update(self._id, visible=False)
        what = "finishing" if self._stage == "evaluate" else "going on"
        self._progress.update(self._waiting, description=what, visible=True, refresh=True)
        took = _clock(self._last_event - self._started)
        console.print(f"{text}  [dim]{took}[/]", soft_wrap=not console.is_terminal)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _value(name: str, value: float) -> str:
    if name == "accuracy":
        return f"accuracy {value:.1f} %"
    return f"{name} {value:.0f}" if float(value).is_integer() else f"{name} {value:.3f}"


def comparison(runs: Sequence[Run], page: Path) -> None:
    """A line for every strategy with means over seeds, and where the report is."""
    table = Table(title=f"{_shown(runs[0].protocol)}: {_seeds(runs)}", title_justify="left")
    table.add_column("strategy")
    for name in ("average accuracy", "last accuracy", "forgetting rate"):
        table.add_column(name, justify="right")
    for group in (group for each in gather(runs) for group in each.groups):
        figures = (group.average_incremental_accuracy, group.last_accuracy, group.forgetting_rate)
        table.add_row(_shown(group.name), *map(_estimate, figures))
    console.print(table)
    console.print(f"report: {_shown(page)}", soft_wrap=True)


def _seeds(runs: Sequence[Run]) -> str:
    seeds = [str(seed) for seed in dict.fromkeys(run.seed for run in runs)]
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"mean and sample standard deviation over seeds {', '.join(seeds)}"


def _estimate(figure: Estimate | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.mean:.2f}" + ("" if figure.spread is None else f" ± {figure.spread:.2f}")


def summary(run: Run, page: Path) -> None:
    """The figures of a run, and where its report is."""
    table = Table(title=f"{_shown(run.strategy)} on {_shown(run.protocol)}, seed {run.seed}", title_justify="left")
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
        table.add_row(CLASSIFIERS[name], *(f"{figure or 0:.2f}" for figure in figures), style=style)
    console.print(table)
    console.print(f"report: {_shown(page)}", soft_wrap=True)


def repetition(differences: Sequence[str], path: Path) -> None:
    """Whether a repeated run came out as the recorded one at ``path``, and else where not."""
    if not differences:
        console.print(f"the same results as in {path}", soft_wrap=True, markup=False)
        return
    console.print(f"other results than in {path}:", soft_wrap=True, markup=False)
    for line in differences:
        console.print(f"  {line}", soft_wrap=True, markup=False)


def fewshot_summary(run: FewShotRun, page: Path) -> None:
    """The accuracy of a few-shot run, and where its report is."""
    words = "transductive" if run.transductive else "inductive"
    table = Table(title=f"{_shown(run.method)} on {_shown(run.data)}, seed {run.seed}", title_justify="left")
    for name in (f"{run.way}-way {run.shot}-shot accuracy, %", "95 % interval", "tasks", "batch norm", "setting"):
        table.add_column(name, justify="right")
    table.add_row(
        f"[bold]{run.accuracy or 0:.2f}[/]", f"± {run.interval or 0:.2f}", f"{run.episodes}", run.batch_norm, words
    )
    console.print(table)
    if run.paired is not None:
        gap = run.paired
        console.print(f"{gap.difference:+.2f} ± {gap.interval:.2f} points against {_shown(gap.baseline)}, task by task")
    console.print(f"report: {_shown(page)}", soft_wrap=True)


def catalogue() -> None:
    """Protocols, strategies, data sets and networks, and what there is for few-shot learning, with a line on each."""
    from . import datasets, experiment, nets, protocols
    from .fewshot import data as few_shot_data
    from .fewshot import experiment as few_shot

    recipes = {name: experiment.recipe(name) for name in sorted(experiment.strategies())}
    _listing("protocols", {name: p.description for name, p in protocols.available().items()})
    _listing("strategies", {name: _first_line(recipe) for name, recipe in recipes.items()})
    _listing("data sets", datasets.KNOWN)
    _listing("networks", {name: _first_line(backbone) for name, backbone in nets.BACKBONES.items()})
    methods = {name: few_shot.recipe(name) for name in sorted(few_shot.methods())}
    _listing("few-shot methods", {name: _first_line(method) for name, method in methods.items()})
    _listing("few-shot data sets", few_shot_data.DATA)
    backbones = {name: _first_line(backbone) for name, backbone in nets.FEW_SHOT_BACKBONES.items()}
    _listing("networks of few-shot methods", backbones)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0].replace("``", "")


def _listing(title: str, lines: dict[str, str]) -> None:
    table = Table("name", "", title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, line in lines.items():
        table.add_row(f"[bold]{_shown(name)}[/]", Text(in_a_line(line)))
    console.print(table)
    console.print()


def data_sets(found: Sequence[Available]) -> None:
    """The data sets that are known or found, and where."""
    table = Table("name", "what", "where", box=None, padding=(0, 2))
    for name, description, where in found:
        table.add_row(f"[bold]{_shown(name)}[/]", Text(description), Text(in_a_line(where or "not here")))
    console.print(table)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a long conversion; gives a function of how much is done and of how much there is (0: unknown).

    Nothing is shown before its first call. Where there is no terminal a line is printed every 30 seconds.
    """
    errors = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn(what),
        BarColumn(bar_width=24),
        _Percent(),
        _TimeLeft(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task(what, start=False, visible=False, total=None, already=None)
    last_line = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last_line
        row = bar.tasks[task]
        if not row.started:
            bar.start_task(task)
            bar.update(task, visible=True, already=done)
        bar.update(task, completed=done, total=total or None)
        if not errors.is_terminal and time.monotonic() - last_line > 30:
            last_line = time.monotonic()
            errors.print(f"{what}  {done:,} of {total:,}  {_time_left(row)} left" if total else f"{what}  {done:,}")

    with bar:
        yield update

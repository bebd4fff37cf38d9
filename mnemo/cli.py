"""The command line. Nothing heavy is imported before a command needs it, so that help is there at once."""

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from .files import InputError, ToldElsewhere, one_line

if TYPE_CHECKING:
    from .fewshot.experiment import Experiment
    from .tasks import Task

SEED = 1993
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def _fail(message: str, code: int = 2) -> NoReturn:
    errors.print(f"[bold red]mnemo:[/] {escape(message)}")
    raise typer.Exit(code)


class _Commands(TyperGroup):
    """Commands whose foreseeable failures end in one line: wrong input, a disk that refuses (2), interruption (130)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            for note in getattr(error, "__notes__", []):  # the traceback of a worker that nobody foresaw
                errors.print(note, markup=False)
            _fail(one_line(error))
        except OSError as error:
            _fail(one_line(error))
        except ToldElsewhere as error:
            raise typer.Exit(error.code) from None
        except KeyboardInterrupt:
            _fail("interrupted", 130)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Class-incremental learning with optimised exemplars (Mnemonics), and the baselines to compare it with.",
    epilog="Start with `mnemo run`, and open the report that it names.",
)
data = typer.Typer(no_args_is_help=True, help="Find, check, fetch and import data sets.")
app.add_typer(data, name="data")

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="MNEMO_DATA_DIR", help="Folder of data sets.", show_default="mnemo in the user's cache folder"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mnemo {importlib.metadata.version('mnemo-cil')}")
        raise typer.Exit()


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if context.invoked_subcommand != "run" and "WORLD_SIZE" in os.environ:
        from . import distributed

        distributed.refuse(f"mnemo {context.invoked_subcommand}")


@app.command()
def run(
    protocol: Annotated[str, typer.Argument(help="A name from `mnemo list`, or the path of a TOML file.")] = "digits",
    strategy: Annotated[
        str, typer.Option("--strategy", "-s", metavar="NAME[,NAME...]", help="A name from `mnemo list`, or several.")
    ] = "mnemonics",
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the run, or of the folders STRATEGY-SEED of several.",
            show_default="runs/PROTOCOL-STRATEGY-SEED, or runs/PROTOCOL for several",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the class order and of all that is drawn.", show_default=str(SEED))
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEED,SEED...", help="Several, each a run of its own, side by side.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of protocol or strategy; again and again."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="Take over the trained base network of another run (same data, network and seed)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Learn a protocol's phases with a strategy, and report.

    Leaves run.json, report.html, forgetting.png, exemplars.png and checkpoints in the run's folder.

    Examples:

    `mnemo run` - the digits that come with scikit-learn, with Mnemonics

    `mnemo run cifar100-b50-n5 --strategy lucir --set epochs=30 --set per_class=10`

    `mnemo run cifar100-b50-n5 --strategy mnemonics --set on=icarl --resume`

    `mnemo run digits --strategy lucir,mnemonics --seeds 1993,1,2` - six runs side by side, and a report of all
    """
    from . import protocols
    from .tasks import Task, combinations

    strategies, numbers = _strategies(strategy), _seeds(seed, seeds)
    values = dict(_setting(text) for text in settings or [])
    if base is not None and len(numbers) > 1:
        raise InputError("--base: a base network belongs to one seed; give one")
    chosen = protocols.load(protocol)
    several = len(strategies) * len(numbers) > 1
    folder = out or Path("runs") / (chosen.name if several else f"{chosen.name}-{strategies[0]}-{numbers[0]}")
    command = shlex.join(["mnemo", *sys.argv[1:]])
    task = Task(chosen, strategies[0], numbers[0], folder, values, data_dir, device, base, resume, command)
    if several:
        tasks = combinations(task, strategies, numbers)
        given = [(_setting(text)[0], text) for text in settings or []]
        tasks = [dataclasses.replace(each, command=_command(protocol, each, given)) for each in tasks]
        _run_side_by_side(tasks, folder, quiet)
    else:
        _run_alone(task, quiet)


def _run_alone(task: "Task", quiet: bool) -> None:
    from . import console, distributed, engine, experiment, machine, report

    engine.keep_freed_memory()
    with _resumable(task.folder), distributed.group(machine.device(task.device)):
        prepared = task.prepare(task.device)
        machine.use_one_thread_if_small(prepared.learner.strategy.backbone)
        telling = distributed.is_first()
        with console.Display(prepared, quiet or not telling) as display:
            for event in experiment.execute(prepared, task.folder, resume=task.resume, base=task.base):
                display.show(event)
        if telling:
            page = report.write([prepared.run], task.folder)
            if not quiet:
                console.summary(prepared.run, page)


def _run_side_by_side(tasks: Sequence["Task"], out: Path, quiet: bool) -> None:
    from . import console, distributed, record, report, side_by_side
    from .tasks import plan

    distributed.refuse("several runs side by side")

    plans = plan(tasks)
    out.mkdir(parents=True, exist_ok=True)
    with _resumable(out):
        with console.SideBySide(plans, quiet) as display, contextlib.closing(side_by_side.execute(plans)) as told:
            for name, message in told:
                display.show(name, message)
        runs = [record.load(task.folder) for task in tasks]
        page = report.write(runs, out)
    if not quiet:
        console.comparison(runs, page)


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _fail(f"interrupted; go on with --resume ({folder})", 130)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _strategies(text: str) -> list[str]:
    names = _items("--strategy", text)
    _refuse_twice("--strategy", text, names)
    return names


def _seeds(seed: int | None, seeds: str | None) -> list[int]:
    if seeds is None:
        return [SEED if seed is None else seed]
    if seed is not None:
        raise InputError("--seed and --seeds: give one of them")
    items = _items("--seeds", seeds)
    for item in items:
        if not re.fullmatch("[0-9]{1,10}", item) or int(item) >= 2**32:
            raise InputError(f"--seeds {seeds}: {item} is not a whole number between 0 and {2**32 - 1}")
    numbers = [int(item) for item in items]
    _refuse_twice("--seeds", seeds, numbers)
    return numbers


def _items(option: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if "" in items:
        raise InputError(f"{option} {text}: there is an empty item between commas")
    return items


def _refuse_twice(option: str, text: str, items: Sequence[object]) -> None:
    if twice := [item for item in items if items.count(item) > 1]:
        raise InputError(f"{option} {text}: {twice[0]} comes twice")


def _command(protocol: str, task: "Task", given: Sequence[tuple[str, str]]) -> str:
    """The command that repeats one of several runs alone.

    Args:
        given: names of settings, with what was written after ``--set``.
    """
    options = [
        ("--strategy", task.strategy),
        ("--seed", task.seed),
        ("--out", task.folder),
        ("--data-dir", task.data_dir),
        ("--device", task.device),
        ("--base", task.base),
        *(("--set", text) for key, text in given if key in task.values),
    ]
    flags = [part for option, value in options if value is not None for part in (option, str(value))]
    return shlex.join(["mnemo", "run", protocol, *flags])


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, where VALUE is read as TOML if it can be, and else as a string."""
    import tomllib

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"--set {text}: write KEY=VALUE")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


@app.command()
def fewshot(
    method: Annotated[str, typer.Argument(help="A few-shot method's name from `mnemo list`.")],
    data: Annotated[str, typer.Option(help="A few-shot data set's name from `mnemo list`.")] = "glyphs",
    way: Annotated[int, typer.Option(min=2, help="Classes of a task.")] = 5,
    shot: Annotated[int, typer.Option(min=1, help="Images of each class to learn from.")] = 1,
    queries: Annotated[int, typer.Option(min=1, help="Images of each class to be named.")] = 15,
    unlabelled: Annotated[
        int | None, typer.Option(min=0, help="Images of each class without a label.", show_default="the method's own")
    ] = None,
    distractors: Annotated[int, typer.Option(min=0, help="Classes of which there are unlabelled images alone.")] = 0,
    episodes: Annotated[int, typer.Option(min=1, help="Test tasks.")] = 2000,
    episode_file: Annotated[
        Path | None, typer.Option(help="Read the test tasks from here, such as another run's episodes.json.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of another run on the same tasks: the difference is reported in pairs.")
    ] = None,
    pretrained: Annotated[Path, typer.Option(help="Folder of pre-trained backbones, which runs share.")] = Path(
        "runs/pretrained"
    ),
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/DATA-METHOD-SHOT-SEED")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the tasks and of all that is drawn.")] = SEED,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; again and again.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Learn to learn from few images: pre-train, meta-train, and evaluate on tasks of classes never seen.

    Leaves run.json, report.html, accuracy.png, accuracies.json, episodes.json and checkpoints in the run's folder.

    Examples:

    `mnemo fewshot mtl` - characters of the typefaces that matplotlib brings along

    `mnemo fewshot rfs --data fc100 --shot 5 --set backbone=conv4 --set pretrain_epochs=20`

    `mnemo fewshot lst --data fc100 --unlabelled 30 --distractors 3 --baseline runs/fc100-mtl-1-1993`
    """
    from .fewshot import experiment

    folder = out or Path("runs") / f"{data}-{method}-{shot}-{seed}"
    asked = experiment.Asked(way, shot, queries, unlabelled, distractors, episodes, episode_file)
    prepared = experiment.prepare(
        method,
        data,
        dict(_setting(text) for text in settings or []),
        asked,
        baseline=baseline,
        seed=seed,
        data_dir=data_dir,
        device=device,
        command=shlex.join(["mnemo", *sys.argv[1:]]),
    )
    _solve_tasks(prepared, folder, pretrained, resume, quiet)


def _solve_tasks(prepared: "Experiment", folder: Path, pretrained: Path, resume: bool, quiet: bool) -> None:
    from . import console, engine, report
    from .fewshot import experiment

    engine.keep_freed_memory()
    with _resumable(folder):
        with console.Stages(prepared.run, quiet) as display:
            for event in experiment.execute(prepared, folder, pretrained, resume=resume):
                display.show(event)
        page = report.write([prepared.run], folder)
    if not quiet:
        console.fewshot_summary(prepared.run, page)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or their run.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("report"),
) -> None:
    """Draw one run, or several side by side: forgetting curves, accuracy matrices, exemplars, tables.

    Of few-shot runs: accuracies and their differences task by task, validation curves, test tasks image by image. Runs
    that differ by their seed alone are drawn as one, with their spread.

    Examples:

    `mnemo report runs/digits-* --out report`

    `mnemo report runs/glyphs-mtl-1-1993 runs/glyphs-protonet-1-1993` - few-shot runs
    """
    from . import report as pages

    loaded = [pages.load(path) for path in runs]
    print(pages.write(loaded, out, runs))


@app.command("list")
def list_() -> None:
    """Show protocols, strategies, few-shot methods, data sets and networks."""
    from . import console

    console.catalogue()


@data.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """Show the data sets that are known or found."""
    from . import console, datasets

    console.data_sets(datasets.available(data_dir))


@data.command("check")
def data_check(name: str, data_dir: DataDir = None) -> None:
    """Read a data set, and say what it holds."""
    from . import console, datasets

    with console.progress("reading") as update:
        text = datasets.check(name, data_dir, update)
    print(text)


@data.command("fetch")
def data_fetch(name: str, data_dir: DataDir = None) -> None:
    """Download a data set, and turn it into arrays."""
    from . import console, datasets

    with console.progress("fetching") as update:
        text = datasets.fetch(name, data_dir, update)
    print(text)


@data.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="An image folder, a folder of arrays, or CIFAR-100's archive.")],
    name: Annotated[str | None, typer.Option(help="Of the new data set.", show_default="the source's own")] = None,
    data_dir: DataDir = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Resize pictures so that their shorter side has this many pixels.")
    ] = None,
) -> None:
    """Turn images into arrays in the data folder, where every later run finds them at once.

    Example:

    `mnemo data import ~/ILSVRC2012 --name imagenet-subset`
    """
    from . import console, datasets

    with console.progress("importing") as update:
        folder = datasets.import_(source, name, data_dir, image_size, update)
    print(folder)


def main() -> None:
    """Entry point of the ``mnemo`` command. SIGTERM is taken for Ctrl-C, so that it too ends in good order."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="mnemo")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is over cannot be interrupted


if __name__ == "__main__":
    main()

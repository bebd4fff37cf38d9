"""The command line. Nothing heavy is imported before a command needs it, so that help is there at once."""

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from . import shortage
from .disk.files import InputError, ToldElsewhere, one_line
from .visible import in_a_line, on_a_page

if TYPE_CHECKING:
    from . import experiment as experiments
    from .fewshot.experiment import Experiment
    from .record import EvaluatedOn, Run
    from .repeat import Record
    from .sweeps.messages import Failed
    from .sweeps.sweep import Resources
    from .sweeps.tasks import Task

SEED = 1993
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def _fail(message: str, code: int = 2) -> NoReturn:
    errors.print(f"[bold red]mnemo:[/] {escape(in_a_line(message))}")
    raise typer.Exit(code)


class _Commands(TyperGroup):
    """Commands whose foreseeable failures end in one line.

    Wrong input, a disk that refuses, too little memory: 2. Interruption: 130.
    """

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
        except (MemoryError, RuntimeError, ImportError) as error:
            if shortage.of_memory(error):
                _fail(shortage.line(error))
            if "does not have a deterministic implementation" not in str(error):
                raise
            _fail(f"--deterministic: {str(error).partition(', but')[0]}")
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
data = typer.Typer(no_args_is_help=True, help="Find, check, pack, fetch and import data sets.")
app.add_typer(data, name="data")

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="MNEMO_DATA_DIR", help="Folder of data sets.", show_default="mnemo in the user's cache folder"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto, or that of --from")]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN.JSON", help="Repeat a recorded run, and say whether the same comes out."),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="Only algorithms that give the same bits again; on a GPU this costs speed."),
]


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
    context: typer.Context,
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
    device: Device = None,
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
    from_: From = None,
    deterministic: Deterministic = False,
    quiet: Quiet = False,
) -> None:
    """Learn a protocol's phases with a strategy, and report.

    Leaves run.json, report.html, forgetting.png, exemplars.png and checkpoints in the run's folder.

    Examples:

    `mnemo run` - the digits that come with scikit-learn, with Mnemonics

    `mnemo run cifar100-b50-n5 --strategy lucir --set epochs=30 --set per_class=10`

    `mnemo run cifar100-b50-n5 --strategy mnemonics --set on=icarl --resume`

    `mnemo run digits --strategy lucir,mnemonics --seeds 1993,1,2` - six runs side by side, and a report of all

    `mnemo run --from runs/digits-lucir-1993/run.json` - the same run again; exit code 1 if other figures come out
    """
    from . import protocols, record, repeat
    from .sweeps.tasks import Task, combinations

    command = shlex.join(["mnemo", *sys.argv[1:]])
    if from_ is not None:
        _refuse_beside_from(context, "data_dir", "out", "device", "base", "resume", "deterministic", "quiet")
        recorded = record.load(from_)
        again = out or Path("runs") / f"{recorded.protocol}-{recorded.strategy}-{recorded.seed}-again"
        task = repeat.task(recorded, again, from_)
        task = dataclasses.replace(
            task,
            data_dir=data_dir,
            device=device or task.device,
            base=base,
            resume=resume,
            command=command,
            deterministic=deterministic or task.deterministic,
        )
        _repeat_run(task, recorded, from_, quiet)
        return
    strategies, numbers = _strategies(strategy), _seeds(seed, seeds)
    values = dict(_setting(text) for text in settings or [])
    if base is not None and len(numbers) > 1:
        raise InputError("--base: a base network belongs to one seed; give one")
    chosen = protocols.load(protocol)
    several = len(strategies) * len(numbers) > 1
    folder = out or Path("runs") / (chosen.name if several else f"{chosen.name}-{strategies[0]}-{numbers[0]}")
    task = Task(
        chosen,
        strategies[0],
        numbers[0],
        folder,
        values,
        data_dir,
        device or "auto",
        base,
        resume,
        command,
        deterministic,
    )
    if several:
        tasks = combinations(task, strategies, numbers)
        given = [(_setting(text)[0], text) for text in settings or []]
        tasks = [dataclasses.replace(each, command=_command(protocol, each, given)) for each in tasks]
        _run_side_by_side(tasks, folder, quiet)
    else:
        _run_alone(task, quiet)


def _run_alone(task: "Task", quiet: bool) -> None:
    from . import machine

    with _sharing(task):
        prepared = _prepared(task)
        machine.use_one_thread_if_small(prepared.learner.strategy.backbone)
        _learn(prepared, task, quiet)


@contextlib.contextmanager
def _sharing(task: "Task") -> Iterator[None]:
    """The group of the processes that carry out a task, while the block lasts; most often it is this one alone."""
    from . import distributed, machine

    _take_over_process(task.deterministic)
    with _resumable(task.folder), distributed.group(machine.device(task.device)):
        yield


def _prepared(task: "Task") -> "experiments.Experiment":
    from . import console

    with console.progress("packing pictures") as update:
        return task.prepare(task.device, update)


def _learn(prepared: "experiments.Experiment", task: "Task", quiet: bool) -> None:
    from . import console, distributed, experiment, report

    telling = distributed.is_first()
    with console.Display(prepared, quiet or not telling) as display:
        for event in experiment.execute(prepared, task.folder, resume=task.resume, base=task.base):
            display.show(event)
    if telling:
        page = report.write([prepared.run], task.folder)
        if not quiet:
            console.summary(prepared.run, page)


def _repeat_run(task: "Task", recorded: "Run", path: Path, quiet: bool) -> None:
    from . import distributed, machine, repeat

    with _sharing(task):
        prepared = _prepared(task)
        if recorded.threads:
            machine.use_threads(recorded.threads)
        else:
            machine.use_one_thread_if_small(prepared.learner.strategy.backbone)
        repeat.refuse_another(recorded, prepared.run, path)
        if distributed.is_first():
            _warn(repeat.warnings(recorded, prepared.run))
        _learn(prepared, task, quiet)
        telling = distributed.is_first()
    _tell_whether_same(recorded, prepared.run, path, quiet or not telling)


def _refuse_beside_from(context: typer.Context, *own: str) -> None:
    """Raise InputError where more was given than the parameters ``own``: a record says the rest itself."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in ("from_", *own) and source is not None and source.name == "COMMANDLINE":
            name = parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.name).upper()
            raise InputError(f"--from repeats a run as it was recorded: leave {name} out")


def _tell_whether_same(recorded: "Record", run: "Record", path: Path, quiet: bool) -> None:
    from . import console, repeat

    lines = repeat.differences(recorded, run)
    if not quiet:
        console.repetition(lines, path)
    if lines:
        raise typer.Exit(1)


def _run_side_by_side(tasks: Sequence["Task"], out: Path, quiet: bool) -> None:
    from . import console, distributed, record, report
    from .sweeps import side_by_side
    from .sweeps.tasks import plan

    distributed.refuse("several runs side by side")
    _take_over_process(tasks[0].deterministic)  # which a task that is complete is compared with
    with console.progress("packing pictures") as update:
        plans = plan(tasks, update)
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
        _fail(f"interrupted; go on with --resume ({folder})" if folder.exists() else "interrupted", 130)


def _take_over_process(deterministic: bool) -> None:
    from . import engine, machine

    engine.keep_freed_memory()
    if deterministic:
        machine.use_deterministic_algorithms()


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        errors.print(f"[bold yellow]mnemo:[/] warning: {escape(line)}")


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
    flags += ["--deterministic"] if task.deterministic else []
    return shlex.join(["mnemo", "run", protocol, *flags])


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, where VALUE is read as TOML if it can be, and else as a string."""
    from .disk.documents import from_toml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"--set {text}: write KEY=VALUE")
    try:
        return key.strip(), from_toml(f"value = {value}")["value"]
    except ValueError:
        return key.strip(), value


@app.command()
def fewshot(
    context: typer.Context,
    method: Annotated[str | None, typer.Argument(help="A few-shot method's name from `mnemo list`.")] = None,
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
    validation: Annotated[
        bool, typer.Option("--validation", help="Evaluate on tasks of the validation classes, to choose settings by.")
    ] = False,
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
    device: Device = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; again and again.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    from_: From = None,
    deterministic: Deterministic = False,
    quiet: Quiet = False,
) -> None:
    """Learn to learn from few images: pre-train, meta-train, and evaluate on tasks of classes never seen.

    Leaves run.json, report.html, accuracy.png, accuracies.json, episodes.json and checkpoints in the run's folder.

    Examples:

    `mnemo fewshot mtl` - characters of the typefaces that matplotlib brings along

    `mnemo fewshot rfs --data fc100 --shot 5 --set backbone=conv4 --set pretrain_epochs=20`

    `mnemo fewshot lst --data fc100 --unlabelled 30 --distractors 3 --baseline runs/fc100-mtl-1-1993`

    `mnemo fewshot lst --validation --set keep=2 --out runs/keep-2` - to choose a setting without a look at test tasks

    `mnemo fewshot --from runs/glyphs-mtl-1-1993/run.json` - the same run again; exit code 1 if other figures come out
    """
    from . import console
    from .fewshot import experiment

    command = shlex.join(["mnemo", *sys.argv[1:]])
    if from_ is not None:
        own = ("baseline", "pretrained", "data_dir", "out", "device", "resume", "deterministic", "quiet")
        _refuse_beside_from(context, *own)
        theirs = {"baseline": baseline, "data_dir": data_dir, "device": device, "command": command}
        _repeat_tasks(from_, out, pretrained, resume, deterministic, quiet, **theirs)
        return
    if method is None:
        raise InputError("name a few-shot method from `mnemo list`, or a run to repeat with --from")
    _take_over_process(deterministic)
    classes: EvaluatedOn = "validation" if validation else "test"
    folder = out or Path("runs") / "-".join([data, method, str(shot), str(seed), *(["validation"] * validation)])
    asked = experiment.Asked(way, shot, queries, unlabelled, distractors, episodes, episode_file, classes)
    with console.progress("packing pictures") as update:
        prepared = experiment.prepare(
            method,
            data,
            dict(_setting(text) for text in settings or []),
            asked,
            baseline=baseline,
            seed=seed,
            data_dir=data_dir,
            device=device or "auto",
            command=command,
            progress=update,
        )
    _solve_tasks(prepared, folder, pretrained, resume, quiet)


def _repeat_tasks(
    path: Path, folder: Path | None, pretrained: Path, resume: bool, deterministic: bool, quiet: bool, **own: Any
) -> None:
    """Args: ``own`` of :func:`mnemo.fewshot.experiment.prepare`."""
    from . import machine, repeat
    from .fewshot import experiment, record

    recorded = record.load(path)
    _take_over_process(deterministic or recorded.deterministic)
    if recorded.threads:
        machine.use_threads(recorded.threads)
    asked = repeat.asked(recorded, path if path.is_dir() else path.parent)
    own["device"] = own["device"] or recorded.device
    prepared = experiment.prepare(recorded.method, recorded.data, recorded.config, asked, seed=recorded.seed, **own)
    repeat.refuse_another(recorded, prepared.run, path)
    _warn(repeat.warnings(recorded, prepared.run))
    again = Path("runs") / f"{recorded.data}-{recorded.method}-{recorded.shot}-{recorded.seed}-again"
    _solve_tasks(prepared, folder or again, pretrained, resume, quiet)
    _tell_whether_same(recorded, prepared.run, path, quiet)


def _solve_tasks(prepared: "Experiment", folder: Path, pretrained: Path, resume: bool, quiet: bool) -> None:
    from . import console, report
    from .fewshot import experiment

    with _resumable(folder):
        with console.Stages(prepared.run, quiet) as display:
            for event in experiment.execute(prepared, folder, pretrained, resume=resume):
                display.show(event)
        page = report.write([prepared.run], folder)
    if not quiet:
        console.fewshot_summary(prepared.run, page)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A TOML file: protocols, seeds, strategies, settings and resources.")],
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of a cluster of Ray, as in ray.init.", show_default="this machine"),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the runs' folders.", show_default="runs/FILE")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Pass over runs that are complete, and go on with the others.")
    ] = False,
    deterministic: Deterministic = False,
    quiet: Quiet = False,
) -> None:
    """Run every strategy on every protocol with every seed, through Ray, and report.

    Each run is one of `mnemo run`, in a folder of its own. If its worker is lost it goes on from its checkpoint in
    another; if it fails the others go on, and the exit code is 1. Needs the extra: `pip install 'mnemo-cil[ray]'`.

    Examples:

    `mnemo sweep sweep.toml` - on the cores of this machine

    `mnemo sweep sweep.toml --ray auto --out /shared/sweep --data-dir /shared/data --resume` - on a cluster
    """
    from .protocols import load
    from .sweeps import sweep as sweeps
    from .sweeps.tasks import Task

    asked = sweeps.load(file)
    folder = (out or Path("runs") / file.stem).resolve()  # workers are in other folders
    data_dir = data_dir and data_dir.expanduser().resolve()
    command = shlex.join(["mnemo", *sys.argv[1:]])
    first = load(asked.all_protocols[0])
    common = Task(first, "", 0, folder, {}, data_dir, "auto", None, resume, command, deterministic)
    _sweep(sweeps.tasks(asked, common), asked.resources, ray, folder, quiet)


def _sweep(tasks: Sequence["Task"], resources: "Resources", ray: str | None, folder: Path, quiet: bool) -> None:
    from . import console, record, report
    from .sweeps import sweep as sweeps

    # a run whose worker was lost finds its own beginning, and goes on with it
    todo = [dataclasses.replace(task, resume=True) for task in sweeps.left(tasks)]
    folder.mkdir(parents=True, exist_ok=True)
    failed = _carry_out(todo, len(tasks), resources, ray, folder, quiet) if todo else {}
    runs = [record.load(task.folder) for task in tasks if task.name not in failed]
    page = report.write(runs, folder) if runs else folder
    if not quiet:
        for protocol in dict.fromkeys(run.protocol for run in runs):
            console.comparison([run for run in runs if run.protocol == protocol], page)
    for name, failure in failed.items():
        errors.print(failure.trace, end="", markup=False)
        errors.print(f"[bold red]mnemo:[/] {name}: {escape(failure.line)}")
    if failed:
        raise typer.Exit(1)


def _carry_out(
    todo: Sequence["Task"], runs: int, resources: "Resources", ray: str | None, folder: Path, quiet: bool
) -> dict[str, "Failed"]:
    """Those of ``todo`` that failed; ``runs`` is the number of all runs."""
    from . import console
    from .sweeps import on_ray
    from .sweeps.messages import Failed

    failed = {}
    with (
        _resumable(folder),
        console.Sweep(runs, runs - len(todo), quiet) as display,
        contextlib.closing(on_ray.execute(todo, resources, ray)) as told,
    ):
        for name, message in told:
            display.show(name, message)
            if isinstance(message, Failed):
                failed[name] = message
    return failed


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
    print(in_a_line(pages.write(loaded, out, runs)))


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
    """Read a data set, and say what it holds; pixels that were packed are compared with their checksums."""
    from . import console, datasets

    with console.progress("reading") as update:
        text = datasets.check(name, data_dir, update)
    print(on_a_page(text))


@data.command("pack")
def data_pack(
    name: str,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode.", show_default="one for each core")
    ] = None,
) -> None:
    """Decode the pictures of an image folder, as the first run would do; it goes on where it was interrupted."""
    from . import console, datasets

    with console.progress("packing pictures") as update:
        folder = datasets.pack(name, data_dir, update, workers)
    print(folder)


@data.command("fetch")
def data_fetch(name: str, data_dir: DataDir = None) -> None:
    """Download a data set, and turn it into arrays."""
    from . import console, datasets

    with console.progress("fetching") as update:
        text = datasets.fetch(name, data_dir, update)
    print(in_a_line(text))


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
    print(in_a_line(folder))


def main() -> None:
    """Entry point of the ``mnemo`` command. SIGTERM is taken for Ctrl-C, so that it too ends in good order."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="mnemo")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is over cannot be interrupted


if __name__ == "__main__":
    main()

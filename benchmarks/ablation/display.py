"""What a person sees while the grid is run: how far it is, what runs now, and a line for each job that is over."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .jobs import Job
from .work import Done, Failed, Message, Share


class Display:
    """A live line where there is a terminal.

    Args:
        earlier: cells that were done before.
        jobs: what will be told of.
    """

    def __init__(self, console: Console, earlier: int, jobs: Sequence[Job]) -> None:
        self.failed: list[str] = []
        self._console, self._earlier = console, earlier
        self._of = earlier + sum(job.result is not None for job in jobs)
        self._jobs, self._over = len(jobs), 0
        self._shares: dict[str, float] = {}
        self._began: dict[str, float] = {}
        columns = (MofNCompleteColumn(), BarColumn(bar_width=24), _TimeLeft(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._line = self._progress.add_task("starting", total=self._of, completed=earlier, share=0.0)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, job: Job, message: Message) -> None:
        """Show what is told of a job."""
        self._began.setdefault(job.name, time.monotonic())
        if isinstance(message, Share):
            self._shares[job.name] = message.done
        else:
            self._end(job, message)
        now = ", ".join(f"{name} {share:.0%}" for name, share in self._shares.items())
        share = (self._over + sum(self._shares.values())) / max(self._jobs, 1)
        self._progress.update(self._line, description=escape(now), completed=self._earlier, share=share)

    def _end(self, job: Job, message: Done | Failed) -> None:
        self._shares.pop(job.name, None)
        self._over += 1
        if isinstance(message, Failed):
            self.failed.append(f"{job.name}: {message.line}")
            text = f"failed: {message.line}"
        else:
            self._earlier += job.result is not None
            accuracy = "" if message.accuracy is None else f"accuracy {message.accuracy:.1f} %, "
            text = f"{accuracy}{time.monotonic() - self._began[job.name]:.0f} s"
        self._console.print(f"{self._earlier}/{self._of}  {job.name}: {text}", markup=False, highlight=False)


class _TimeLeft(ProgressColumn):
    """From the share of the jobs that is done."""

    def render(self, task: Task) -> Text:
        share = task.fields["share"]
        if not share or task.elapsed is None:
            return Text("-:--:-- left")
        minutes, seconds = divmod(round(task.elapsed * (1 - share) / share), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left", style="cyan")

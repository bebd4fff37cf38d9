"""Starved memory: from a random moment on a process gets little more than it has."""

import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

from .kills import unsound
from .stages import at
from .trial import Bench, Outcome, Trial, judged

MOST = 64 * 2**20


def trials(bench: Bench, turns: Iterable[int]) -> Iterator[Trial]:
    """A run for each turn, which gets at most 64 MiB more."""
    for _ in turns:
        folder, stage, more = bench.folder(), bench.stage(), bench.random.randrange(MOST)
        occurrence, _ = bench.moment(stage)
        process = bench.start(folder, before=lambda s=stage, o=occurrence, m=more: at(s, o, lambda: _starve(m)))
        code = process.wait()
        outcome: Outcome
        outcome, line = "survived", ""
        if code < 0 or code == 134:  # a library has given up by itself, which is a kill
            line = f"ended by signal {-code if code < 0 else 6}"
        elif code:
            outcome, line = judged(code, process.said, ("memory", "run"))
        broken = unsound(folder)
        if outcome != "lost" and not broken:
            outcome, after = bench.resumed(folder)
            line = after or line
        yield Trial("memory", f"{more // 2**20} MiB more", stage, "lost" if broken else outcome, broken or line)
        bench.done(folder)


def _starve(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))

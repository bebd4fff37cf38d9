"""Damage: bytes that change, and files that are cut, emptied or gone, of every file that mnemo reads back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

from .command import start
from .trial import Bench, Outcome, Trial, judged

Damage = Callable[[bytes, Random], bytes | None]


def _flipped(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :]


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def _blank(content: bytes, random: Random) -> bytes:
    """A sector of zeros."""
    place = random.randrange(len(content))
    return content[:place] + bytes(min(512, len(content) - place)) + content[place + 512 :]


DAMAGES: dict[str, Damage] = {
    "a bit of": _flipped,
    "the end of": _cut,
    "a sector of": _blank,
    "all bytes of": lambda content, random: b"",
    "removed:": lambda content, random: None,
}


def trials(bench: Bench, turns: Iterable[int], cases: Sequence[tuple[str, str]]) -> Iterator[Trial]:
    """A damage for each turn, file by file."""
    for turn in turns:
        pattern, command = cases[turn % len(cases)]
        name = bench.random.choice(list(DAMAGES))
        folder = bench.folder(bench.whole)
        path = bench.random.choice(sorted(folder.glob(pattern)))
        before = path.read_bytes()
        after = DAMAGES[name](before, bench.random)
        path.unlink() if after is None else path.write_bytes(after)
        outcome, line = _read(bench, folder, path, command) if after != before else ("survived", "it was like that")
        yield Trial("damage", f"{name} {_plain(path.relative_to(folder))}", command, outcome, line)
        bench.done(folder)


INCREMENTAL = [
    ("run/checkpoints/latest.safetensors", "resume"),
    ("run/checkpoints/base.safetensors", "base"),
    ("run/run.json", "report"),
    ("run/checksums.json", "report"),
]
FEW_SHOT = [
    ("run/checkpoints/latest.safetensors", "resume"),
    ("run/run.json", "report"),
    ("run/accuracies.json", "baseline"),
    ("run/run.json", "baseline"),
    ("run/episodes.json", "episode file"),
    ("run/checksums.json", "baseline"),
    ("pretrained/*.safetensors", "pretrained"),
    ("data/tiered-imagenet/.packed-*/*", "data"),
]
"""Files that are read, and by what."""
RESULTS = ("accuracy", "interval", "phase_accuracy", "exemplars", "outcomes", "curves", "validation", "complete")
"""What a run that takes something over from another has in common with it."""


def _read(bench: Bench, folder: Path, path: Path, command: str) -> tuple[Outcome, str]:
    """What becomes of a command that reads the damaged file: as without the damage, or a line that names it."""
    if command == "resume":
        return bench.resumed(folder, (path.name,))
    more = {
        "base": ["--base", "run", "--out", "other"],
        "baseline": ["--baseline", "run", "--out", "other"],
        "episode file": ["--episode-file", "run/episodes.json", "--out", "other"],
        "pretrained": ["--out", "other"],
        "data": ["--out", "other"],
    }
    line = ["report", "run", "--out", "other"] if command == "report" else [*bench.arguments, *more[command]]
    process = start(line, folder)
    code = process.wait()
    if code:
        return judged(code, process.said, (path.name,))
    if command != "report":
        return bench.compared(folder / "other", RESULTS)
    return ("survived", "") if _same_report(bench, folder) else ("lost", "the report is another")


def _same_report(bench: Bench, folder: Path) -> bool:
    """Whether the one in ``other`` is what an undisturbed folder gives."""
    undisturbed = bench.folder(bench.whole)
    start(["report", "run", "--out", "other"], undisturbed).wait()
    same = (folder / "other" / "report.html").read_bytes() == (undisturbed / "other" / "report.html").read_bytes()
    bench.done(undisturbed)
    return same


def _plain(path: Path) -> str:
    """Without names that are made of digests."""
    return path.name if path.parts[0] != "pretrained" else "a pre-trained backbone"

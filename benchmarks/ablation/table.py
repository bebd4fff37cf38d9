"""The table in Markdown and in the terminal: reported seeds, then those on which defaults were chosen."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .blocks import Block, blocks
from .jobs import command
from .plan import Ablation
from .results import Found

NOTES = (
    "Average incremental accuracy in %, forgetting rate in points (less is better): mean ± sample standard deviation "
    "(number of seeds). Difference: average accuracy minus that of {control} with the same budget and seeds, in "
    "points; p of a two-sided paired t-test, not corrected for the number of tests. Seconds of compression: all stages "
    "of a phase but training, fine-tuning and evaluation; total seconds have the base network in them, which all "
    "methods share. Peak: the most of all seeds. RMS displacement: how far exemplars are from the images that they "
    "started as, in grey levels."
)


def markdown(plan: Ablation, found: Found, noted: dict[str, dict[str, Any]]) -> str:
    """The whole file."""
    parts = [plan.about] if plan.about else []
    for heading, some in _tables(plan, found):
        parts += [f"## {heading}", *(_markdown_block(block) for block in some)]
    return "\n\n".join([*parts, *_provenance(plan, found, noted)]) + "\n"


def _tables(plan: Ablation, found: Found) -> Iterator[tuple[str, list[Block]]]:
    yield "Results", blocks(plan, found, plan.seeds_of)
    if plan.choose:
        seeds = ", ".join(map(str, plan.choose))
        yield f"Seeds on which defaults were chosen ({seeds})", blocks(plan, found, plan.chosen_on)


def _markdown_block(block: Block) -> str:
    ruler = ["---", *["---:"] * (len(block.head) - 1)]
    lines = [block.head, ruler, *([cell.replace("|", "\\|") for cell in line] for line in block.lines)]
    return "\n".join([f"### {block.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _provenance(plan: Ablation, found: Found, noted: dict[str, dict[str, Any]]) -> list[str]:
    control = next(row.title for row in plan.rows if row.name == plan.control)
    runs, parts = list(found.values()), [f"Seeds {', '.join(map(str, plan.seeds))}"]
    parts += sorted({run.hardware for run in runs})
    parts += sorted({", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in runs})
    names = [f"{row}-b{budget}-s{seed}" for row, budget, seed in found]
    parts += _measured([noted[name] for name in names if name in noted])
    return [NOTES.format(control=control), f"{'; '.join(part for part in parts if part)}; `{command(plan)}`."]


def _measured(notes: list[dict[str, Any]]) -> list[str]:
    if not notes:
        return []
    days = sorted({note["date"][:10] for note in notes})
    commits = ", ".join(dict.fromkeys(note["commit"] for note in sorted(notes, key=lambda note: note["date"])))
    beside = " or ".join(map(str, sorted({note["processes"] for note in notes})))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return [f"measured {when}", f"commit {commits}" if commits else "", f"{beside} at once"]


def show(console: Console, plan: Ablation, found: Found) -> None:
    """The tables in the terminal."""
    for heading, some in _tables(plan, found):
        for block in some:
            table = Table(title=f"{heading}: {block.title}", title_justify="left", title_style="bold")
            for name in block.head:
                table.add_column(name, justify="left" if name == "method" else "right")
            for line in block.lines:
                table.add_row(*map(escape, line))
            console.print(table)

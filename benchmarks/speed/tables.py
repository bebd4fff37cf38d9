"""What a run shows in the terminal."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .section import Bar, Section
from .timing import Variant


def show(console: Console, section: Section) -> None:
    """A section's variants, ratios and notes."""
    console.print(_variants(section))
    if "curves" in section.figures:
        console.print(_exponents(section))
    if section.ratios:
        console.print(_ratios(section))
    for variant in section.variants:
        if variant.note:
            console.print(f"  {variant.name}: {variant.note}", style="dim")
    for name, figure in section.figures.items():
        if name != "curves":
            console.print(f"  {name}: {_figure(figure)}", style="dim")
    for note in section.notes:
        console.print(f"  {note}", style="dim")


def _figure(figure: object) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{name} {value:.3g}" for name, value in figure.items())
    return f"{figure:.3g}" if isinstance(figure, float) else str(figure)


def _variants(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.add_column("variant")
    for column in ("rate", "s a call", "least", "most", "of processor", "peak MiB"):
        table.add_column(column, justify="right")
    for variant in section.variants:
        table.add_row(variant.name, *_cells(variant))
    return table


def _cells(variant: Variant) -> list[str]:
    seconds = [seconds for seconds, _ in variant.samples]
    rate = "" if variant.unit == "s" else _rate(variant)
    peak = f"{variant.peak:.0f}" if variant.peak_mib else ""
    processor = statistics.median(variant.processor_seconds)
    return [rate, *(f"{value:.3g}" for value in (variant.seconds, min(seconds), max(seconds), processor)), peak]


def _rate(variant: Variant) -> str:
    if variant.unit == "FLOP/s":
        return f"{variant.rate / 1e9:.1f} GFLOP/s"
    return f"{variant.rate:,.1f} {variant.unit}" if variant.rate < 1000 else f"{variant.rate:,.0f} {variant.unit}"


def _ratios(section: Section) -> Table:
    table = Table("ours", "peer", title="times as fast", title_justify="left")
    for column in ("ratio", "least", "most"):
        table.add_column(column, justify="right")
    for ratio in section.ratios:
        table.add_row(ratio.ours, ratio.peer, *(f"{value:.2f}" for value in (ratio.value, ratio.low, ratio.high)))
    return table


def _exponents(section: Section) -> Table:
    table = Table("of", "against", title="exponents", title_justify="left")
    for column in ("expected", "fitted", "points", ""):
        table.add_column(column, justify="right")
    for curve in section.figures["curves"]:
        points = ", ".join(f"{value:.3g}" for value in curve["values"])
        verdict = "[bold red]faster than the work[/]" if curve["too_fast"] else ""
        what = f"{curve['work']}: {curve['quantity']}"
        table.add_row(what, curve["driver"], f"{curve['expected']:g}", f"{curve['exponent']:.2f}", points, verdict)
    return table


def show_bars(console: Console, sections: Sequence[Section]) -> None:
    """What was to be reached, and whether it was."""
    table = Table("section", "what", title="Bars", title_justify="left", title_style="bold")
    for column in ("to reach", "measured"):
        table.add_column(column, justify="right")
    table.add_column("")
    for section in sections:
        for bar in section.bars:
            table.add_row(section.name, bar.text, *_bar(bar))
    console.print(table)


def _bar(bar: Bar) -> tuple[str, str, str]:
    limit = f"{'at most' if bar.at_most else 'at least'} {bar.limit:.2f}"
    if bar.value is None:
        return limit, "", escape(f"not measured. {bar.note}")
    return limit, f"{bar.value:.2f}", "[green]met[/]" if bar.met else "[bold red]missed[/]"

"""The tables of docs/speed.md, written from records and from nothing else.

    python -m benchmarks.speed.page

Of each section the newest record of a whole run counts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..suite import write_table

RECORDS = Path(__file__).parent.parent / "results" / "speed" / "runs"
PAGE = Path(__file__).parent.parent.parent / "docs" / "speed.md"
Found = tuple[dict[str, Any], dict[str, Any]]
"""A record and one of its sections."""


def main() -> None:
    """Write the page's tables."""
    found = newest(RECORDS)
    write_table("speed-bars", "\n".join(_bars(found)), PAGE)
    write_table("speed-times", "\n".join(_times(found)), PAGE)
    write_table("speed-growth", "\n".join(_growth(found)), PAGE)


def newest(folder: Path) -> dict[str, Found]:
    """For each section the newest record that has it."""
    found: dict[str, Found] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["quick"]:
            found |= {name: (record, section) for name, section in record["sections"].items()}
    return found


def _bars(found: dict[str, Found]) -> Iterator[str]:
    yield "| section | what | to reach | measured | met |"
    yield "|---|---|---|---|---|"
    for name, (_, section) in found.items():
        for bar in section["bars"]:
            limit = f"{'at most' if bar['at_most'] else 'at least'} {bar['limit']:g}"
            value = "not yet measured" if bar["value"] is None else f"{bar['value']:.2f}"
            verdict = {True: "yes", False: "no", None: ""}[bar["met"]]
            yield f"| {name} | {bar['text']} | {limit} | {value} | {verdict} |"
    yield ""
    yield from _provenance(found)


def _times(found: dict[str, Found]) -> Iterator[str]:
    yield "| section | variant | rate | seconds a call | samples | peak memory, MiB |"
    yield "|---|---|---|---|---|---|"
    for name, (_, section) in found.items():
        if name != "growth":
            for variant, values in section["variants"].items():
                yield f"| {name} | {variant} | {_rate(values)} | {_cells(values)} |"


def _cells(values: dict[str, Any]) -> str:
    peak = f"{values['median_peak_mib']:.0f}" if "peak_mib" in values else ""
    return f"{values['median_seconds']:.3g} | {len(values['seconds'])} | {peak}"


def _rate(values: dict[str, Any]) -> str:
    if values["unit"] == "s":
        return ""
    if values["unit"] == "FLOP/s":
        return f"{values['median_rate'] / 1e9:.1f} GFLOP/s"
    return f"{values['median_rate']:,.0f} {values['unit']}"


def _growth(found: dict[str, Found]) -> Iterator[str]:
    yield "| of | against | quantity | expected exponent | fitted |"
    yield "|---|---|---|---|---|"
    for curve in found["growth"][1]["figures"]["curves"] if "growth" in found else []:
        fitted = f"{curve['exponent']:.2f}{' (faster than the work)' if curve['too_fast'] else ''}"
        yield f"| {curve['work']} | {curve['driver']} | {curve['quantity']} | {curve['expected']:g} | {fitted} |"


def _provenance(found: dict[str, Found]) -> Iterator[str]:
    records = {record["date"]: record for record, _ in found.values()}
    for record in records.values():
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        names = ", ".join(name for name, (whose, _) in found.items() if whose["date"] == record["date"])
        yield (
            f"{names}: `{record['command']}`, commit {record['commit'][:7]}, {record['date'][:10]}, "
            f"{record['hardware']}, {record['images']}; {versions}."
        )
        yield ""


if __name__ == "__main__":
    main()

"""How far a run that several processes share is from the run of one process, and how long both take.

python -m benchmarks.distributed               # runs, records, and fills the table in docs/distributed.md
python -m benchmarks.distributed --table       # the table alone, from what is recorded

Every variant is a run of its own in processes of its own: the same protocol, strategy and seed in single and in double
precision, by one process with one thread, by one with two, and by two processes with one thread each. What is compared
with the first of the same precision is what the network says of the test images (logits) after the first phase
and after the last, the accuracies, and the pixels of the exemplars.
"""

import argparse
import datetime
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from mnemo import distributed, experiment, machine, protocols, record
from mnemo.compression import logits
from mnemo.learner import PhaseDone

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "benchmarks" / "results" / "distributed" / "digits" / "measured.json"
PAGE = ROOT / "docs" / "distributed.md"
SETTINGS = {"epochs": 5, "exemplar_epochs": 2, "adjust_epochs": 2, "fine_tune_epochs": 5}
SEED = 1993
VARIANTS = [
    (dtype, processes, threads) for dtype in ("float32", "float64") for processes, threads in ((1, 1), (1, 2), (2, 1))
]


def work(rank: int, port: int, dtype: str, processes: int, threads: int, folder: Path) -> None:
    """One process of one variant; the first one leaves what is compared."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    with distributed.group(torch.device("cpu")):
        prepared = experiment.prepare(protocols.load("digits"), "mnemonics", SETTINGS, seed=SEED, device="cpu")
        learner, stream = prepared.learner, prepared.stream
        said = []
        for event in experiment.execute(prepared, folder):
            if isinstance(event, PhaseDone):
                groups = [stream.test(group) for group in range(event.phase + 1)]
                said.append(torch.cat([logits(learner.net, images) for images in groups]))
        if distributed.is_first():
            assert learner.memory.images is not None
            found = {"first": said[0], "last": said[-1], "exemplars": learner.memory.images.pixels}
            torch.save(found, folder / "found.pt")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def measure() -> dict[str, Any]:
    """Carry out all variants, and compare each with the run of one process and thread in its precision."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = {variant: Path(scratch, "-".join(map(str, variant))) for variant in VARIANTS}
        for (dtype, processes, threads), folder in folders.items():
            arguments = (free_port(), dtype, processes, threads, folder)
            torch.multiprocessing.start_processes(work, arguments, processes, start_method="fork")
            print(dtype, processes, threads, flush=True)
        expected: dict[str, Any] = {}
        for (dtype, processes, threads), folder in folders.items():
            found = {**torch.load(folder / "found.pt", weights_only=True), "run": record.load(folder)}
            variant = {"dtype": dtype, "processes": processes, "threads": threads}
            rows.append({**variant, **compared(found, expected.setdefault(dtype, found))})
    about = {
        "command": "python -m benchmarks.distributed",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "protocol": "digits",
        "strategy": "mnemonics",
        "settings": SETTINGS,
        "seed": SEED,
        "hardware": machine.hardware(torch.device("cpu")),
        "versions": machine.versions(),
        "load_average": list(os.getloadavg()),
    }
    return {**about, "rows": rows}


def compared(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Greatest distances, and what came of them."""
    ours, theirs = found["run"], expected["run"]
    return {
        "logits_first": float((found["first"] - expected["first"]).abs().max()),
        "logits_last": float((found["last"] - expected["last"]).abs().max()),
        "largest_logit": float(expected["last"].abs().max()),
        "named_otherwise": int((found["last"].argmax(1) != expected["last"].argmax(1)).sum()),
        "images": len(expected["last"]),
        "pixels_otherwise": int((found["exemplars"] != expected["exemplars"]).sum()),
        "pixels": expected["exemplars"].numel(),
        "average_accuracy": ours.average_incremental_accuracy,
        "last_accuracy": ours.phase_accuracy[-1],
        "accuracy_difference": max(abs(a - b) for a, b in zip(ours.phase_accuracy, theirs.phase_accuracy, strict=True)),
        "seconds": round(sum(ours.seconds.values()), 1),
    }


def table(about: dict[str, Any]) -> str:
    """The record as it stands in the page."""
    lines = [
        "| precision | processes x threads | logits, first phase | logits, last phase | named otherwise"
        " | exemplar pixels that differ | average accuracy | last accuracy | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in about["rows"]:
        cells = [
            row["dtype"],
            f"{row['processes']} x {row['threads']}",
            f"{row['logits_first']:.1e}",
            f"{row['logits_last']:.1e}",
            f"{row['named_otherwise']} of {row['images']}",
            f"{row['pixels_otherwise']} of {row['pixels']}",
            f"{row['average_accuracy']:.2f}",
            f"{row['last_accuracy']:.2f}",
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    settings = ", ".join(f"{key}={value}" for key, value in about["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = " to ".join(f"{value:.0f}" for value in sorted(about["load_average"])[::2])
    lines += [
        "",
        f"{about['protocol']}, {about['strategy']} with {settings}, seed {about['seed']}; {about['hardware']};"
        f" {versions}. Logits: greatest distance from the run of one process with one thread in the same precision,"
        f" over all test images; the largest logit is {about['rows'][0]['largest_logit']:.0f}. Accuracies in %. Seconds"
        f" say nothing of speed here: the machine was busy with other work (load {load}).",
    ]
    return "\n".join(lines)


def fill(page: Path, text: str) -> None:
    """Put the table in its place."""
    begin, end = "<!-- distributed:digits -->", "<!-- /distributed:digits -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="make the table from the record; run nothing")
    asked = parser.parse_args()
    if not asked.table:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    fill(PAGE, table(json.loads(RECORD.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()

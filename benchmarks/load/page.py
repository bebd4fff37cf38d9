"""The tables of docs/load.md, written from the record and from nothing else.

python -m benchmarks.load.page
"""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..suite import write_table

ROOT = Path(__file__).parent.parent.parent
RECORD = ROOT / "benchmarks" / "results" / "load" / "runs" / "load.json"
PAGE = ROOT / "docs" / "load.md"
MIB = 2**20
BYTES = 256 * 256 * 3
PHASE_0, SUBSET = 65_000, 134_395
"""Images of ImageNet-Subset: of 50 classes with 1300 each, at most, and all that are trained and tested on."""
A100_RATE = 88 * 1_281_167 / (187.3 * 60)
"""ResNet-18, images/s on one A100: 88 epochs in 187.3 minutes (github.com/libffcv/ffcv-imagenet)."""
A100_PIXELS = 0.75 * 160**2 + 0.25 * 192**2
"""Pixels of its images: 160 x 160, and 192 x 192 in the last quarter."""
H100_GAIN = (3.35 / 1.555, 989 / 312)
"""H100 SXM over A100 SXM with 40 GB, by their data sheets: memory bandwidth in TB/s, dense bf16 in TFLOP/s."""
TABLES = {
    "packing": ("decoding", "killed", "resumed", "verified"),
    "streaming": ("reading", "training"),
    "h100": ("decoding", "reading"),
}
"""For each table what must have been measured."""


def main() -> None:
    """Write the page's tables."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for name in TABLES:
        write_table(f"load-{name}", table(name, record), PAGE)


def table(name: str, record: dict[str, Any]) -> str:
    """One of ``TABLES``."""
    if not {*TABLES[name]} <= record.keys():
        return "Not yet measured."
    return "\n".join({"packing": _packing, "streaming": _streaming, "h100": _h100}[name](record))


def _packing(record: dict[str, Any]) -> Iterator[str]:
    made, (killed,), (resumed,), (verified,) = (
        record[name] for name in ("photographs", "killed", "resumed", "verified")
    )
    yield "| step | images | seconds | images/s | images a second of the processor | peak memory, MiB |"
    yield "|---|---|---|---|---|---|"
    for workers in record["settings"]["workers"]:
        found = [each for each in record["decoding"] if each["workers"] == workers]
        yield _line(f"pack, {workers} worker{'s' * (workers > 1)}, median of {len(found)}", found)
    again = {**resumed, "images": killed["images"] - resumed["found_whole"]}
    yield f"| pack, killed by SIGKILL | {killed['whole']:,} whole on disk | | | | |"
    yield _line(f"pack, resumed: {resumed['found_whole']:,} found whole", [again])
    yield (
        f"| compare {verified['chunks']} checksums, {verified['bytes'] / 1e9:.1f} GB | {killed['images']:,} | "
        f"{verified['seconds']:.1f} | {killed['images'] / verified['seconds']:,.0f} | | {_peak([verified])} |"
    )
    yield ""
    yield (
        f"{made['count']:,} JPEG files of {record['settings']['width']} x {record['settings']['height']} pixels, "
        f"{made['mean_bytes'] / 1000:.0f} KB each. Of {verified['compared']} images of the resumed pack that were "
        f"decoded again, {verified['same']} were the same bit by bit."
    )
    yield ""
    yield _provenance(record)


def _line(what: str, found: list[dict[str, Any]]) -> str:
    images, seconds = found[0]["images"], _median(found, "seconds")
    each = f"{images / seconds:,.0f} | {images / _median(found, 'busy'):,.0f}"
    return f"| {what} | {images:,} | {seconds:.1f} | {each} | {_peak(found)} |"


def _streaming(record: dict[str, Any]) -> Iterator[str]:
    yield "| what | images/s, median (least to most) | MB/s | read from the disk | peak memory, MiB |"
    yield "|---|---|---|---|---|"
    for cold, what in ((True, "cold"), (False, "warm")):
        found = [each for each in record["reading"] if each["cold"] == cold]
        share = sum(each["from_disk"] for each in found) / sum(each["bytes"] for each in found)
        rates = [each["images"] / each["seconds"] for each in found]
        figures = f"{_spread(rates)} | {statistics.median(rates) * BYTES / 1e6:,.0f} | {share:.0%} | {_peak(found)}"
        yield f"| batches of {record['settings']['batch']} read, {what} | {figures} |"
    (training,) = record["training"]
    batch = f"{record['settings']['backbone']}, batches of {training['batch']}"
    for kind, what in (("resident", "in memory"), ("streamed", "streamed")):
        rates = [training["images"] / seconds for seconds in training[kind]]
        yield f"| training step, {batch}, {what} | {_spread(rates, 2)} | | | {_peak([training])} |"
    share = sum(training["waited"]) / sum(training["streamed"])
    yield ""
    yield (
        f"Streamed steps spent {share:.1%} of their time waiting for images. Reading from a cold disk was "
        f"{ahead(record):,.0f} times as fast as the step."
    )


def ahead(record: dict[str, Any]) -> float:
    """How many times as fast images are read from a cold disk as ResNet-18 is trained on them."""
    (training,) = record["training"]
    trained = statistics.median(training["images"] / seconds for seconds in training["resident"])
    return read_rate(record, cold=True) / trained


def read_rate(record: dict[str, Any], cold: bool) -> float:
    """Images/s that are read, by the median."""
    return statistics.median(each["images"] / each["seconds"] for each in record["reading"] if each["cold"] == cold)


def h100_rates() -> tuple[float, float]:
    """Images/s that one H100 may train ResNet-18 on at 224 x 224: what follows from the published A100 figure."""
    at_224 = A100_RATE * A100_PIXELS / 224**2
    low, high = (at_224 * gain for gain in H100_GAIN)
    return low, high


def _h100(record: dict[str, Any]) -> Iterator[str]:
    low, high = h100_rates()
    at_224, (by_bandwidth, by_products) = A100_RATE * A100_PIXELS / 224**2, H100_GAIN
    cold, warm = (read_rate(record, cold) for cold in (True, False))
    core = statistics.median(each["images"] / each["busy"] for each in record["decoding"] if each["workers"] == 1)
    yield "| what | figure |"
    yield "|---|---|"
    for what, figure in {
        "published: ResNet-18 on one A100, 160 to 192 pixels": f"{A100_RATE:,.0f} images/s",
        "the same at 224 pixels, by the number of pixels": f"{at_224:,.0f} images/s",
        f"one H100: {by_bandwidth:.2f} times that by bandwidth, {by_products:.2f} times by products": (
            f"{low:,.0f} to {high:,.0f} images/s"
        ),
        f"what streaming to it needs, {BYTES:,} bytes an image": (
            f"{low * BYTES / 1e9:.1f} to {high * BYTES / 1e9:.1f} GB/s"
        ),
        "measured here: warm, cold": f"{warm * BYTES / 1e9:.2f}, {cold * BYTES / 1e9:.2f} GB/s",
        f"phase 0 of ImageNet-Subset, {PHASE_0:,} images": f"{PHASE_0 * BYTES / 1e9:.1f} GB",
        "reading it once, warm and cold": f"{PHASE_0 / warm:,.0f} s, {PHASE_0 / cold:,.0f} s",
        "an epoch of it on the H100": f"{PHASE_0 / high:.1f} to {PHASE_0 / low:.1f} s",
        f"packing all {SUBSET:,} images on one core, on 16": (
            f"{SUBSET / core / 60:.1f} min, {SUBSET / core / 16 / 60:.1f} min"
        ),
    }.items():
        yield f"| {what} | {figure} |"


def _median(found: list[dict[str, Any]], name: str) -> float:
    return statistics.median(each[name] for each in found)


def _spread(rates: list[float], digits: int = 0) -> str:
    middle, low, high = (f"{rate:,.{digits}f}" for rate in (statistics.median(rates), min(rates), max(rates)))
    return f"{middle} ({low} to {high})"


def _peak(found: list[dict[str, Any]]) -> str:
    return f"{max(each['peak_memory_bytes'] for each in found) / MIB:,.0f}"


def _provenance(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    low, high = sorted((record["load_average"][0], record["load_average_at_end"][0]))
    return (
        f"`{record['command']}`, seed {record['settings']['seed']}, commit {record['commit'][:7]}, "
        f"{record['date'][:10]}, {record['hardware']}, {record['memory_bytes'] / 2**30:.0f} GiB, load average "
        f"{low:.0f} to {high:.0f}; {versions}."
    )


if __name__ == "__main__":
    main()

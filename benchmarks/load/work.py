"""What is measured, each piece in a process of its own so that its peak of memory is its own."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemo import machine, streaming
from mnemo.augment import ResizedCrop
from mnemo.datasets import chunks, folders, packing, pictures
from mnemo.images import Images
from mnemo.nets import build
from mnemo.streaming import Streamed

SIDE, CROP, CLASSES = 256, 224, 100
MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
Found = dict[str, Any]


def apart(chunk: int, function: Callable[..., Found], *arguments: Any) -> Found:
    """What ``function`` finds in a new process with so many images a checksum, and the most memory that it held."""
    with _context().Pool(1) as pool:
        return pool.apply(_with_peak, (chunk, function, arguments))


def _context() -> multiprocessing.context.ForkServerContext:
    """Processes are forked from one that has imported torch and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _with_peak(chunk: int, function: Callable[..., Found], arguments: tuple[Any, ...]) -> Found:
    chunks.CHUNK = chunk
    found = function(*arguments)
    return {**found, "peak_memory_bytes": machine.peak_memory(torch.device("cpu"))}


def decoding(photographs: Path, scratch: Path, workers: int, count: int) -> Found:
    """Pack ``count`` of the photographs."""
    listed = pictures.list_pictures(photographs)
    some = listed.train[:: max(1, len(listed.train) // count)][:count]
    part = pictures.Pictures(listed.folder, listed.classes, some, listed.test[:1])
    place = scratch / f"part-{workers}-{time.monotonic_ns()}"
    start, busy = time.monotonic(), time.process_time()
    packing.pack(part, place, SIDE, workers=workers)
    return {"images": len(some) + 1, "seconds": time.monotonic() - start, "busy": time.process_time() - busy}


def killed_pack(chunk: int, photographs: Path, place: Path, share: float) -> Found:
    """Pack photographs in a process that SIGKILL ends when it has decoded this share of them."""
    chunks.CHUNK = chunk
    process = _context().Process(target=_with_peak, args=(chunk, pack_until, (photographs, place, share)))
    process.start()
    process.join()
    index = chunks.read_index(place.with_name(f".{place.name.lstrip('.')}.partial"))
    if index is None:
        raise RuntimeError("it was killed before anything was whole on the disk")
    return {"exit_code": process.exitcode, "whole": index.done, "images": sum(index.images.values())}


def pack_until(photographs: Path, place: Path, share: float) -> Found:
    """Pack photographs, and be killed on the way."""

    def progress(done: int, total: int) -> None:
        if done >= share * total:
            os.kill(os.getpid(), signal.SIGKILL)

    packing.pack(pictures.list_pictures(photographs), place, SIDE, progress)
    raise AssertionError("it went through")


def whole_pack(photographs: Path, place: Path) -> Found:
    """Pack all photographs, or go on."""
    progress: list[tuple[int, int]] = []
    start, busy = time.monotonic(), time.process_time()
    packing.pack(
        pictures.list_pictures(photographs), place, SIDE, lambda *done: progress.append(done) if not progress else None
    )
    found = {"seconds": time.monotonic() - start, "busy": time.process_time() - busy}
    first = progress[0][0] if progress else 0
    return {**found, "found_whole": first if first > 1 else 0}


def verified(place: Path, photographs: Path) -> Found:
    """Compare all checksums, and some images with pictures decoded anew."""
    start = time.monotonic()
    total = chunks.verify(place)
    seconds = time.monotonic() - start
    data, listed = folders.load_arrays(place), pictures.list_pictures(photographs)
    some = range(0, len(listed.train), max(1, len(listed.train) // 50))
    same = 0
    for row in some:
        decoded = torch.from_numpy(pictures.decode(listed.train[row][0], (SIDE, SIDE)).copy())
        same += torch.equal(data.train.pixels[row].permute(1, 2, 0), decoded)
    size = sum(chunks.pixels_of(place, split).stat().st_size for split in chunks.SPLITS)
    return {"chunks": total, "seconds": seconds, "bytes": size, "compared": len(some), "same": same}


def reading(place: Path, batch: int, batches: int, cold: bool, seed: int) -> Found:
    """Draw random batches of the training images and do nothing with them."""
    images = _streamed(place)
    if cold:
        forget(chunks.pixels_of(place, "train"))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).split(batch)[:batches]
    before, start, busy = from_disk(), time.monotonic(), time.process_time()
    count = sum(len(read) for read in images.ahead(order))
    seconds = time.monotonic() - start
    found = {"images": count, "seconds": seconds, "busy": time.process_time() - busy}
    return {**found, "bytes": count * images.bytes_each, "from_disk": from_disk() - before}


def _streamed(place: Path) -> Streamed:
    """The training images, streamed however few they are."""
    streaming.RESIDENT = 0
    images = folders.load_arrays(place).train
    assert isinstance(images, Streamed)
    return images


def forget(path: Path) -> None:
    """Ask the system to drop the file's pages from its cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def from_disk() -> int:
    """Bytes that this process has had read from storage."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def training(place: Path, batch: int, steps: int, turns: int, backbone: str, seed: int) -> Found:
    """Steps on one batch in memory and on streamed batches, in turns: images/s, and how long the latter waited."""
    images = _streamed(place)
    draw = torch.Generator().manual_seed(seed)
    step = _stepper(backbone, seed, draw)
    resident, streamed, waited = [], [], []
    (held,) = images.ahead([torch.arange(batch)])
    step(held)  # warm-up
    for _ in range(turns):
        start = time.monotonic()
        for _ in range(steps):
            step(held)
        resident.append(time.monotonic() - start)
        order = torch.randperm(len(images), generator=draw).split(batch)[:steps]
        batches, wait, start = images.ahead(order), 0.0, time.monotonic()
        for _ in range(steps):
            asked = time.monotonic()
            read = next(batches)
            wait += time.monotonic() - asked
            step(read)
        streamed.append(time.monotonic() - start)
        waited.append(wait)
    return {"images": batch * steps, "resident": resident, "streamed": streamed, "waited": waited, "batch": batch}


def _stepper(backbone: str, seed: int, draw: torch.Generator) -> Callable[[Images], None]:
    """A training step as the protocol imagenet-subset has it: crop, network, cross-entropy, SGD."""
    torch.manual_seed(seed)
    net = build(backbone, "linear", 3, MEAN, STD)
    net.head.grow(CLASSES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    crop = ResizedCrop(CROP)

    def step(images: Images) -> None:
        pixels: Tensor = crop.apply(images.pixels, crop.draw(len(images), images.shape, draw))
        loss = F.cross_entropy(net(pixels).logits, images.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step

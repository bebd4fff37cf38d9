"""Several processes that share a run end with what one process would have, or all end with one line."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import TCPStore

from mnemo import distributed, experiment, protocols
from mnemo.cli import app
from mnemo.data_parallel import WholeBatchNorm, batch_normalisation, own
from mnemo.disk.files import InputError

SHORT = ["base_classes=4", "epochs=1", "fine_tune_epochs=1", "exemplar_epochs=1", "adjust_epochs=1"]

# Batches of 7 leave one of 6, 3 or 1 at the end: four processes have uneven parts, and empty ones.
CASES = {
    "double": ("float64", "mnemonics", {"batch_size": 7}),
    "beyond": (
        "float64",
        "mnemonics",
        {
            "batch_size": 7,
            "soft_labels": 1.0,
            "starts": ["random", "forgotten"],
            "pool": 2,
            "companions": 2,
            "way": "unrolled",
            "inner_loss": "strategy",
            "outer_loss": "both",
            "rehearsal_epochs": 1,
        },
    ),
    "head": ("float64", "mnemonics", {"on": "bic", "level": "head"}),
    "gradients": ("float64", "mnemonics", {"on": "icarl", "objective": "gradient_matching"}),
    "means": ("float64", "mnemonics", {"on": "lwf", "objective": "distribution_matching", "codec": "half"}),
    "nearest": ("float64", "mnemonics", {"objective": "nearest_mean"}),
    "single": ("float32", "mnemonics", {"batch_size": 7}),
}
ALL, FEW = list(CASES), ["double", "beyond", "single"]
FLOAT32 = 1e-5  # after the few steps of these runs; see docs/distributed.md for how it grows in long ones

SHARE = """
import json, os
from pathlib import Path

import torch
from mnemo import distributed, experiment, protocols

CASES, names, short, data, folder = json.loads(os.environ["ASKED"])
with distributed.group(torch.device("cpu")):
    for name in names:
        dtype, strategy, values = CASES[name]
        torch.set_default_dtype(getattr(torch, dtype))
        protocol = protocols.load(data + "/blobs.toml")
        prepared = experiment.prepare(protocol, strategy, {**short, **values}, data_dir=Path(data), device="cpu")
        for _ in experiment.execute(prepared, Path(folder, name)):
            pass
        torch.save(prepared.learner.state(), f"{folder}/{name}-{distributed.rank()}.pt")
raise SystemExit
"""
"""Runs cases in this process of a group, and leaves what it holds in the end."""

AT_EVENT = """
import os, signal
from mnemo import experiment, report

report.write = lambda runs, out: out / "report.html"

def execute(*arguments, original=experiment.execute, **options):
    for count, event in enumerate(original(*arguments, **options)):
        if count == 3 and os.environ["RANK"] == "{rank}":
            {action}
        yield event

experiment.execute = execute
"""
"""In one process of the command, once three epochs are done."""

QUIET = "from mnemo import report\nreport.write = lambda runs, out: out / 'report.html'\n"
"""Half of a tiny run's time goes into its pictures."""


@pytest.fixture
def group(fork_server, tmp_path):
    """Start processes as torchrun does, of which one may have other code before it or other arguments."""

    def start(processes, arguments=(), before="", other=None):
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = {
            "WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
        }
        commands = []
        for rank in range(processes):
            variables = {**common, "RANK": rank, "LOCAL_RANK": rank}
            variables = {key: str(value) for key, value in variables.items()}
            code = f"import os\nos.environ.update({variables!r})\n" + before
            mine = other if other is not None and rank == processes - 1 else arguments
            commands.append(fork_server.start(*mine, cwd=tmp_path, before=code))
        codes = [command.wait() for command in commands]
        return codes, "".join(command.err for command in commands)

    return start


@pytest.fixture
def arguments(blobs):
    """Of ``mnemo run``, for a folder ``run`` in the present one."""
    settings = [part for text in SHORT for part in ("--set", text)]
    return ["run", blobs / "blobs.toml", "--data-dir", blobs, "--out", "run", "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def alone(blobs, fork_server, tmp_path_factory):
    """What one process has in the end, for every case."""
    folder = tmp_path_factory.mktemp("alone")
    command = fork_server.start(cwd=folder, before=asking(ALL, blobs, folder) + SHARE)
    assert command.wait() == 0, command.err
    return folder


def asking(names, blobs, folder):
    short = {key: int(value) for key, _, value in (text.partition("=") for text in SHORT)}
    return f"import os\nos.environ['ASKED'] = {json.dumps([CASES, names, short, str(blobs), str(folder)])!r}\n"


def furthest(state, other):
    """The greatest distance of two learners' floating tensors; all others must be the same."""
    assert state.keys() == other.keys()
    greatest = 0.0
    for name, tensor in state.items():
        if tensor.dtype in (torch.float32, torch.float64) and not name.startswith("memory."):
            greatest = max(greatest, float((tensor - other[name]).abs().max()) if tensor.numel() else 0.0)
        elif name != "memory.squared_error":
            assert torch.equal(tensor, other[name]), name
    return greatest


@pytest.mark.parametrize(("processes", "names"), [(2, ALL), (4, FEW)], ids=["2", "4"])
def test_processes_end_with_what_one_would_have(processes, names, group, alone, blobs, tmp_path):
    """Networks to rounding, and the same exemplars in every process, whatever they are optimised for."""
    codes, err = group(processes, before=asking(names, blobs, tmp_path) + SHARE)
    assert (codes, err) == ([0] * processes, "")
    for name in names:
        states = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(processes)]
        expected = torch.load(alone / f"{name}-0.pt", weights_only=True)
        assert not furthest(states[0], states[-1]), name
        assert furthest(expected, states[0]) < (FLOAT32 if CASES[name][0] == "float32" else 1e-10), name
        assert told(tmp_path / name, "processes") == told(alone / name, "processes")
    assert json.loads((tmp_path / names[0] / "run.json").read_text())["processes"] == processes


def told(folder, *also):
    """run.json without what the clock, the machine and ``also`` say; losses to four digits."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["complete"]
    for key in ("seconds", "peak_memory_bytes", "command", *also):
        run.pop(key)
    run["exemplars"] = rounded(run["exemplars"])
    run["outcomes"] = rounded(run["outcomes"])
    return run


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value and float(f"{value:.4g}")


def test_torchrun_starts_again_after_a_kill(group, arguments, fork_server, tmp_path, until):
    """All processes are started again, and --resume goes on from the checkpoint."""
    longer = [*arguments, "--set", "epochs=12", "--set", "batch_size=8", "--quiet"]
    codes, err = group(2, longer, QUIET)
    assert (codes, err) == ([0, 0], "")
    again = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "mnemo", *longer, "--resume"]
    torchrun = (
        f"from torch.distributed.run import main\nmain({[*map(str, again), '--out', 'again']!r})\nraise SystemExit"
    )
    running = fork_server.start(cwd=tmp_path, before=torchrun)
    until((tmp_path / "again" / "checkpoints" / "base.safetensors").exists, seconds=120)
    _, second = children(running.pid)
    os.kill(second, signal.SIGKILL)
    assert running.wait() == 0, running.err
    assert "exitcode: -9" in running.err
    assert told(tmp_path / "again") == told(tmp_path / "run")


def children(pid):
    """Processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        pytest.param(["--seed", "7"], ["process 1", "seed is 1993 in process 0, 7 in"], id="seed"),
        pytest.param(["--set", "lr=0.5"], ["lr is 0.05 in process 0, 0.5 in process 1"], id="setting"),
        pytest.param(["--data-dir", "elsewhere"], ["process 1: ", "elsewhere"], id="data-missing"),
        pytest.param(["--data-dir", "changed"], ["data is "], id="data-changed"),
    ],
)
def test_processes_that_disagree_are_refused(other, words, group, arguments, blobs, tmp_path):
    changed = tmp_path / "changed" / "blobs"
    changed.mkdir(parents=True)
    for path in (blobs / "blobs").iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "train_images.npy":
            content[-1] ^= 1
        (changed / path.name).write_bytes(content)
    codes, err = group(2, arguments, other=[*arguments, *other])
    refused(codes, err, *words)
    assert not (tmp_path / "run").exists()


def refused(codes, err, *words):
    """All end with exit code 2, and one of them says why."""
    assert codes == [2] * len(codes), err
    assert err.startswith("mnemo: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_a_failure_in_the_midst_ends_all_processes_with_one_line(group, arguments):
    full = "raise OSError(28, 'No space left on device', 'run.json')"
    refused(*group(2, arguments, AT_EVENT.format(rank=0, action=full)), "No space left on device: run.json")
    resumed = [*arguments, "--resume"]
    codes, err = group(2, resumed, AT_EVENT.format(rank=1, action="os.kill(os.getpid(), signal.SIGKILL)"))
    assert codes[1] == -signal.SIGKILL
    refused(codes[:1], err, "another process of this run has ended; --resume")


# In one process


def test_every_row_has_one_owner():
    for count in range(9):
        for processes in (1, 2, 3, 4):
            parts = [list(range(count))[own(count, processes, rank)] for rank in range(processes)]
            assert [row for part in parts for row in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_normalisation_of_the_whole_batch_is_torchs(momentum):
    draw = torch.Generator().manual_seed(0)
    maps = 3 + 5 * torch.randn(6, 4, 3, 3, generator=draw, dtype=torch.float64)
    theirs, norm = (nn.BatchNorm2d(4, momentum=momentum, dtype=torch.float64) for _ in range(2))
    ours = WholeBatchNorm(norm)
    for _ in range(3):
        results = []
        for layer in (theirs, ours):
            x = maps.clone().requires_grad_()
            loss = (layer(x).sin() * maps).sum()
            results.append([loss, *torch.autograd.grad(loss, [x, *layer.parameters()])])
        torch.testing.assert_close(*results)
        torch.testing.assert_close(norm.state_dict(), theirs.state_dict())
    norm.eval()
    theirs.eval()
    torch.testing.assert_close(ours(maps), theirs(maps))


def test_a_network_has_its_own_layers_again(monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    own_layer = net[1]
    with batch_normalisation(net, synchronised=True):
        assert isinstance(net[1], WholeBatchNorm)
    assert net[1] is own_layer


def test_a_batch_too_small_for_processes_that_normalise_apart_is_refused(blobs, monkeypatch):
    protocol = protocols.load(str(blobs / "blobs.toml"))
    values = {"sync_batch_norm": False, "batch_size": 3}
    prepared = experiment.prepare(protocol, "finetune", values, data_dir=blobs, device="cpu")
    assert prepared.run.config["strategy"]["sync_batch_norm"] is False
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    with pytest.raises(InputError, match="a batch of 3 images is less than two for each process"):
        next(prepared.learner.learn(prepared.stream[0]))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "--seeds", "1,2"], "several runs side by side cannot be shared"),
        (["fewshot", "mtl"], "mnemo fewshot cannot be shared by several processes: start it without torchrun"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments, line, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, arguments, prog_name="mnemo")
    refused([result.exit_code], result.stderr, line)
    monkeypatch.setenv("WORLD_SIZE", "two")
    result = CliRunner().invoke(app, ["run", "--device", "cpu"], prog_name="mnemo")
    refused([result.exit_code], result.stderr, "WORLD_SIZE=two: a whole number is needed")
    assert not list(tmp_path.iterdir())


def test_a_gpu_for_each_process_or_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    asked = distributed.group(torch.device("cuda"))
    with pytest.raises(InputError, match="process 1 of this machine needs a GPU"):
        asked.__enter__()

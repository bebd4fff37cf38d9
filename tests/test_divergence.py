"""What has left the numbers is refused at the end of its epoch, in one line, before it is saved."""

import pytest
import torch

from mnemo import divergence, experiment, protocols
from mnemo.disk import checkpoint
from mnemo.disk.files import InputError
from mnemo.nets import IncrementalNet
from mnemo.stages import Training


@pytest.fixture
def prepare(blobs):
    def make(strategy="finetune", **values):
        protocol = protocols.load(str(blobs / "blobs.toml"))
        return experiment.prepare(protocol, strategy, values, data_dir=blobs, device="cpu")

    return make


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_and_tensors_that_are_not_finite(value):
    sound = {"a": torch.ones(3), "count": torch.tensor(3), "empty": torch.zeros(0)}
    divergence.refuse("here", {"loss": 1.0}, sound)
    divergence.refuse("here", {}, {})
    with pytest.raises(InputError, match=f"^here: the loss is {value}; a smaller meta_lr may help"):
        divergence.refuse("here", {"loss": value}, sound, rate="meta_lr")
    with pytest.raises(InputError, match=r"^here: net\.b is no longer finite; a smaller lr may help"):
        divergence.refuse("here", {"loss": 1.0}, {**sound, "net.b": torch.tensor([1.0, value])})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_in_the_last_step_of_an_epoch_is_found_before_it_is_saved(value, prepare, tmp_path, monkeypatch):
    """The mean loss is sound then: only the weights show it."""
    one = prepare(batch_size=24, base_epochs=3)  # one step an epoch
    steps = iter(range(100))

    def train_on(self, where, draws, original=Training._train_on):
        if next(steps) == 1:
            next(self._net.backbone.parameters()).register_hook(lambda gradient: gradient * value)
        return original(self, where, draws)

    monkeypatch.setattr(Training, "_train_on", train_on)
    with pytest.raises(InputError, match=r"^phase 1, epoch 2, train: net\.\S+ is no longer finite; a smaller lr"):
        list(experiment.execute(one, tmp_path, checkpoint_seconds=0))
    tensors, about = checkpoint.load(tmp_path / "checkpoints" / "latest.safetensors")
    assert about["position"] == {"phase": 0, "stage": 0, "epoch": 1}
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_batch_is_found_in_the_exemplar_step(prepare, tmp_path, monkeypatch):
    one = prepare("mnemonics")

    def forward(self, pixels, original=IncrementalNet.forward):
        broken = one.learner.position.stage == 2 and torch.is_grad_enabled()
        return original(self, pixels.float() * float("nan") if broken else pixels)

    monkeypatch.setattr(IncrementalNet, "forward", forward)
    with pytest.raises(InputError, match=r"^phase 1, epoch 1, optimise: the loss is nan; "):
        list(experiment.execute(one, tmp_path))

"""mnemo from Python: three strategies learn ten digits in three phases, and show what they forget.

Run it with ``python examples/quickstart.py``. It needs no download and less than half a minute. So few epochs show how
the parts go together, not how well the strategies do.
"""

import torch

from mnemo import datasets, metrics
from mnemo.augment import CropAndFlip
from mnemo.exemplars.mnemonics import Bilevel
from mnemo.exemplars.pixels import PixelSteps
from mnemo.experiment import statistics
from mnemo.learner import Learner, PhaseDone, Strategy, run
from mnemo.phases import ClassStream, class_order, split_by_class
from mnemo.settings import FineTuning, Memory, Training
from mnemo.strategies.finetune import finetune
from mnemo.strategies.lucir import lucir
from mnemo.strategies.mnemonics import mnemonics

SEED = 1993


def learn(strategy: Strategy, stream: ClassStream) -> tuple[Learner, list[list[float | None]]]:
    """The learner after all phases, and its accuracy matrix in %."""
    base = stream[0].train
    mean, std = statistics(base)
    learner = Learner(
        strategy,
        channels=base.shape[0],
        mean=mean,
        std=std,
        augmentation=CropAndFlip(padding=1, mirrors=False),
        device=torch.device("cpu"),
        seed=SEED,
    )
    matrix: list[list[float | None]] = []
    for event in run(learner, stream):
        if isinstance(event, PhaseDone):
            row = [100 * right / count for right, count in zip(event.correct["head"], event.counts, strict=True)]
            matrix.append([*row, *[None] * (len(stream) - len(row))])
    return learner, matrix


def main() -> None:
    """Train, and print a line for each strategy."""
    torch.set_num_threads(1)  # more only wait for each other on images as small as these
    data = datasets.load("digits")
    order = class_order(len(data.class_names), SEED)
    stream = split_by_class(data.train, data.test, order=order, base_classes=4, increment=3)

    training = Training(epochs=5, batch_size=32, backbone="small")
    fine_tuning = FineTuning(fine_tune_epochs=3)
    strategies = {
        "finetune": finetune(training=training),
        # the control for mnemonics: the same network and fine-tuning, with real images for exemplars
        "lucir": lucir(training=training, memory=Memory(per_class=5, exemplars="herding"), fine_tuning=fine_tuning),
        "mnemonics": mnemonics(
            training=training,
            memory=Memory(per_class=5, exemplars="random"),
            pixels=PixelSteps(exemplar_epochs=5, adjust_epochs=5),
            bilevel=Bilevel(inner_steps=3),
            fine_tuning=fine_tuning,
        ),
    }
    print(f"{'strategy':12}{'forgetting rate':>16}{'average forgetting':>20}{'first classes, phase by phase':>32}")
    for name, strategy in strategies.items():
        learner, matrix = learn(strategy, stream)
        first = " ".join(f"{row[0]:5.1f}" for row in matrix)
        print(f"{name:12}{metrics.forgetting_rate(matrix):16.1f}{metrics.average_forgetting(matrix):20.1f}{first:>32}")

    labels = learner.predict(data.test.pixels[:8])  # in order of arrival
    names = [data.class_names[order[label]] for label in labels.tolist()]
    truth = [data.class_names[label] for label in data.test.labels[:8].tolist()]
    print(f"mnemonics reads {' '.join(names)}, where {' '.join(truth)} is written")
    moved = learner.memory.rms_displacement()
    print(f"its {len(learner.memory)} exemplars take {learner.memory.bytes} bytes and moved {moved:.2f} grey levels")


if __name__ == "__main__":
    main()

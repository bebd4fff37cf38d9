"""What pays by our own measurements, of parts by Hou et al., CVPR 2019, and by Wang et al., ICLR 2022."""

from pydantic import NonNegativeFloat

from mnemo.learner import Strategy
from mnemo.settings import FineTuning, Memory, Training

from .lucir import lucir


def compact(
    *,
    training: Training = Training(replays=20),
    memory: Memory = Memory(codec="jpeg", quality=75, subsampling="4:2:0"),
    fine_tuning: FineTuning = FineTuning(fine_tune_epochs=50),
    less_forget: NonNegativeFloat = 5.0,
) -> Strategy:
    """LUCIR whose memory holds JPEG files, as many as fit in the bytes of ``per_class`` raw images.

    Exemplars are herded as they look when decoded; every old class is drawn equally often in an epoch however many it
    has; all classes are fine-tuned in balance at the end. No paper has it so: JPEG exemplars are "Memory Replay with
    Data Compression for Continual Learning" (Wang et al., ICLR 2022), here at one quality for all. The page *What pays*
    in the documentation has the measurements.

    Results compare with the literature's by bytes, and not by the number of exemplars: say so beside them.

    Args:
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`.
        fine_tuning: see :class:`mnemo.settings.FineTuning`.
        less_forget: see :func:`mnemo.strategies.lucir.lucir`.
    """
    return lucir(training=training, memory=memory, fine_tuning=fine_tuning, less_forget=less_forget)

"""What a report shows of test tasks: how base-learners learned them, and a few tasks image by image."""

import torch
from torch import Tensor

from ..images import png_base64
from .data import Split
from .episodes import Episodes
from .method import Method
from .record import Picture, ShownTask
from .source import Source

CURVES = ("alpha", "v", "decay")
"""Names of evidence that has a value for each epoch of the inner loop."""
SAMPLE = 100
"""Tasks over which curves are averaged."""
SHOWN = 2
"""Tasks that are shown image by image."""
MOST = 40
"""Unlabelled images of a task that are shown."""


def curves(method: Method, source: Source, episodes: Episodes) -> dict[str, list[float]]:
    """Means over test tasks of what a base-learner has for each epoch: rates, weights of the combination, decay."""
    evidence = method.evidence(source.tasks(episodes.slice(0, SAMPLE)))
    found = {name: evidence[name].detach().double().cpu() for name in CURVES if name in evidence}
    return {name: (values.mean(0) if values.ndim == 2 else values).tolist() for name, values in found.items()}


def shown_tasks(method: Method, source: Source, split: Split, episodes: Episodes) -> list[ShownTask]:
    """The first tasks, with what was guessed, what was learned from, and where in feature space everything is."""
    count = min(SHOWN, len(episodes))
    return [_shown(method, source, split, episodes.slice(index, index + 1)) for index in range(count)]


def _shown(method: Method, source: Source, split: Split, episode: Episodes) -> ShownTask:
    tasks = source.tasks(episode)
    answers = episode.answers.to(tasks.support.device)
    guesses = method.solve(tasks, answers).detach().argmax(2).cpu()[0]
    evidence = {name: value.detach().cpu()[0] for name, value in method.evidence(tasks).items() if value.ndim > 1}
    embedded = method.embedded(tasks)
    parts = [embedded.support, embedded.query, *([] if embedded.unlabelled is None else [embedded.unlabelled])]
    points = plane(torch.cat([part[0].detach().cpu() for part in parts]))
    support, query = episode.support.shape[1], episode.query.shape[1]
    names = [split.class_names[int(c)] for c in episode.classes[0, : episode.shape.ways]]
    return ShownTask(
        class_names=names,
        accuracy=100 * float((guesses == episode.answers[0]).double().mean()),
        support=_pictures(split, episode.support[0], episode.labels[0], points[:support]),
        query=_pictures(split, episode.query[0], episode.answers[0], points[support : support + query], guesses),
        unlabelled=_unlabelled(split, episode, points[support + query :], evidence),
    )


def plane(features: Tensor) -> Tensor:
    """Features (n, d) in the plane of their two main directions, both axes scaled alike to 0..1: (n, 2)."""
    centred = (features - features.mean(0)).double()
    if min(centred.shape) < 2:
        return torch.full((len(features), 2), 0.5)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    low, extent = points.min(0).values, (points.max(0).values - points.min(0).values).max().clamp(min=1e-12)
    in_square: Tensor = ((points - low) / extent).clamp(0, 1)
    return in_square


def _pictures(
    split: Split, rows: Tensor, labels: Tensor, points: Tensor, guesses: Tensor | None = None
) -> list[Picture]:
    found = []
    for index, (row, label) in enumerate(zip(rows.tolist(), labels.tolist(), strict=True)):
        guess = None if guesses is None else int(guesses[index])
        right = None if guess is None else guess == label
        x, y = (round(float(value), 4) for value in points[index])
        png = png_base64(split.images.pixels[row])
        found.append(Picture(png=png, label=label, guess=guess, right=right, point=(x, y)))
    return found


def _unlabelled(split: Split, episode: Episodes, points: Tensor, evidence: dict[str, Tensor]) -> list[Picture]:
    """Some of the unlabelled images, evenly spaced, with their pseudo-labels if the base-learner gave any."""
    total = episode.unlabelled.shape[1]
    which = torch.linspace(0, total - 1, min(MOST, total)).long() if total else torch.empty(0, dtype=torch.int64)
    guesses = evidence["pseudo_labels"][which] if "pseudo_labels" in evidence else None
    pictures = _pictures(split, episode.unlabelled[0, which], episode.hidden[0, which], points[which], guesses)
    for name, field in (("soft_weights", "weight"), ("selected", "selected")):
        if name in evidence:
            values = [_plain(value) for value in evidence[name][which]]
            pictures = [p.model_copy(update={field: v}) for p, v in zip(pictures, values, strict=True)]
    return pictures


def _plain(value: Tensor) -> float | bool:
    """A truth value as it is, a number with four decimals."""
    return bool(value) if value.dtype == torch.bool else round(float(value), 4)

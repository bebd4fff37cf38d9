"""Neighbours: a second run in the folder of one that is under way."""

from collections.abc import Iterable, Iterator

from .stages import Wire
from .trial import Bench, Outcome, Trial, judged


def trials(bench: Bench, turns: Iterable[int]) -> Iterator[Trial]:
    """A second run for each turn, at a random moment; every third begins at the same time as the first."""
    for turn in turns:
        folder, stage, wire = bench.folder(), bench.stage(), Wire()
        stage = "training" if stage == "report" else stage  # a report is drawn when the run is over
        first = bench.start(folder, "--resume", before=wire.watched)
        if turn % 3:
            wire.until(stage, bench.moment(stage)[0])
        second = bench.start(folder, "--resume")
        wire.listen()
        codes, said = (first.wait(), second.wait()), second.said
        outcome: Outcome
        if codes[0] and not turn % 3:
            codes, said = codes[::-1], first.said
        outcome, line = judged(codes[1], said, ("another run is under way",)) if codes[1] else ("survived", "")
        if codes[0]:
            outcome, line = "lost", f"exit code {codes[0]}: {first.said}"
        if outcome != "lost":
            outcome, after = bench.resumed(folder)
            outcome, line = ("refused", line) if outcome == "survived" and codes[1] else (outcome, after)
        yield Trial("second run", "at the same time" if not turn % 3 else "later", stage, outcome, line)
        bench.done(folder)

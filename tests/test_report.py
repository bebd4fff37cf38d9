import base64
import io
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnemo import experiment, protocols, record, report
from mnemo.disk.files import InputError
from mnemo.learner import EpochDone
from mnemo.memory import ranks
from mnemo.record import Accuracies, ExemplarHistory, ExemplarSample, Run
from mnemo.report import samples, svg
from mnemo.report.summary import gather

HOSTILE = "<script>alert(1)</script>\"'&]]>{{7*191}}{% x %}$\\frac"
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: its elements with attributes, its text; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def png(value, side=8):
    pixels = np.full((side, side), value, np.uint8)
    pixels[0, 0] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def accuracies(phases, done, level):
    found = Accuracies()
    for i in range(done):
        row = [level - 5.0 * (i - j) for j in range(i + 1)]
        found = found.with_row(row, sum(row) / len(row), phases, [10] * (i + 1))
    return found


def make_run(strategy="mnemonics", protocol="digits", *, seed=0, phases=3, done=None, level=90.0, **more):
    done = phases if done is None else done
    head = accuracies(phases, done, level)
    fields = {
        "strategy": strategy,
        "protocol": protocol,
        "config": {"protocol": {"phases": phases}, "strategy": {"per_class": 20, "seed": seed}},
        "seed": seed,
        "class_order": list(range(2 * phases)),
        "class_names": [str(c) for c in range(2 * phases)],
        "phase_classes": [[2 * j, 2 * j + 1] for j in range(phases)],
        "command": "mnemo run digits",
        "versions": {"mnemo": "0.1.0"},
        "by_classifier": {"head": head, "nearest_mean": accuracies(phases, done, level - 1)},
        "exemplars": ExemplarHistory(per_class=20, count=40 * done, bytes=40 * done * 64),
        "exemplar_samples": [ExemplarSample(class_name="zero", phase=0, before=png(100), after=png(104))],
        "seconds": {"training": 90.0, "exemplars": 30.0},
        "peak_memory_bytes": 2**20,
        "complete": done == phases,
    }
    return Run.model_validate(fields | head.model_dump() | more)


def write(runs, folder):
    """The page of these runs after each has been to disk and back; the pictures are decoded on the way."""
    loaded = []
    for index, run in enumerate(runs):
        (folder / str(index)).mkdir()
        record.save(run, folder / str(index) / "run.json")
        loaded.append(record.load(folder / str(index)))
    path = report.write(loaded, folder / "out")
    assert path == folder / "out" / "report.html"
    for name in {"forgetting.png", "exemplars.png"} & {file.name for file in path.parent.iterdir()}:
        with Image.open(path.parent / name) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 1
    return path.read_text(encoding="utf-8")


def test_one_run_gives_a_page_and_two_pictures(tmp_path):
    page = Page(write([make_run()], tmp_path))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "report.html",
        "forgetting.png",
        "exemplars.png",
    }
    assert "mnemonics on digits" in page.words
    assert "6 classes in 3 phases of 2. Seed 0. Complete" in page.words
    # mean of 90, 87.5 and 85; the first classes fall from 90 to 80
    assert re.search(r"Average incremental accuracy mean over phases, % 87\.5", page.words)
    assert re.search(r"Forgetting rate points lost on the first classes 10\.0", page.words)
    assert "nearest mean 86.5 84.0 10.0" in page.words
    assert len(page.all("svg")) == 3
    assert all(attrs["aria-label"] for attrs in page.all("svg"))
    assert all(attrs["alt"] for attrs in page.all("img"))


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path):
    text = write([make_run(), make_run("lucir")], tmp_path)
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in page.all("img"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_hostile_strings_are_shown_and_not_obeyed(tmp_path):
    hostile = ExemplarSample(class_name=HOSTILE, phase=0, before=png(100), after=png(104))
    runs = [
        make_run(
            f"{index}{HOSTILE}",
            f"p{HOSTILE}",
            config={HOSTILE: {f"key{HOSTILE}": [HOSTILE, index]}},
            exemplar_samples=[hostile],
            seconds={HOSTILE: 1.0},
            command=HOSTILE,
            device=HOSTILE,
            hardware=HOSTILE,
            versions={HOSTILE: HOSTILE},
        )
        for index in range(2)
    ]
    text = write(runs, tmp_path)
    page = Page(text)
    assert "<script" not in text
    assert "1337" not in re.sub(r"data:[^\"]*", "", text)
    assert page.words.count("<script>alert(1)</script>") > 10
    assert page.words.count("{{7*191}}{% x %}") > 10
    assert any(HOSTILE[:20] in attrs["aria-label"] for attrs in page.all("svg"))
    assert {attrs["alt"] for attrs in page.all("img")} >= {f"{HOSTILE}, the real image"}
    for drawn in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        assert "alert(1)</script>" not in drawn
        Page(drawn)


def test_strange_pictures_are_left_out(tmp_path):
    bad = [
        '"><script>',
        base64.b64encode(b"GIF89a").decode(),
        base64.b64encode(base64.b64decode(png(1))[:40]).decode(),
    ]
    pictures = [ExemplarSample(class_name="bad", phase=0, before=text, after=png(1)) for text in bad]
    page = Page(write([make_run(exemplar_samples=[*pictures, *make_run().exemplar_samples])], tmp_path))
    assert len(page.all("img")) == 3
    assert "3 could not be read" in page.words


def test_seeds_give_a_mean_and_a_sample_standard_deviation(tmp_path):
    levels = [90.0, 91.0, 94.0]
    runs = [make_run(seed=seed, level=level) for seed, level in enumerate(levels)]
    (comparison,) = gather(runs)
    (group,) = comparison.groups
    # mean of 87.5, 88.5 and 91.5; deviations -5/3, -2/3, 7/3: sqrt((25 + 4 + 49) / 9 / 2) = 2.0817
    assert group.average_incremental_accuracy is not None
    assert group.average_incremental_accuracy.mean == pytest.approx(89.1667, abs=1e-4)
    assert group.average_incremental_accuracy.spread == pytest.approx(2.0817, abs=1e-4)
    assert group.matrix[2][0] is not None
    assert group.matrix[2][0].spread == pytest.approx(statistics.stdev(levels))
    text = write(runs, tmp_path)
    assert "89.2 ± 2.1" in Page(text).words.replace("\N{NO-BREAK SPACE}", " ")
    assert 'class="band"' in text
    assert "Seeds 0, 1 and 2" in text


def test_only_seeds_are_averaged(tmp_path):
    more = {"config": {"protocol": {"phases": 3}, "strategy": {"per_class": 5, "seed": 0}}}
    (comparison,) = gather([make_run(), make_run(seed=1), make_run(**more), make_run()])
    assert [len(group.runs) for group in comparison.groups] == [2, 1, 1]
    assert [group.name for group in comparison.groups] == ["mnemonics A", "mnemonics B", "mnemonics C"]
    assert [group.settings["per_class"] for group in comparison.groups] == ["20", "5", "20"]
    (comparison,) = gather([make_run(), make_run(**more)])
    assert [group.name for group in comparison.groups] == ["mnemonics per_class=20", "mnemonics per_class=5"]
    assert len({group.series for group in comparison.groups}) == 2


def test_protocols_and_streams_stand_apart(tmp_path):
    runs = [
        make_run(),
        make_run("lucir"),
        make_run(protocol="cifar100"),
        make_run("lucir", phases=4, evaluated_on="validation"),
    ]
    assert len(gather(runs)) == 3
    page = Page(write(runs, tmp_path))
    assert "mnemonics and lucir on digits and cifar100" in page.words
    assert "images held out from the training set" in page.words
    lucir = [group for each in gather(runs) for group in each.groups if group.name == "lucir"]
    assert len({group.series for group in lucir}) == 1


def test_a_transductive_run_is_called_so(tmp_path):
    refined = {"refined": make_run().by_classifier["head"]}
    page = Page(write([make_run("plain"), make_run("sib", classifier="refined", by_classifier=refined)], tmp_path))
    assert "sib is transductive" in page.words
    assert "plain is transductive" not in page.words


def test_a_run_that_stopped_is_named_and_neither_averaged_nor_ranked(tmp_path):
    runs = [make_run(), make_run(seed=1, done=1, level=10.0), make_run("lucir", done=2, level=99.0)]
    text = write([*runs, make_run("icarl", done=0)], tmp_path)
    words = Page(text).words
    assert "mnemonics with seed 1 stopped after 1 of 3 phases and is left out of the means." in words
    assert "lucir is incomplete: figures after 2 of 3 phases, not ranked." in words
    assert "Incomplete" in words
    ranking = re.search(r'<svg[^>]*aria-label="Average incremental accuracy".*?</svg>', text, flags=re.S)
    assert ranking is not None
    assert "lucir" not in ranking.group()


FEW = {"protocol": {"increment_images": 5}, "strategy": {}}


def test_few_shot_streams_show_base_and_novel_classes(tmp_path):
    text = write([make_run(config=FEW)], tmp_path)
    words = Page(text).words
    assert "Base and novel classes" in words
    # 90, then (85 + 90) / 2, then (80 + 85 + 90) / 3; base 80, novel (85 + 90) / 2, harmonic mean 2 * 80 * 87.5 / 167.5
    assert "head 90.0 87.5 85.0 5.0 80.0 87.5 83.6" in words
    chart = re.search(r'<svg[^>]*aria-label="Accuracy on base and on novel classes".*?</svg>', text, flags=re.S)
    assert chart is not None
    assert chart.group().count('class="line dashed"') == 1
    assert re.findall(r'class="label"[^>]*>([^<]*)<', chart.group()) == ["base", "novel"]
    assert "mnemonics, novel classes: 87.5 % at 6 classes" in chart.group()


def test_base_and_novel_curves_of_several_groups(tmp_path):
    runs = [make_run(config=FEW), make_run(config=FEW, seed=1, level=94.0), make_run("lucir", config=FEW, level=70.0)]
    text = write(runs, tmp_path)
    for label in ("mnemonics, base", "mnemonics, novel", "lucir, base", "lucir, novel"):
        assert f">{label}<" in text
    assert 'aria-label="Harmonic mean of base and novel accuracy"' in text
    (comparison,) = gather(runs)
    assert comparison.few_shot
    assert comparison.groups[0].novel[2].mean == pytest.approx((87.5 + 91.5) / 2)
    assert comparison.groups[0].novel[0] is None


def test_other_streams_show_no_base_and_novel_classes(tmp_path):
    older = make_run(config=FEW, base_accuracy=[], novel_accuracy=[], harmonic_mean=[], performance_drop=None)
    older.by_classifier = {}
    assert not gather([older])[0].few_shot
    assert not gather([make_run(config=FEW, done=1)])[0].few_shot
    assert not gather([make_run()])[0].few_shot
    assert "Base and novel" not in Page(write([older, make_run("lucir")], tmp_path)).words


def test_an_older_record_is_read(tmp_path):
    later = {"base_accuracy", "novel_accuracy", "harmonic_mean", "performance_drop"}
    older = make_run().model_dump(exclude={**dict.fromkeys(later, True), "by_classifier": {"head": later}})
    assert not later & older.keys()
    (tmp_path / "run.json").write_text(json.dumps(older))
    run = record.load(tmp_path)
    assert run.performance_drop is None
    assert run.novel_accuracy == run.by_classifier["head"].novel_accuracy == []


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_single_incomplete_run(tmp_path, done):
    page = Page(write([make_run(done=done)], tmp_path))
    assert f"figures after {done} of 3 phases" in page.words


def test_a_single_phase(tmp_path):
    words = Page(write([make_run(phases=1), make_run("joint", phases=1)], tmp_path)).words
    assert "2 classes in one phase" in words


def test_figures_in_cells_at_six_phases_and_none_at_twenty_six(tmp_path):
    for phases, figures in ((6, 21), (26, 0)):
        (comparison,) = gather([make_run(phases=phases)])
        (panel,) = report.charts.matrices(comparison)
        assert panel.chart.count('class="heat"') == phases * (phases + 1) // 2
        assert panel.chart.count('class="cell') == figures
    assert "26 phases of 2" in write([make_run(phases=26), make_run("lucir", phases=26)], tmp_path)


def test_without_exemplars_there_is_no_sheet(tmp_path):
    none = {"exemplars": ExemplarHistory(), "exemplar_samples": [], "seconds": {}, "peak_memory_bytes": 0}
    page = Page(write([make_run("finetune", by_classifier={}, config={}, **none)], tmp_path))
    assert not (tmp_path / "out" / "exemplars.png").exists()
    assert "Exemplars as" not in page.words
    assert "Where the time went" not in page.words


def test_changes_are_signed_around_mid_grey_and_amplified():
    found = samples.sheet("mnemonics", make_run())
    assert found is not None
    assert found.amplification == 16  # 4 grey levels are 64 at 16 times, and would be 128 at 32 times
    pictures = found.exemplars[0].pictures
    change = pictures["change"][..., 0]
    assert (change[0, 0], change[1, 1]) == (128, 128 + 16 * 4)
    assert np.array_equal(pictures["stored"], np.array(decoded(samples.data_uri(pictures["stored"]))))


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_unchanged_exemplars_are_called_real(tmp_path):
    same = [ExemplarSample(class_name="zero", phase=0, before=png(100), after=png(100))]
    page = Page(write([make_run(exemplar_samples=same)], tmp_path))
    assert len(page.all("img")) == 1
    assert "not a pixel of them changed" in page.words


def exemplar(before, after, draft=None, **more):
    draft = None if draft is None else png(draft)
    return ExemplarSample(class_name="zero", phase=0, before=png(before), after=png(after), draft=draft, **more)


WEIGHTS = {"bytes": 4321, "raw_bytes": 12288}


@pytest.mark.parametrize(
    ("shown", "kinds", "changes", "bytes_shown"),
    [
        ([exemplar(100, 100, **WEIGHTS)], ["stored"], None, 1),
        ([exemplar(100, 104, **WEIGHTS)], ["original", "stored", "change"], [16 * 4], 2),
        (
            [exemplar(100, 97, draft=104, **WEIGHTS), exemplar(100, 97, **WEIGHTS)],
            ["original", "optimised", "change", "stored"],
            [16 * 4, 16 * -3],
            4,
        ),
    ],
    ids=["real", "changed", "optimised and changed"],
)
def test_a_sheet_has_a_row_for_each_kind_of_picture(shown, kinds, changes, bytes_shown, tmp_path):
    run = make_run(exemplar_samples=shown)
    found = samples.sheet("mnemonics", run)
    assert found is not None
    assert list(found.kinds) == kinds
    if changes:
        assert [int(each.pictures["change"][1, 1, 0]) - 128 for each in found.exemplars] == changes
    page = Page(write([run], tmp_path))
    there = [kind in each.pictures for each in found.exemplars for kind in kinds]
    assert len(page.all("img")) == sum(there)
    words = page.words.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert len(re.findall(r"(?:4 321|12 288) B\b", words)) == bytes_shown
    assert "The memory holds 120 exemplars in 7 680 bytes." in words


def test_an_optimised_picture_that_cannot_be_read_leaves_its_exemplar_out():
    bad = exemplar(100, 97).model_copy(update={"draft": "no picture"})
    found = samples.sheet("mnemonics", make_run(exemplar_samples=[bad, exemplar(100, 104)]))
    assert found is not None
    assert (len(found.exemplars), found.unreadable) == (1, 1)


def test_a_record_of_before_bytes_and_outcomes_is_shown_without(tmp_path):
    run = make_run().model_dump()
    del run["outcomes"]
    for key in ("draft", "bytes", "raw_bytes"):
        del run["exemplar_samples"][0][key]
    (tmp_path / "run.json").write_text(json.dumps(run))
    loaded = record.load(tmp_path)
    assert loaded == make_run()
    page = write([loaded], tmp_path)
    words = Page(page).words
    assert "change \N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}16" in page
    assert " B " not in words
    assert "on trial" not in words


def guarded(*accepted, seed=0):
    outcomes = [{"accept": {"chosen": 70.0, "optimised": 69.5 + a, "accepted": float(a)}} for a in accepted]
    return make_run(seed=seed, outcomes=[*outcomes, {"train": {"loss": 1.0}}])


def test_what_the_guard_found_is_in_a_table(tmp_path):
    words = Page(write([guarded(1, 0)], tmp_path)).words
    assert "as chosen as optimised 0 70.0 70.5 yes 1 70.0 69.5 no In each phase" in words


def test_seeds_share_a_line_of_what_the_guard_found(tmp_path):
    runs = [guarded(1, 0), guarded(1, 1, seed=1), make_run("lucir", outcomes=[{"train": {"loss": 1.0}}])]
    words = Page(write(runs, tmp_path)).words.replace("\N{NO-BREAK SPACE}", " ")
    table = words.partition("on trial")[2].partition("In each phase")[0]
    assert "lucir" not in table
    assert re.search(r"mnemonics 0 70.0 ± 0.0 70.5 ± 0.0 2 of 2 1 70.0 ± 0.0 70.0 ± 0.7 1 of 2 $", table)


def short(strategy, values):
    protocol = protocols.load("digits").changed({"classes": 4, "base_classes": 2, "increment": 2})
    return experiment.prepare(protocol, strategy, values, device="cpu")


def test_a_record_has_what_stages_showed_in_their_last_epochs(tmp_path):
    values = {"epochs": 2, "exemplar_epochs": 2, "adjust_epochs": 0, "fine_tune_epochs": 1, "guard_runs": 1}
    values |= {"rehearsal_epochs": 1, "codec": "jpeg", "pixel_step": 2.0}
    prepared = short("mnemonics", values)
    events = list(experiment.execute(prepared, tmp_path))
    outcomes = record.load(tmp_path).outcomes
    shown = {(e.phase, e.stage): e.shown for e in events if isinstance(e, EpochDone)}  # the last of each stage
    assert {(phase, stage): each for phase, stages in enumerate(outcomes) for stage, each in stages.items()} == shown
    assert {"train", "optimise", "accept"} <= outcomes[1].keys()
    before = record.load(tmp_path)
    for event in events:
        if isinstance(event, EpochDone):
            experiment._note(prepared, event)  # as where the work since the last checkpoint is done again
    assert prepared.run.outcomes == before.outcomes


def test_samples_weigh_what_the_memory_says(tmp_path):
    prepared = short("lucir", {"epochs": 1, "fine_tune_epochs": 1, "codec": "jpeg"})
    list(experiment.execute(prepared, tmp_path))
    memory = prepared.learner.memory
    first = (ranks(memory.images.labels) == 0).nonzero().squeeze(1)
    found = record.load(tmp_path).exemplar_samples
    assert [each.bytes for each in found] == memory.sizes[first].tolist()
    assert {each.raw_bytes for each in found} == {64}
    assert {each.draft for each in found} == {None}
    assert all(each.before != each.after for each in found)


def test_samples_have_what_was_optimised_before_a_lossy_codec(tmp_path):
    values = {"epochs": 1, "fine_tune_epochs": 1, "adjust_epochs": 0, "exemplar_epochs": 2, "pixel_step": 8.0}
    for codec, there in (("jpeg", True), ("raw", False)):
        prepared = short("mnemonics", values | {"codec": codec})
        list(experiment.execute(prepared, tmp_path / codec))
        found = record.load(tmp_path / codec).exemplar_samples
        assert {each.draft is not None for each in found} == {there}
        assert not {each.draft for each in found} & {each.after for each in found}
        assert not {each.draft for each in found} & {each.before for each in found}


def test_exemplars_of_lower_resolution_are_compared_at_the_larger_size():
    small = [ExemplarSample(class_name="zero", phase=0, before=png(100, 16), after=png(104, 8))]
    found = samples.sheet("mnemonics", make_run(exemplar_samples=small))
    assert found is not None
    assert {each.shape for each in found.exemplars[0].pictures.values()} == {(16, 16, 3)}


def test_nothing_to_report_on(tmp_path):
    with pytest.raises(InputError, match="no run"):
        report.write([], tmp_path)


def test_a_refusing_disk_leaves_the_old_page(tmp_path: Path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(report, "html", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        report.write([make_run()], tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((2, 2, 2), "6 classes in 3 phases of 2"),
        ((50, 10, 10), "70 classes: 50, then 2 phases of 10"),
        ((5, 3), "8 classes in 2 phases of 5 and 3"),
        ((1,), "1 class in one phase"),
    ],
)
def test_streams_in_words(sizes, words):
    assert report.stream_words(sizes) == words


def test_labels_move_apart_and_no_further():
    assert svg.apart([50.0, 0.0], 10, 0, 100) == [50.0, 0.0]
    assert svg.apart([50.0, 50.0], 10, 0, 100) == [45.0, 55.0]
    assert svg.apart([1.0, 2.0, 90.0], 10, 0, 100) == [0.0, 10.0, 90.0]
    assert svg.apart([], 10, 0, 100) == []


@pytest.mark.parametrize("low", [0.0, 12.3, 79.9])
def test_ticks_enclose_what_they_are_for(low):
    for marks in (svg.ticks(low, low), svg.ticks(-low, low + 3), svg.percent_ticks([low, low + 1])):
        assert len(marks) >= 2
        assert marks == sorted(set(marks))
    assert svg.percent_ticks([low])[0] <= low <= svg.percent_ticks([low])[-1]
    assert svg.thinned(range(26)) == [0, 5, 10, 15, 20, 25]


def test_numbers_have_a_minus_sign_and_no_negative_nought():
    assert svg.number(-1.25) == "\N{MINUS SIGN}1.2"
    assert svg.number(-0.01) == "0.0"

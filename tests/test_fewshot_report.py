import base64
import io
import json
import re
import statistics
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mnemo import console, record, report
from mnemo.cli import app
from mnemo.disk.files import InputError
from mnemo.fewshot import record as fewshot_record
from mnemo.fewshot.progress import Progress
from mnemo.fewshot.record import ACCURACIES, FewShotRun, Paired, Picture, ShownTask
from mnemo.report import fewshot, fewshot_charts, fewshot_groups, fewshot_tasks
from mnemo.report.fewshot_groups import gather, paired

HOSTILE = "<script>alert(1)</script>\"'&]]>{{7*191}}{% x %}$\\frac"
VOID = {"meta", "img", "br", "wbr"}


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

    def all(self, tag, kind=""):
        return [attrs for name, attrs in self.elements if name == tag and kind in (attrs.get("class") or "").split(" ")]

    @property
    def words(self):
        text = " ".join(" ".join(self.text).split())
        return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def png(value, side=4):
    file = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shown(names=("a", "b"), **more):
    """A task of two ways with one image of support, and two queries of which one is named wrongly."""
    fields = {
        "class_names": list(names),
        "accuracy": 50.0,
        "support": [Picture(png=png(label), label=label, point=(label, 0.25)) for label in (0, 1)],
        "query": [
            Picture(png=png(100), label=0, guess=0, right=True, point=(0.1, 0.2)),
            Picture(png=png(101), label=1, guess=0, right=False, point=(0.9, 0.5)),
        ],
    }
    return ShownTask.model_validate(fields | more)


UNLABELLED = [
    Picture(png=png(110), label=1, guess=1, right=True, weight=0.3, selected=True, point=(0.5, 0.5)),
    Picture(png=png(111), label=0, guess=1, right=False, weight=0.7, selected=True, point=(0.6, 0.5)),
    Picture(png=png(112), label=-1, guess=0, right=False, weight=0.9, selected=False, point=(0.7, 0.5)),
]


def make_run(method="mtl", data="glyphs", *, seed=0, accuracy=60.0, **more):
    fields = {
        "method": method,
        "data": data,
        "way": 5,
        "shot": 1,
        "queries": 15,
        "episodes": 4,
        "episodes_digest": f"digest-{seed}",
        "accuracy": accuracy,
        "interval": 1.25,
        "batch_norm": "running",
        "transductive": False,
        "config": {"learn": "scales", "iterations": 30},
        "seed": seed,
        "parameters": 28193,
        "meta_learned": 1234,
        "validation": [(10, 50.0), (20, 55.0), (30, 55.0)],
        "shown": [shown()],
        "command": f"mnemo fewshot {method}",
        "hardware": "a machine",
        "versions": {"mnemo": "0.1.0"},
        "seconds": {"meta-train": 90.0, "evaluate": 30.0},
        "peak_memory_bytes": 2**20,
        "complete": accuracy is not None,
    }
    return FewShotRun.model_validate(fields | more)


def write(runs, folder, accuracies=()):
    """The page of these runs after each has been to disk and back; the picture is decoded on the way.

    Args:
        accuracies: of the episodes of each run; None where there are none beside it.
    """
    places = [folder / str(index) for index in range(len(runs))]
    for place, run in zip(places, runs, strict=True):
        place.mkdir()
        fewshot_record.save(run, place / "run.json")
    for place, run, values in zip(places, runs, accuracies, strict=bool(accuracies)):
        if values is not None:
            fewshot_record.save_accuracies(values, run.episodes_digest, place / ACCURACIES)
    loaded = [report.load(place) for place in places]
    assert loaded == list(runs)
    path = report.write(loaded, folder / "out", places)
    assert path == folder / "out" / "report.html"
    assert {file.name for file in path.parent.iterdir()} == {"report.html", "accuracy.png"}
    with Image.open(path.parent / "accuracy.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 1
    return path.read_text(encoding="utf-8")


# The page of one run


def test_one_run_gives_a_page_and_a_picture(tmp_path):
    page = Page(write([make_run(paired=Paired(baseline="protonet", difference=1.5, interval=0.75))], tmp_path))
    assert "mtl on glyphs, 5-way 1-shot" in page.words
    assert "4 test tasks, 15 queries a class. Seed 0. Complete" in page.words
    assert (
        "Accuracy of queries, %; inductive, batch norm running; 95 % interval over 4 tasks 60.00 ± 1.25" in page.words
    )
    assert "points, task by task, against protonet, as recorded +1.50 ± 0.75" in page.words
    assert "Meta-learned weights of 28 193 in all 1 234" in page.words
    assert "60.00 ± 1.25 (inductive, batch norm running)" in page.words
    assert "The axis starts at chance, which is 20 % with 5 classes" in page.words
    assert "meta-train 90 s evaluate 30 s total 2.0 min" in page.words
    assert "1 MiB" in page.words
    assert "mtl on glyphs, 5-way 1-shot, seed 0: complete Command mnemo fewshot mtl Seed 0" in page.words
    assert "digest-0 method learn scales iterations 30" in page.words
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all("aria-label" in attrs or "aria-hidden" in attrs for attrs in page.all("svg"))


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path):
    text = write([make_run(), make_run("protonet")], tmp_path)
    page = Page(text)
    assert not [word for word in ("http:", "https:", "url(", "@import") if word in text]
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in page.all("img"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_hostile_strings_are_shown_and_not_obeyed(tmp_path):
    runs = [
        make_run(
            f"{index}{HOSTILE}",
            f"d{HOSTILE}",
            batch_norm=HOSTILE,
            config={HOSTILE: [HOSTILE, index]},
            paired=Paired(baseline=HOSTILE, difference=1, interval=1),
            curves={HOSTILE: [1.0, 2.0]},
            shown=[shown([HOSTILE, f"b{HOSTILE}"], unlabelled=UNLABELLED)],
            seconds={HOSTILE: 1.0},
            command=HOSTILE,
            device=HOSTILE,
            hardware=HOSTILE,
            pretrained=HOSTILE,
            episodes_digest=HOSTILE,
            versions={HOSTILE: HOSTILE},
        )
        for index in range(2)
    ]
    text = write(runs, tmp_path)
    page = Page(text)
    assert "<script" not in text
    assert "1337" not in re.sub(r"data:[^\"]*", "", text)
    assert page.words.count("<script>alert(1)</script>") > 30
    assert page.words.count("{{7*191}}{% x %}") > 30
    assert {attrs["alt"] for attrs in page.all("img")} >= {f"query of b{HOSTILE}, taken for {HOSTILE}"}


# Bars


def test_bars_are_sorted_and_have_their_kind(tmp_path):
    runs = [
        make_run("low", accuracy=40.0, transductive=True, batch_norm="batch"),
        make_run("high", accuracy=70.0),
        make_run("middle", accuracy=55.5),
    ]
    text = write(runs, tmp_path)
    (contest,) = gather(runs)
    chart = Page(str(fewshot_charts.bars(contest))).words
    first, second, third = (chart.index(f"{name} ") for name in ("high", "middle", "low"))
    assert first < second < third
    assert "40.00 ± 1.25 (transductive, batch norm batch)" in chart
    assert "accuracy (%), from chance: 20 %" in chart
    words = Page(text).words
    assert "a transductive method sees all queries of a task at once" in words
    assert "low, high and middle on glyphs, 5-way 1-shot" in words


@pytest.mark.parametrize(("way", "accuracy"), [(2, 51.0), (3, 33.0), (5, 5.0), (20, 99.99), (64, 100.0)])
def test_the_axis_of_bars_begins_at_chance_and_encloses_intervals(way, accuracy):
    (contest,) = gather([make_run(way=way, accuracy=accuracy)])
    marks = fewshot_charts.accuracy_ticks(contest)
    assert marks[0] == 100 / way
    assert marks == sorted(set(marks))
    assert marks[-1] >= min(accuracy + 1.25, 100)
    assert marks[-1] <= 110
    chart = str(fewshot_charts.bars(contest))
    assert "nan" not in chart
    lengths = re.findall(r'class="beam" d="M([\d.]+) [\d.]+H([\d.]+)', chart)
    assert all(float(end) >= float(start) for start, end in lengths)


def test_data_way_and_shot_stand_apart(tmp_path):
    runs = [make_run(), make_run(shot=5), make_run(data="fc100"), make_run("protonet")]
    assert [contest.name for contest in gather(runs)] == [
        "glyphs, 5-way 1-shot",
        "glyphs, 5-way 5-shot",
        "fc100, 5-way 1-shot",
    ]
    assert [len(contest.groups) for contest in gather(runs)] == [2, 1, 1]
    words = Page(write(runs, tmp_path)).words
    assert "mtl and protonet on glyphs and fc100" in words
    assert "figures are comparable within a part" in words
    assert "mtl on glyphs, 5-way 5-shot , inductive, batch norm running, seed 0" in words


def test_validation_classes_are_no_test_classes(tmp_path):
    runs = [make_run(), make_run("protonet", evaluated_on="validation")]
    assert [len(contest.groups) for contest in gather(runs)] == [1, 1]
    words = Page(write(runs, tmp_path)).words
    assert "validation tasks" in words
    assert words.count("Accuracies are on validation classes") == 1
    assert words.count("Validation tasks ") == 1


def test_seeds_become_one_bar_with_a_sample_standard_deviation(tmp_path):
    values = [60.0, 61.0, 64.0]
    runs = [make_run(seed=seed, accuracy=value) for seed, value in enumerate(values)]
    (contest,) = gather(runs)
    (group,) = contest.groups
    assert group.accuracy is not None
    assert group.accuracy.mean == pytest.approx(61.6667, abs=1e-4)
    assert group.accuracy.spread == pytest.approx(statistics.stdev(values))
    words = Page(write(runs, tmp_path)).words
    assert "sample standard deviation over 3 seeds 61.67 ± 2.08" in words
    assert "seeds 0, 1 and 2" in words
    assert "seed 2: 64.00 ± 1.25" in words
    assert "one sample standard deviation over seeds" in words


def test_only_seeds_are_averaged():
    other = {"learn": "weights", "iterations": 30}
    (contest,) = gather([make_run(), make_run(seed=1), make_run(config=other), make_run(episodes=9), make_run()])
    assert [len(group.members) for group in contest.groups] == [2, 1, 1, 1]
    (contest,) = gather([make_run(), make_run(config=other)])
    assert [group.name for group in contest.groups] == ["mtl learn=scales", "mtl learn=weights"]
    (contest,) = gather([make_run(unlabelled=5), make_run(unlabelled=10)])
    assert [group.name for group in contest.groups] == ["mtl unlabelled=5", "mtl unlabelled=10"]
    (contest,) = gather([make_run(config={"seed": 0}), make_run(config={"seed": 1}, seed=1)])
    assert len(contest.groups) == 1


def test_a_run_without_an_accuracy_is_named_and_left_out(tmp_path):
    unfinished = {"accuracy": None, "interval": None, "shown": [], "validation": []}
    runs = [make_run(), make_run(seed=1, **unfinished), make_run("protonet", **unfinished)]
    words = Page(write(runs, tmp_path)).words
    assert "mtl with seed 1 has not been evaluated and is left out of figures." in words
    assert "protonet with seed 0 has not been evaluated" in words
    assert "Incomplete" in words
    assert "protonet on glyphs, 5-way 1-shot, seed 0: incomplete" in words
    assert "95 % interval over 4 tasks 60.00 ± 1.25" in words


def test_nothing_evaluated_at_all(tmp_path):
    contest = gather([make_run(accuracy=None, interval=None, shown=[], validation=[])])[0]
    assert fewshot_charts.bars(contest) is None
    assert fewshot_charts.validation(contest) is None
    page = Page(fewshot.html([contest]))
    assert not page.all("svg")
    assert "Results" not in page.words
    from mnemo.report import fewshot_figures

    fewshot_figures.accuracy([contest], tmp_path / "empty.png")


# Differences in pairs


def test_differences_on_the_same_episodes_are_computed_in_pairs(tmp_path):
    runs = [make_run("protonet"), make_run("mtl")]
    values = [[50.0, 60.0, 70.0, 80.0], [52.0, 61.0, 75.0, 80.0]]
    # gaps 2, 1, 5, 0: mean 2, deviations 0, -1, 3, -2, variance 14 / 3, 1.96 * sqrt(14 / 3) / 2 = 2.117
    words = Page(write(runs, tmp_path, values)).words
    assert "+2.00 ± 2.12 against protonet" in words
    assert "as recorded" not in words
    loaded = [fewshot_groups.evaluated(run, tmp_path / str(index)) for index, run in enumerate(runs)]
    (contest,) = gather(runs, [tmp_path / "0" / "run.json", tmp_path / "1"])
    assert [member.accuracies for group in contest.groups for member in group.members] == values
    assert [each.accuracies for each in loaded] == values
    found = paired(contest.groups[1], contest.groups[0])
    assert found is not None
    assert found.mean == pytest.approx(2.0)
    assert found.spread == pytest.approx(1.96 * (14 / 3) ** 0.5 / 2)


def test_the_baseline_is_the_one_that_records_name(tmp_path):
    recorded = Paired(baseline="protonet", difference=2.0, interval=2.1170)
    runs = [make_run("mtl", paired=recorded), make_run("lst"), make_run("protonet")]
    (contest,) = gather(runs)
    assert contest.baseline.name == "protonet"
    assert gather(runs[:2])[0].baseline.name == "mtl"
    values = [[52.0, 61.0, 75.0, 80.0], [49.0, 59.0, 69.0, 79.0], [50.0, 60.0, 70.0, 80.0]]
    words = Page(write(runs, tmp_path, values)).words
    assert "+2.00 ± 2.12 against protonet" in words
    assert "\N{MINUS SIGN}1.00 ± 0.00 against protonet" in words
    assert "against protonet, as recorded" not in words  # it is what was computed


def test_what_a_record_says_of_another_baseline_is_shown_as_recorded(tmp_path):
    runs = [make_run("mtl"), make_run("lst", paired=Paired(baseline="rfs", difference=-0.5, interval=0.25))]
    words = Page(write(runs, tmp_path, [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]])).words
    assert "+1.00 ± 0.00 against mtl \N{MINUS SIGN}0.50 ± 0.25 against rfs, as recorded" in words


def test_differences_of_seeds_have_a_spread_over_seeds(tmp_path):
    runs = [make_run(method, seed=seed) for method in ("protonet", "mtl") for seed in (0, 1)]
    base = [50.0, 60.0, 70.0, 80.0]
    values = [base, base, [value + 1 for value in base], [value + 4 for value in base]]
    # differences 1 and 4: mean 2.5, sample standard deviation 3 / sqrt(2) = 2.12
    assert "+2.50 ± 2.12 against protonet" in Page(write(runs, tmp_path, values)).words


def test_of_several_baselines_on_the_same_episodes_that_of_the_same_seed_counts(tmp_path):
    runs = [make_run(method, seed=seed, episodes_digest="same") for method in ("protonet", "mtl") for seed in (0, 1)]
    values = [[0.0] * 4, [50.0] * 4, [1.0] * 4, [51.0] * 4]
    assert "+1.00 ± 0.00 against protonet" in Page(write(runs, tmp_path, values)).words


@pytest.mark.parametrize("change", [{"episodes_digest": "other"}, {"episodes_digest": ""}, {"episodes": 5}])
def test_without_the_same_episodes_there_is_no_difference(change, tmp_path):
    same = [[1.0] * 4] * 2
    words = Page(write([make_run("protonet", **change), make_run()], tmp_path, same)).words
    assert "against" not in words


def test_accuracies_that_are_not_there_are_not_missed_and_damaged_ones_are_refused(tmp_path):
    runs = [make_run("protonet"), make_run()]
    assert "against" not in Page(write(runs, tmp_path, [None, [1.0] * 4])).words
    (tmp_path / "0" / ACCURACIES).write_text("{}")
    with pytest.raises(InputError, match=r"accuracies\.json: schema: field required"):
        report.write(runs, tmp_path / "again", [tmp_path / "0", tmp_path / "1"])


# Lines


def test_the_first_of_the_best_checkpoints_is_marked():
    (contest,) = gather([make_run()])
    text = str(fewshot_charts.validation(contest))
    assert re.findall(r"<title>(.*?)</title>", text)[-1] == (
        "mtl, seed 0: 55.00 % after 20 iterations; this checkpoint was chosen"
    )
    assert text.count("<title>") == 3 + 1
    assert text.count(report.svg.MARKERS[3]) == 1


def test_every_seed_has_its_validation_line_and_one_label():
    (contest,) = gather([make_run(), make_run(seed=1), make_run("protonet", validation=[])])
    text = str(fewshot_charts.validation(contest))
    assert text.count("this checkpoint was chosen") == 2
    assert text.count(">mtl</text>") == 1
    assert ">protonet</text>" not in text


def test_curves_are_means_over_seeds_and_nought_is_left_out():
    runs = [
        make_run("e3bm", curves={"alpha": [0.01, 0.02], "decay": [0.0, 0.0]}),
        make_run("e3bm", seed=1, curves={"alpha": [0.03, 0.04, 0.05]}),
        make_run("mtl"),
    ]
    (contest,) = gather(runs)
    (panel,) = fewshot_charts.curves(contest)
    assert panel.name == "\N{GREEK SMALL LETTER ALPHA}, the rate of each epoch"
    found = re.findall(r"<title>(.*?)</title>", str(panel.chart))
    assert found == [f"e3bm: alpha = {value} in epoch {i}" for i, value in enumerate(["0.02", "0.03", "0.05"], 1)]


@pytest.mark.parametrize("values", [[0.01], [0.5] * 100, [-1e-7, 1e-7], [1e4, 2e4, -3e4], [0.01, 0.0100001]])
def test_curves_of_any_scale_have_ticks_that_enclose_them(values):
    (contest,) = gather([make_run(curves={"v": values})])
    chart = str(fewshot_charts.curves(contest)[0].chart)
    ends = [float(text.replace("\N{MINUS SIGN}", "-")) for text in re.findall(r'"tick end".*?>(.*?)<', chart)]
    assert len(set(ends)) == len(ends) >= 2
    assert min(ends) <= min(values)
    assert max(ends) >= max(values)
    assert "nan" not in chart


# Tasks


def test_right_and_wrong_do_not_rest_on_colour(tmp_path):
    page = Page(write([make_run()], tmp_path))
    assert len(page.all("figure", "right")) == len(page.all("figure", "wrong")) == 1
    assert [attrs["alt"] for attrs in page.all("img")] == [
        "support of a",
        "query of a, taken for a",
        "support of b",
        "query of b, taken for a",
    ]
    words = page.words
    assert "a \N{CHECK MARK} b \N{BALLOT X} a" in words
    assert "Test task 1, of whose queries 50.0 % were named rightly" in words


def test_unlabelled_images_have_label_weight_and_selection(tmp_path):
    run = make_run("lst", unlabelled=3, distractors=1, shown=[shown(unlabelled=UNLABELLED)])
    page = Page(write([run], tmp_path))
    words = page.words.replace("\N{MULTIPLICATION SIGN} ", "")
    # those that were learned from first, the heavier before the lighter
    assert "Unlabelled images \N{BALLOT X} b 0.70 \N{CHECK MARK} b 0.30 \N{BALLOT X} a 0.90 distractor" in words
    assert len(page.all("figure", "chosen")) == 2
    assert len(page.all("figure", "passed")) == 1
    assert "unlabelled image of a distractor class" in {attrs["alt"] for attrs in page.all("img")}
    assert "3 a class, 1 distractor" in page.words


def test_unlabelled_images_without_pseudo_labels_have_their_class(tmp_path):
    plain = [Picture(png=png(1), label=1), Picture(png=png(2), label=-1)]
    page = Page(write([make_run(shown=[shown(unlabelled=plain)])], tmp_path))
    assert re.search(r"Unlabelled images b distractor Figure \d", page.words)
    assert not page.all("figure", "chosen") + page.all("figure", "passed")


def test_the_plane_has_a_mark_for_every_role(tmp_path):
    run = make_run(shown=[shown(unlabelled=UNLABELLED)])
    text = write([run], tmp_path)
    plane = re.search(r'<svg[^>]*aria-label="The task in feature space".*?</svg>', text, flags=re.S)
    assert plane is not None
    drawn = Page(plane.group())
    counts = [len(drawn.all("path", role)) for role in ("support", "query", "unlabelled", "distractor")]
    assert counts == [2, 2, 2, 1]
    titles = re.findall(r"<title>(.*?)</title>", plane.group())
    assert titles[-4:] == ["query of a taken for a", "query of b taken for a", "support of a", "support of b"]
    assert "distractor taken for a" in titles


def test_marks_tell_twenty_classes_apart():
    marks = {str(fewshot_tasks.mark(index, "query")) for index in range(64)}
    assert len(marks) == 64
    assert len({re.sub(r"--c:[^\"]*", "", str(fewshot_tasks.mark(index, "query"))) for index in range(8)}) == 8


@pytest.mark.parametrize("point", [None, (float("nan"), 0.5), (float("inf"), 0.5)])
def test_images_without_a_place_are_not_in_the_plane(point):
    task = shown(support=[Picture(png=png(1), label=0, point=point)], query=[])
    (sheet,) = fewshot_tasks.sheets(gather([make_run(shown=[task])]))
    assert sheet.tasks[0].plane is None


def test_places_outside_the_plane_are_drawn_at_its_edge():
    task = shown(support=[Picture(png=png(1), label=0, point=(7.0, -3.0))], query=[])
    (sheet,) = fewshot_tasks.sheets(gather([make_run(shown=[task])]))
    assert 'translate(460.0 20.0)"' in str(sheet.tasks[0].plane)


def test_strange_pictures_are_left_out(tmp_path):
    bad = [Picture(png=text, label=0) for text in ('"><script>', base64.b64encode(b"GIF89a").decode())]
    page = Page(write([make_run(shown=[shown(support=bad)])], tmp_path))
    assert len(page.all("img")) == 2
    assert "2 could not be read" in page.words


@pytest.mark.parametrize(
    ("name", "shown_as", "code"),
    [
        ("A", "A", ""),
        ("apple pie", "apple pie", ""),
        ("ü", "ü", "U+00FC"),
        ("\u0301", "\u25cc\u0301", "U+0301"),
        ("\U00010348", "\U00010348", "U+10348"),
        ("", "", ""),
    ],
)
def test_class_names_are_any_characters(name, shown_as, code, tmp_path):
    assert fewshot_tasks.readable(name) == shown_as
    assert fewshot_tasks.code_point(name) == code
    Page(write([make_run(shown=[shown([name, "\u05d0"])])], tmp_path))


def test_labels_that_no_class_has_are_shown_without_a_name(tmp_path):
    task = shown(query=[Picture(png=png(1), label=0, guess=7, right=False)])
    assert "query of a" in {attrs["alt"] for attrs in Page(write([make_run(shown=[task])], tmp_path)).all("img")}


def test_several_methods_fold_their_tasks(tmp_path):
    page = Page(write([make_run(), make_run("protonet", accuracy=50.0), make_run(seed=1)], tmp_path))
    folded = page.all("details")
    assert len(folded) == 2 + 3  # a group's tasks, a run's provenance
    assert ["open" in attrs for attrs in folded] == [True, False, False, False, False]


# Runs of both kinds


def incremental():
    fields = {"strategy": "lucir", "protocol": "digits", "config": {}, "seed": 0, "class_order": [0, 1]}
    return record.Run.model_validate(fields | {"class_names": ["0", "1"], "phase_classes": [[0, 1]]})


def test_a_loader_for_both_kinds(tmp_path):
    for name, run, save in (("few", make_run(), fewshot_record.save), ("many", incremental(), record.save)):
        (tmp_path / name).mkdir()
        save(run, tmp_path / name / "run.json")
        assert report.load(tmp_path / name) == report.load(tmp_path / name / "run.json") == run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as JSON"),
        ("[]", "run.json of schema None"),
        ('{"schema": 1}', "strategy: field required"),
        ('{"schema": 1, "kind": "fewshot"}', "method: field required"),
        ('{"schema": 9, "kind": "fewshot"}', "not the record of a few-shot run of schema 1"),
    ],
)
def test_a_damaged_record_of_either_kind_is_refused(text, words, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(words)):
        report.load(tmp_path)


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such run"):
        report.load(tmp_path / "none")


def test_kinds_do_not_mix(tmp_path):
    with pytest.raises(InputError, match="mtl on glyphs is a few-shot run and lucir on digits is not"):
        report.write([incremental(), make_run()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_refusing_disk_leaves_the_old_page(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(fewshot, "html", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        report.write([make_run()], tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_command_reports_on_few_shot_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("protonet", "mtl"):
        (tmp_path / name).mkdir()
        fewshot_record.save(make_run(name), tmp_path / name / "run.json")
        fewshot_record.save_accuracies([1.0, 2.0, 3.0, len(name)], "digest-0", tmp_path / name / ACCURACIES)
    told = CliRunner().invoke(app, ["report", "protonet", "mtl/run.json", "--out", "both"])
    assert (told.exit_code, told.stdout, told.stderr) == (0, "both/report.html\n", "")
    assert "against protonet" in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    record.save(incremental(), tmp_path / "run.json")
    told = CliRunner().invoke(app, ["report", "protonet", "run.json"])
    assert told.exit_code == 2
    assert told.stderr.count("\n") == 1
    assert "report on each kind by itself" in told.stderr
    assert not (tmp_path / "report").exists()


# The terminal


def test_stages_without_a_terminal_are_a_line_each(capsys):
    run = make_run()
    with console.Stages(run) as display:
        for stage in ("meta-train", "evaluate"):
            for done in (1, 2):
                display.show(Progress(stage, done, 2, {"accuracy": 50.0 + done}))
    console.fewshot_summary(run.model_copy(update={"paired": Paired(baseline="rfs", difference=1, interval=2)}), "page")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert (
        lines[0] == "mtl on glyphs, 5-way 1-shot, seed 0, cpu: 1,234 of 28,193 weights are meta-learned, 4 test tasks"
    )
    assert [re.sub(r"\d:\d\d:\d\d", "0:00:00", line) for line in lines[1:3]] == [
        "meta-train 2/2  accuracy 52.0 %  0:00:00",
        "evaluate 2/2  accuracy 52.0 %  0:00:00",
    ]
    assert lines[-2:] == ["+1.00 ± 2.00 points against rfs, task by task", "report: page"]


def test_the_time_of_a_stage_counts_from_the_event_before_it(monkeypatch, capsys):
    now = iter([0.0, *[100.0] * 9])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now, 100.0))
    with console.Stages(make_run()) as display:
        display.show(Progress("meta-train", 2, 2))
        monkeypatch.setattr(console.time, "monotonic", lambda: 160.0)
        display.show(Progress("evaluate", 1, 2))
        monkeypatch.setattr(console.time, "monotonic", lambda: 175.0)
        display.show(Progress("evaluate", 2, 2))
    took = re.findall(r"2/2.*(\d:\d\d:\d\d)", capsys.readouterr().out)
    assert took == ["0:01:40", "0:01:15"]


def test_quiet_stages_say_nothing(capsys):
    with console.Stages(make_run(), quiet=True) as display:
        display.show(Progress("evaluate", 2, 2))
    assert capsys.readouterr().out == ""


def test_ticks_have_the_digits_that_they_need():
    assert [report.svg.tick(value) for value in (5, 2.5, 0.25, -0.011)] == ["5", "2.5", "0.25", "\N{MINUS SIGN}0.011"]


def test_the_record_beside_the_page_is_as_it_was(tmp_path):
    write([make_run()], tmp_path)
    assert json.loads((tmp_path / "0" / "run.json").read_text())["accuracy"] == 60.0

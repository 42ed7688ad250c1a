"""Figures of the report: they show what they were given, and importance finds what matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ssprompt_platform.report import figures_search
from ssprompt_platform.report.figures_base import Album, method_styles, short, shot_colours
from ssprompt_platform.report.figures_front import price_list
from ssprompt_platform.report.figures_results import (
    MOST_CLASSES,
    class_bars,
    paired_differences,
    shown_pairs,
)
from ssprompt_platform.report.importance import LEAST_TRIALS, importances
from ssprompt_platform.search.records import (
    DUPLICATE_OF,
    METHOD,
    SHOTS,
    State,
    TrialRecord,
    open_storage,
)
from ssprompt_platform.storage import StudyFolder


def trial(number: int, state: State = "complete", value: float | None = 0.3, **params: Any
) -> TrialRecord:  # fmt: skip
    shots = params.pop("shots", 4)
    return TrialRecord(
        f"spa-k{shots}", number, "spa", shots, state, value, params, (), {}, 2.0 + number, None,
        None, None, None, None,
    )  # fmt: skip


TRIALS = [
    trial(0, value=0.3, lr_weight=0.1, num_prompts=4),
    trial(1, value=0.5, lr_weight=0.3, num_prompts=9),
    trial(2, "pruned", 0.2, lr_weight=0.5, num_prompts=9),
    trial(3, "failed", None, lr_weight=0.9, num_prompts=9),
    trial(4, "duplicate", 0.3, lr_weight=0.1, num_prompts=4),
    trial(5, value=0.4, lr_weight=0.2, num_prompts=9),
    trial(6, "running", None, lr_weight=0.2, num_prompts=9),
]


def points(figure: Figure) -> list[tuple[str, list[float], list[float]]]:
    """Marker, x and y of every set of points of a figure."""
    return [
        (str(line.get_marker()), list(line.get_xdata()), list(line.get_ydata()))
        for axes in figure.axes
        for line in axes.lines
        if str(line.get_marker()) != "None"
    ]


def test_history_marks_every_way_to_end() -> None:
    figure = figures_search.history(TRIALS)
    shown = {marker: (x, y) for marker, x, y in points(figure)[:2]}
    assert shown["o"] == ([0, 1, 5], [0.3, 0.5, 0.4])
    assert shown["x"] == ([2], [0.2])
    repeated, failed = points(figure)[2:]
    assert repeated == ("o", [4], [0.3])
    assert failed[:2] == ("v", [3])
    (axes,) = figure.axes
    best = axes.lines[0]
    # the best so far, up to the last trial that was begun
    assert list(best.get_xdata()) == [0, 1, 5, 6]
    assert list(best.get_ydata()) == [0.3, 0.5, 0.5, 0.5]
    (legend,) = figure.legends
    assert "failed" in {text.get_text() for text in legend.get_texts()}


def test_only_hyperparameters_that_varied_have_an_effect() -> None:
    fixed = [
        trial(n, value=0.1 * n, weight_decay=0.1, lr_weight=0.1 * n, num_prompts=n)
        for n in range(1, 4)
    ]
    assert figures_search.varied(fixed) == ["num_prompts", "lr_weight"]
    # pruned and failed trials vary too, but have no final score
    assert figures_search.varied(TRIALS[2:5]) == []


def test_effects_of_a_rate_and_of_a_count() -> None:
    rate = figures_search.effect(TRIALS, "lr_weight", log=True)
    (axes,) = rate.axes
    assert axes.get_xscale() == "log"
    assert points(rate)[0] == ("o", [0.1, 0.3, 0.2], [0.3, 0.5, 0.4])
    # the ring is around the best one
    assert points(rate)[1] == ("o", [0.3], [0.5])
    counted = figures_search.effect(TRIALS, "num_prompts", log=False)
    (axes,) = counted.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "9"]
    (mean,) = [line for line in axes.lines if str(line.get_marker()) == "None"]
    assert list(mean.get_ydata()) == pytest.approx([0.45, 0.45])


def test_cost_is_of_trials_that_ran() -> None:
    figure = figures_search.cost([trial(0), trial(4), trial(2, "running")])
    assert points(figure)[0][1] == [2.0, 6.0]
    assert points(figure)[1] == ("|", [4.0], [0.0])


def searched(folder: StudyFolder, trials: int, *, constant: bool = False) -> None:
    """A search whose score depends on ``lr_weight`` alone; a few trials are told twice."""
    folder.path.mkdir(parents=True)
    study = optuna.create_study(
        storage=open_storage(folder.optuna),
        study_name=f"{folder.study_id}/spa-k4",
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(0),
    )
    study.set_user_attr(METHOD, "spa")
    study.set_user_attr(SHOTS, 4)

    def objective(own: optuna.Trial) -> float:
        rate = own.suggest_float("lr_weight", 0.01, 1, log=True)
        own.suggest_float("lr_embedding", 0.01, 1, log=True)
        return 0.5 if constant else 0.5 - 0.1 * np.log10(rate) ** 2

    study.optimize(objective, n_trials=trials)
    for first in study.trials[:3]:
        study.add_trial(
            optuna.trial.create_trial(
                params=first.params, distributions=first.distributions, value=first.value,
                user_attrs={DUPLICATE_OF: first.number},
            )
        )  # fmt: skip


def test_importance_finds_what_the_score_depends_on(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "made")
    searched(folder, 30)
    found = importances(folder)
    assert found.untold == {}
    shares = found.shares["spa, K = 4"]
    assert shares["lr_weight"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    # the same trials give the same shares
    assert importances(folder).shares == found.shares
    figure = figures_search.importance(found.shares, ["lr_weight", "lr_embedding", "other"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{shares['lr_weight']:.2f}", f"{shares['lr_embedding']:.2f}", "\N{EN DASH}"]


def test_importance_of_too_few_or_equal_trials_is_not_told(tmp_path: Path) -> None:
    few, equal = StudyFolder(tmp_path, "few"), StudyFolder(tmp_path, "equal")
    # with the three told twice there would be enough
    searched(few, LEAST_TRIALS - 1)
    searched(equal, 20, constant=True)
    assert importances(few).shares == {}
    assert importances(few).untold["spa, K = 4"].startswith("7 finished trials, fewer than 8")
    assert importances(equal).untold == {"spa, K = 4": "every trial has the same score"}
    assert importances(StudyFolder(tmp_path, "none")).untold == {}


def test_the_front_is_a_line_with_the_numbers_of_its_table() -> None:
    front: list[dict[str, Any]] = [
        {"method": "spa", "labelled": 4.0, "value": 0.2, "on_front": True},
        {"method": "sem", "labelled": 4.0, "value": 0.1, "on_front": False},
        {"method": "sem", "labelled": 9.5, "value": 0.4, "on_front": True},
    ]
    figure = price_list(front, ["zero_shot", "spa", "sem"], {"zero_shot"})
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([4.0, 9.5], [0.2, 0.4])
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    spa = axes.lines[1]
    assert (
        spa.get_color() == method_styles(["zero_shot", "spa", "sem"], {"zero_shot"})["spa"]["color"]
    )


def difference(first: str, second: str, value: float, significant: bool) -> dict[str, Any]:
    return {
        "shots": 1, "first": first, "second": second, "difference": value,
        "ci95": [value - 0.1, value + 0.1], "significant": significant,
    }  # fmt: skip


def test_differences_are_filled_where_significant() -> None:
    figure = paired_differences(
        [difference("a", "b", 0.3, True), difference("a", "c", -0.2, True),
         difference("b", "c", -0.05, False)]
    )  # fmt: skip
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [0.3, -0.2, -0.05]
    better, worse, open_ = (to_rgb(dot.get_markerfacecolor()) for dot in dots)
    assert better != worse
    assert open_ == (1, 1, 1)
    ends = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][1:]
    assert ends[0] == pytest.approx([0.2, 0.4])


def test_many_pairs_are_cut_to_those_with_the_reference() -> None:
    names = [f"m{n}" for n in range(7)]
    pairs = [difference(a, b, 0.1, True) for i, a in enumerate(names) for b in names[i + 1 :]]
    shown = shown_pairs(pairs, "m3")
    assert [c["first"] for c in shown] == ["m3"] * 6
    turned = next(c for c in shown if c["second"] == "m0")
    assert (turned["difference"], turned["ci95"]) == (-0.1, pytest.approx([-0.2, 0.0]))
    assert shown_pairs(pairs[:5], "m3") == pairs[:5]


def test_bars_of_classes_begin_with_the_means_and_stay_readable() -> None:
    cell = {"method": "spa", "shots": 4, "ci95": [0.1, 0.3]}
    row = {
        **cell, "mean": 0.2, "things": {"mean": 0.1, "ci95": None},
        "stuff": {"mean": 0.3, "ci95": None},
    }  # fmt: skip
    classes = [
        {**cell, "class": f"class {n}", "thing": n < 50, "mean": n / 100} for n in range(100)
    ]
    figure = class_bars([row], [*classes, {**cell, "shots": 1, "class": "x", "thing": True,
                                           "mean": 1}], 4)  # fmt: skip
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:4] == ["all classes", "all things", "all stuff", "class 19"]
    assert len(names) == 3 + MOST_CLASSES
    assert {"class 0", "class 99"} <= set(names)
    assert "class 50" not in names


def test_a_figure_is_two_files_with_its_remarks(tmp_path: Path) -> None:
    def draw(folder: str, *remarks: str) -> tuple[bytes, bytes]:
        album = Album(tmp_path / folder, "s $x^", remarks)
        picture = album.draw("cost", "Title", lambda: figures_search.cost(TRIALS))
        with Image.open(picture.png) as image:
            assert image.width == pytest.approx(picture.width * 150 / 96, abs=2)
        return picture.png.read_bytes(), picture.svg.read_bytes()

    assert draw("a") == draw("b")
    assert draw("c", "a remark " * 30) != draw("a")
    # the style is for the report's figures alone
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_names_from_data_stay_short_and_visible() -> None:
    assert short("a\nb  c") == "a b c"
    assert len(short("x" * 100)) == 26
    assert short("_road").strip() == "_road"
    assert not short("_road").startswith("_")


def test_colours_of_shots_run_from_dark_to_light() -> None:
    colours = shot_colours([16, 1, 4])
    light = [sum(to_rgb(colours[k])) for k in (1, 4, 16)]
    assert light == sorted(light)

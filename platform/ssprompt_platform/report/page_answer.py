"""The first section of the page: what a reader wants to know, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.report.figures import curve_figure
from ssprompt_platform.report.figures_base import Album
from ssprompt_platform.report.figures_curves import fitted_curves
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.page_blocks import (
    Block,
    Card,
    Cards,
    Fold,
    Notice,
    Prose,
    Section,
    exhibit,
    remarked,
)
from ssprompt_platform.report.page_tables import label_rows, next_rows


def answer_section(data: StudyData, album: Album) -> Section:
    """The best method of each K, the learning curve, and whether the next label is worth it."""
    title = "The answer"
    if not data.rows:
        nothing = "No final fit has finished yet, so there is no score on the test split so far."
        return Section("answer", title, [Prose([nothing])])
    shots = sorted({row["shots"] for row in data.rows})
    blocks: list[Block] = [Cards([_card(data, k) for k in shots])]
    if len(data.statistics["methods"]) > 1:
        blocks.append(
            Prose(
                [
                    "The best row of a K is named after its test scores were seen, which flatters "
                    "it a little; “better than” is said only where the paired difference on the "
                    "same draws is significant after correction for every comparison that was made."
                ]
            )
        )
    curve = album.draw(
        "learning-curve", "mIoU over labelled images per class", lambda: curve_figure(data.rows)
    )
    caption = (
        "Mean over support draws on the test split; bars are 95 % t-intervals of the mean. Points "
        "of one K stand side by side so that their bars can be told apart. A broken line without "
        "points is a method that sees no support image."
    )
    blocks.append(
        exhibit(curve, "Learning curve of every method", caption, alt=_in_words(data.rows),
                remarks=data.remarks)
    )  # fmt: skip
    return Section("answer", title, blocks)


def next_section(data: StudyData) -> Section:
    """Whether the labels of the next K are worth their price."""
    steps = data.statistics["shots"]
    blocks: list[Block] = []
    if steps:
        won = [c for c in steps if c["significant"] and c["difference"] > 0]
        last = [c for c in won if c["next"] == max(step["next"] for step in steps)]
        names = _listed([c["method"] for c in last])
        sentence = (
            f"The last step, to K = {max(step['next'] for step in steps)}, still brings a "
            f"significant gain for {names}."
            if last
            else f"No method shows a significant gain in its last step, to K = "
            f"{max(step['next'] for step in steps)}: either further labels buy little there, or "
            "the draws are too few to show it."
        )
        blocks = [Prose([sentence]), remarked(next_rows(steps), data.remarks)]
    return Section("next-label", "Is the next label worth its price?", blocks)


def labels_section(data: StudyData, album: Album) -> Section:
    """How many labels a score takes, by the fitted curves, and where they refuse to say."""
    curves = {m: c for m, c in data.statistics["curves"].items() if "refused" not in c}
    refused = [f"{m}: {c['refused']}." for m, c in data.statistics["curves"].items()
               if "refused" in c]  # fmt: skip
    blocks: list[Block] = []
    if curves:
        title = "Fitted learning curves"
        picture = album.draw("fitted-curves", title, lambda: fitted_curves(curves, data.rows))
        caption = (
            "A power law, a \N{MINUS SIGN} b K^(\N{MINUS SIGN}c), fitted to the means; its band is "
            "the 95 % interval over resampled draws. A curve answers up to twice the largest K "
            "measured (grey), and for nothing beyond."
        )
        answers = {m: c["answers"] for m, c in curves.items() if c["answers"]}
        if answers:
            blocks.append(remarked(label_rows(answers), data.remarks))
        said = [f"{method}: {curve['statement']}." for method, curve in curves.items()]
        blocks += [
            exhibit(picture, title, caption, remarks=data.remarks),
            Fold("The curves in words", [Prose(said, "points")]),
        ]
    if refused:
        blocks.append(Notice("No curve was fitted for these methods", points=refused))
    return Section("labels", "How many labels for which mIoU?", blocks)


def _card(data: StudyData, shots: int) -> Card:
    rows = [row for row in data.rows if row["shots"] == shots]
    best = max(rows, key=lambda row: row["mean"])
    labelled = data.facts["labelled"].get(str(shots))
    title = f"K = {shots}"
    if labelled is not None:
        title += f" · {labelled:,.0f} labelled images"
    if best["deterministic"]:
        interval = "without any label"
    elif best["ci95"] is None:
        interval = "one draw, so no interval"
    else:
        low, high = best["ci95"]
        interval = f"95 % interval [{low:.3f}, {high:.3f}], n = {len(best['draws'])}"
    claim = _claim(data, best["method"], shots, len(rows))
    return Card(title, f"{best['mean']:.3f}", interval, best["method"], claim)


def _claim(data: StudyData, best: str, shots: int, methods: int) -> str:
    """Which methods the best one is better than, and from which it cannot be told apart."""
    if methods == 1:
        return "The only method with a finished fit at this K."
    beaten: list[str] = []
    open_: list[str] = []
    for c in data.statistics["methods"]:
        if c["shots"] == shots and best in (c["first"], c["second"]):
            other = c["second"] if c["first"] == best else c["first"]
            ahead = (c["difference"] or 0.0) * (1 if c["first"] == best else -1) > 0
            (beaten if c["significant"] and ahead else open_).append(other)
    parts = []
    if beaten:
        parts.append(f"Better than {_listed(beaten)}.")
    if open_:
        parts.append(f"Not told apart from {_listed(open_)}.")
    return " ".join(parts) or "Not compared with the other methods."


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """The learning curve for a reader who does not see it."""
    methods = dict.fromkeys(row["method"] for row in rows)
    parts = []
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        parts.append(
            f"{method} {own[0]['mean']:.3f}"
            if own[0]["deterministic"]
            else f"{method} " + ", ".join(f"{row['mean']:.3f} at K = {row['shots']}" for row in own)
        )
    return "Learning curves: " + "; ".join(parts) + "."


def banners(data: StudyData) -> list[Notice]:
    """What must be read before any number: remarks, and what an unfinished study lacks."""
    notices = [Notice(remark, "remark") for remark in data.remarks]
    if not data.finished:
        notices.append(
            Notice("This study is not finished. The page shows what there is so far.", "missing",
                   data.missing)
        )  # fmt: skip
    elif data.missing:
        notices.append(Notice("This study is complete but for the following.", "missing",
                              data.missing))  # fmt: skip
    return notices

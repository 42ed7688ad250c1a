"""What a study does, in sentences that follow from its configuration and plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config
from ssprompt_platform.estimate import trial_count
from ssprompt_platform.plan import StudyPlan


def protocol(config: Config, plan: StudyPlan, dataset: SegmentationDataset) -> list[str]:
    """What a study does, sentence by sentence, for ``study.json`` and the report."""
    return [
        _data(plan, dataset),
        _compared(config, plan),
        *_drawn(config, plan),
        *_selected(config, plan),
        *_ended(config, plan),
        *_fitted(config),
        *_scored(config, plan),
        *_intervals(config),
        _seeded(config, plan),
    ]


def _data(plan: StudyPlan, dataset: SegmentationDataset) -> str:
    pool, test = len(dataset.ids("train")), len(dataset.ids("test"))
    part = "all" if len(plan.test_ids) == test else f"a seeded sample of {len(plan.test_ids)}"
    return (
        f"The data set {dataset.name} has {len(dataset.class_names)} classes, {pool} images in the "
        f"train pool and {test} in the test split, of which {part} are scored."
    )


def _compared(config: Config, plan: StudyPlan) -> str:
    methods = config.study.methods
    idle = [method for method in methods if not METHODS[method].uses_support]
    alone = (
        f"; {joined(idle)} {'learns' if len(idle) == 1 else 'learn'} nothing and "
        f"{'is' if len(idle) == 1 else 'are'} scored once"
        if idle
        else ""
    )
    return (
        f"{joined(methods)} {'is' if len(methods) == 1 else 'are'} scored with "
        f"{shots_of(config.study.shots)} labelled images per class{alone}; the segmentation model "
        f"{config.model.name} stays frozen."
    )


def _drawn(config: Config, plan: StudyPlan) -> list[str]:
    if not any(METHODS[group.method].uses_support for group in plan.groups):
        return []
    counts = "; ".join(
        f"K = {k}: {images([len(draw.support[k]) for draw in plan.draws])}"
        for k in sorted(set(config.study.shots))
    )
    seeds = [draw.seed for draw in plan.draws]
    told = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return [
        f"Support images are drawn from the train pool {_times(len(seeds))} ({told}), the same for "
        "all methods: every class is in at least K of them, an image counts for each class that it "
        f"shows, and the images of a K contain those of every smaller K ({counts})."
    ]


def _selected(config: Config, plan: StudyPlan) -> list[str]:
    if not plan.searched:
        return ["No hyperparameter is searched: methods have their defaults inside the space."]
    search, shots = config.search, sorted(set(config.study.shots))
    rule = {
        "extra_shots": "fitted on the support images and scored on min(K, 4) more labelled images "
        "per class of the train pool, none of them in that support",
        "cv": "fitted and scored on the support images alone, in folds: fitted on all folds but "
        "one and scored on that one, the pixels of all folds pooled into one mIoU",
        "holdout": "fitted on the support images and scored on the whole validation split",
    }[config.study.selection]
    counts = "; ".join(f"K = {k}: {_scored_at(plan, k)}" for k in shots)
    methods = list(dict.fromkeys(group.method for group in plan.searched))
    own = "each method" if config.study.mode == "pareto" else "each method and K"
    sentences = [
        f"Hyperparameters of {joined(methods)} are searched for {own} by {search.sampler}: "
        f"{_first(config)}.",
        f"A trial is {rule} ({counts}), on {images([search.draws], 'support draw')}; its score is "
        "the mean over these draws.",
    ]
    if config.study.mode == "pareto":
        costs = "; ".join(f"K = {k}: {plan.labelled[k]:g}" for k in shots)
        sentences.append(
            "K is searched too, with two aims: the highest mIoU and the fewest labelled images, "
            f"counted over support and selection ({costs})."
        )
    if search.space.epochs is None:
        epochs = search.epochs or config.train.epochs
        shorter = (
            f", a final fit {config.train.epochs}: a setting that needs longer may be missed"
            if epochs < config.train.epochs
            else ""
        )
        sentences.append(f"A trial's fit has {images([epochs], 'epoch')}{shorter}.")
    return sentences


def _first(config: Config) -> str:
    """Which settings are tried before the sampler proposes any."""
    known = len(config.search.enqueue)
    each = " at each K" if config.study.mode == "pareto" else ""
    tried = [] if config.search.sampler == "grid" else [f"the default setting{each}"]
    if known:
        tried.append(f"{known} known setting{'' if known == 1 else 's'}")
    if config.search.warm_start:
        tried.append("the best setting of the K before")
    if not tried:
        return "no setting is run twice"
    return f"first {joined(tried)}; no setting is run twice"


def _ended(config: Config, plan: StudyPlan) -> list[str]:
    if not plan.searched:
        return []
    search, budget, pruning = config.search, config.search.budget, config.search.pruning
    sentences = []
    if pruning.over == "epochs":
        sentences.append(
            "Trials that are behind are ended early by asynchronous successive halving over the "
            f"epochs of their first fit: rungs at epoch {pruning.first_epoch} and at each "
            f"{pruning.factor} times the last; the best 1 in {pruning.factor} go on."
        )
    elif pruning.over == "draws":
        sentences.append(
            "Trials are ended early where, after some draws, a one-sided paired t-test over these "
            f"draws finds them worse than the best trial (p < {pruning.p:g})."
        )
    ends = [f"after at most {trial_count(config, plan)} trials in all", *time_budget(config)]
    if budget.min_gain:
        ends.append(
            "for a method and K as soon as no more than "
            f"{budget.min_gain:g} mIoU is expected to be gained"
        )
    first = ", whichever comes first" if len(ends) > 1 else ""
    each = f"{search.trials} for each {'method' if config.study.mode == 'pareto' else 'method, K'}"
    sentences.append(
        f"The search ends {', or '.join(ends)}{first} ({each}); what runs then is finished, and "
        "the final fits follow."
    )
    return sentences


def _scored(config: Config, plan: StudyPlan) -> list[str]:
    chosen = "the chosen setting" if plan.searched else "the setting"
    what = f"{chosen} of each method and K is"
    if config.study.mode == "pareto":
        what = "the settings on the front of each method, one for each K that is on it, are"
    epochs = f" for {config.train.epochs} epochs" if config.search.space.epochs is None else ""
    return [
        f"Then {what} fitted anew on each draw{epochs} and scored on "
        f"{images([len(plan.test_ids)], 'test image')}.",
        f"The labels of the test images are read once in each final fit{_how_often(config, plan)}, "
        "by that scoring alone; nothing is selected on them, and nothing else can read them once "
        "the data is checked.",
        "The score is mIoU: intersection over union of each class over the pixels of all test "
        "images together, at the labels' resolution, averaged over the classes; pixels of no class "
        "do not count.",
    ]


def _fitted(config: Config) -> list[str]:
    """What ends a fit early; it is judged on what it is trained on."""
    patience = config.train.patience
    if not patience:
        return []
    return [
        f"A fit ends after {patience} epoch{'' if patience == 1 else 's'} without a better mIoU on "
        "the very images that it is trained on, and goes back to its best epoch."
    ]


def _how_often(config: Config, plan: StudyPlan) -> str:
    fits = images([len(plan.fits)], "fit")
    return f" (at most {fits})" if config.study.mode == "pareto" else f" ({fits})"


def _intervals(config: Config) -> list[str]:
    if config.study.draws == 1:
        return []
    return [
        f"Intervals are of 95 % over the {config.study.draws} draws, by Student's t and by "
        "bootstrap: they show how scores vary with the labelled images and the start of a fit, at "
        "the chosen setting and on these test images; they do not cover the choice of the setting "
        "or other test images.",
        "Methods are compared on the same draws by paired tests, and significance allows for the "
        "number of comparisons (Holm).",
    ]


def _seeded(config: Config, plan: StudyPlan) -> str:
    timed = ", unless the search is ended by time" if plan.searched and time_budget(config) else ""
    return (
        f"Seed {config.study.seed} fixes draws, folds, starting values, the order of images in a "
        "fit and the proposals of the search: on one kind of CPU the same study gives the same "
        f"numbers{timed}."
    )


def _scored_at(plan: StudyPlan, k: int) -> str:
    """On how many images a trial at K is scored, and in how many folds."""
    told = images(score_counts(plan, k))
    folds = [len(folds) for (_, shots), folds in plan.folds.items() if shots == k]
    if max(folds) == 1:
        return told
    every = all(one_left_out(plan, k))
    return f"{told}, leave-one-out" if every else f"{told} in {images(folds, 'fold')}"


def time_budget(config: Config) -> list[str]:
    """The ends of a search that depend on how fast it is."""
    budget, ends = config.search.budget, []
    if budget.minutes:
        ends.append(f"after {budget.minutes:g} minute{'' if budget.minutes == 1 else 's'}")
    if budget.gpu_hours:
        ends.append(f"after {budget.gpu_hours:g} GPU-hour{'' if budget.gpu_hours == 1 else 's'}")
    return ends


def score_counts(plan: StudyPlan, k: int) -> list[int]:
    """For each draw of the search, on how many images a trial at K is scored."""
    return [
        len({image_id for fold in folds for image_id in fold.score_ids})
        for (_, shots), folds in plan.folds.items()
        if shots == k
    ]


def one_left_out(plan: StudyPlan, k: int) -> list[bool]:
    """For each draw of the search, whether each image of the K is a fold."""
    return [
        len(folds) > 1 and all(len(fold.score_ids) == 1 for fold in folds)
        for (_, shots), folds in plan.folds.items()
        if shots == k
    ]


def images(counts: Sequence[int], noun: str = "image") -> str:
    """``7 images``, or ``5 to 7 images`` where counts differ."""
    low, high = min(counts), max(counts)
    number = str(high) if low == high else f"{low} to {high}"
    return f"{number} {noun}{'' if high == 1 else 's'}"


def shots_of(shots: Iterable[int]) -> str:
    """``K = 1, 4 and 16``."""
    return f"K = {joined([str(k) for k in sorted(set(shots))])}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def joined(words: Sequence[str]) -> str:
    """``a, b and c``; at least one word."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

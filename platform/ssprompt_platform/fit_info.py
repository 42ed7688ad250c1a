"""What the learned-prompt file of a final fit says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssprompt_core.methods import METHODS
from ssprompt_core.methods.saved import PromptInfo
from ssprompt_platform.bench import Bench
from ssprompt_platform.plan import FitKey
from ssprompt_platform.report.tables import versions
from ssprompt_platform.scoring import Score
from ssprompt_platform.search.space import method_settings


def describe_fit(
    bench: Bench,
    key: FitKey,
    *,
    seed: int,
    hyperparameters: Mapping[str, Any],
    support_ids: Sequence[str],
    test_ids: Sequence[str],
    result: Score,
) -> PromptInfo:
    """What the file of a final fit says of it.

    Args:
        bench: Data and model of the fit.
        key: Method, K and draw.
        seed: Seed of the fit.
        hyperparameters: The chosen ones; the others of the method have their defaults.
        support_ids: Images learned from.
        test_ids: Images scored.
        result: Their score.
    """
    settings, dataset = method_settings(hyperparameters), bench.dataset
    return PromptInfo(
        method=key.method,
        hyperparameters={n: getattr(settings, n) for n in METHODS[key.method].hyperparameters},
        class_names=tuple(dataset.class_names),
        thing_classes=tuple(sorted(dataset.thing_classes)),
        text_encoder=bench.texts.encoder,
        text_encoder_fingerprint=bench.texts.fingerprint,
        dataset=dataset.name,
        support={image_id: dataset.digest(image_id) for image_id in support_ids},
        shots=key.shots,
        draw=key.draw,
        seed=seed,
        metrics={
            "split": "test",
            "images": len(test_ids),
            "miou": result.miou,
            "iou": [None if np.isnan(value) else float(value) for value in result.iou],
        },
        versions=versions(),
    )

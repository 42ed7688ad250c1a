"""The rows of the comparison by name."""

from __future__ import annotations

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.methods.linear_probe import LINEAR_PROBE
from ssprompt_core.methods.model import FewShotModel, MethodSpec
from ssprompt_core.methods.prompt_rows import (
    SEM_ROWS,
    SPA_ROWS,
    SSPROMPT_ROWS,
    TEMPLATE_ENSEMBLE,
    TOKEN_CONTEXT,
    XY_POINTS,
    ZERO_SHOT,
)
from ssprompt_core.methods.prototype import PROTOTYPE
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.text.classes import ClassTexts

METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        ZERO_SHOT,
        TEMPLATE_ENSEMBLE,
        PROTOTYPE,
        LINEAR_PROBE,
        XY_POINTS,
        TOKEN_CONTEXT,
        *SPA_ROWS,
        *SEM_ROWS,
        *SSPROMPT_ROWS,
    )
}
"""Name -> method, in the order of the table."""


def build_model(
    method: str,
    settings: MethodSettings,
    segmenter: Segmenter,
    texts: ClassTexts,
    *,
    seed: int,
) -> FewShotModel:
    """Make an untrained model.

    Args:
        method: A key of :data:`METHODS`.
        settings: Hyperparameters; a method ignores those that it does not list.
        segmenter: Frozen; the model lives on its device.
        texts: The ``C`` class names and their text embeddings.
        seed: Of random starting values.

    Raises:
        UserError: The method is unknown.
    """
    if method not in METHODS:
        raise UserError(
            f"'{method}' is not a method{nearest(method, list(METHODS))}; they are "
            f"{', '.join(METHODS)}"
        )
    return METHODS[method].build(settings, segmenter, texts, seed)

"""One flat record of hyperparameters; each method says which of them it uses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from ssprompt_core.errors import UserError
from ssprompt_core.prompts.fusion import EmbeddingInit, Granularity

Decoding = Literal["per_class", "one_pass"]


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Hyperparameters of all methods.

    Attributes:
        num_prompts: Number ``N`` of spatial prompts, at least 1.
        lr_embedding: Learning rate of learnable embeddings ``z``.
        lr_weight: Learning rate of the logits of the weights ``w``.
        lr_points: Learning rate of the logits of learned coordinates.
        lr_context: Learning rate of the context tokens of ``token_context``.
        lr_map: Learning rate of the map ``D_text -> D``, where there is one.
        lr_probe: Learning rate of the linear probe.
        weight_decay: L2 penalty of the linear probe: half of it times the squared norm of the
            weights is added to the loss.
        weight_granularity: One weight ``w`` per ``prompt`` or per ``dimension`` of each.
        embedding_init: ``copy``: ``z`` starts near the default prompts; ``normal``: at random on
            their scale; ``xavier``: at random on the scale of a layer's weights.
        context_length: Number of context tokens of ``token_context``, at least 1.
        decoding: ``per_class``: one decoder pass a class, the reference. ``one_pass``: all classes
            in one pass, much faster, but not what Segment Anything was trained for.

    Raises:
        UserError: A value is out of range.
    """

    num_prompts: int = 9
    lr_embedding: float = 0.3
    lr_weight: float = 0.3
    lr_points: float = 0.01
    lr_context: float = 0.03
    lr_map: float = 0.001
    lr_probe: float = 0.03
    weight_decay: float = 1e-3
    weight_granularity: Granularity = "prompt"
    embedding_init: EmbeddingInit = "copy"
    context_length: int = 4
    decoding: Decoding = "per_class"

    def __post_init__(self) -> None:
        for name in ("num_prompts", "context_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("lr_") and not value > 0:
                raise UserError(f"{field.name} is {value}, but must be positive")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay is {self.weight_decay}, but must not be negative")
        for name, kind in (
            ("weight_granularity", Granularity),
            ("embedding_init", EmbeddingInit),
            ("decoding", Decoding),
        ):
            if getattr(self, name) not in get_args(kind):
                raise UserError(
                    f"{name} is '{getattr(self, name)}', but must be one of "
                    f"{', '.join(get_args(kind))}"
                )

"""How the small SAM is pretrained: frozen records of the stages, written into the model's card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of one stage of pretraining.

    Attributes:
        scenes: Upstream scenes, drawn once at the start.
        data_seed: Seed of the scenes.
        seed: Seed of the weights and of the batches.
        world: Which scenes, a name of :data:`ssprompt_core.data.domains.WORLDS`.
        steps: Optimiser steps of the schedule.
        stop: Step after which to stop nevertheless; 0: none.
        batch: Images per process and step.
        processes: One-thread processes that average their gradients.
        geometry: Point or box prompts per image and step.
        texts: Text prompts per image and step.
        cells: Embedding cells, of 576, whose pixels the mask losses look at in a step.
        lr: Highest learning rate of AdamW; warm-up, then cosine to 0.
        warmup: Steps of warm-up.
        weight_decay: On matrices and kernels; not on biases, norms and embeddings.
        clip: Longest gradient norm.
        ema: Decay of the averaged weights that are shipped.
        balance: Weight of a thing's pixel against one of stuff in cross-entropies over classes.
        class_weight: Weight of the auxiliary class head's loss.
        bf16: Whether matrix products run in bfloat16 (losses and positions stay float32).
        checkpoint_every: Steps between checkpoints.
    """

    scenes: int = 14_000
    data_seed: int = 1
    seed: int = 0
    world: str = "upstream"
    steps: int = 1300
    stop: int = 0
    batch: int = 10
    processes: int = 2
    geometry: int = 2
    texts: int = 3
    cells: int = 160
    lr: float = 8e-4
    warmup: int = 40
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.997
    balance: float = 4.0
    class_weight: float = 1.0
    bf16: bool = False
    checkpoint_every: int = 100


STAGES = (
    PretrainConfig(
        world="varied", steps=2400, stop=1650, lr=1.2e-3, warmup=60, balance=1.0, class_weight=0.5
    ),
    PretrainConfig(world="crowded", steps=1500),
    PretrainConfig(world="upstream", steps=1000, lr=6e-4, geometry=4, bf16=True),
)
"""The shipped recipe: each stage starts from the averaged weights of the one before.

First masks and words from scenes that tell little by hue; then classes, with things weighted up;
then masks again, with twice the points and boxes.
"""

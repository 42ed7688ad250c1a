"""The losses of pretraining: geometry prompts, text prompts, one pass for all, auxiliary heads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.data.scenes import THING_ID
from ssprompt_core.data.textures import SIDE
from ssprompt_core.models.small_sam import EMBED_DIM, GRID, SmallSam
from ssprompt_core.pretrain.batches import (
    FIRST_THING,
    NUM_CLASSES,
    Batch,
    GeometryPrompt,
    draw_asked_classes,
    draw_geometry,
)
from ssprompt_core.pretrain.config import PretrainConfig
from ssprompt_core.pretrain.decoding import (
    CELL,
    by_cell,
    decode_all_classes,
    decode_prompts,
    exact,
)
from ssprompt_core.pretrain.vocabulary import word_for
from ssprompt_core.text.small import NgramText

_NO_TARGET = -100  # torch's own mark for pixels without a target
_GRID_COUNTS = (1, 4, 9, 16, 25)
WEIGHTS = {
    "point": 1.0,
    "box": 1.0,
    "predicted_iou": 0.5,
    "text": 1.0,
    "one_pass": 0.7,
    "class": 1.0,
    "extent": 0.3,
    "hue": 0.15,
}
"""Weight of each part in the total."""


class Heads(nn.Module):
    """Auxiliary heads on the image embedding, dropped after pretraining.

    Class, box and hue of each cell: they make the embedding worth probing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Conv2d(EMBED_DIM, NUM_CLASSES, 1)
        self.hue = nn.Conv2d(EMBED_DIM, 2, 1)
        self.box = nn.Conv2d(EMBED_DIM, 5, 1)


@dataclass(frozen=True)
class Step:
    """What all parts of one step share."""

    sam: SmallSam
    text: NgramText
    heads: Heads
    config: PretrainConfig
    batch: Batch
    embedding: Tensor
    cells: Tensor
    rng: np.random.Generator


def step_losses(
    sam: SmallSam,
    text: NgramText,
    heads: Heads,
    config: PretrainConfig,
    batch: Batch,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """All parts of the loss on one batch, by the names of :data:`WEIGHTS`."""
    image = torch.from_numpy(batch.image).permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        embedding = sam.image_encoder((image - sam.pixel_mean) / sam.pixel_std)
        cells = torch.from_numpy(rng.permutation(GRID * GRID)[: config.cells])
        step = Step(sam, text, heads, config, batch, embedding, cells, rng)
        return _geometry(step) | _text(step) | _auxiliary(step)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """3 x binary cross-entropy + dice of each mask, ``[..., P, 16]`` -> ``[...]``."""
    x, y = logits.flatten(-2), target.flatten(-2)
    cross_entropy = F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(-1)
    p = x.sigmoid()
    dice = 1 - (2 * (p * y).sum(-1) + 1) / (p.sum(-1) + y.sum(-1) + 1)
    return 3 * cross_entropy + dice


def _geometry(step: Step) -> dict[str, Tensor]:
    """Points (best of three masks) and boxes (mask 0), in turn, through the prompt encoder."""
    count, size = step.config.geometry, len(step.embedding)
    prompts: list[GeometryPrompt] = [
        draw_geometry(step.batch.instances[i], step.rng) for i in range(size) for _ in range(count)
    ]
    owner = torch.arange(size).repeat_interleave(count)
    # images and prompts alternate, so that every image gets both kinds in equal number
    is_box = torch.tensor([(i + j) % 2 == 1 for i in range(size) for j in range(count)])
    order = torch.cat([(~is_box).nonzero()[:, 0], is_box.nonzero()[:, 0]])
    points = int((~is_box).sum())
    masks = np.stack([prompt.mask for prompt in prompts]).astype(np.float32)
    target = torch.from_numpy(by_cell(masks))[order][:, step.cells]

    encoder = step.sam.prompt_encoder
    xy = torch.tensor([prompts[i].point for i in order[:points]], dtype=torch.float32)
    # the stock encoder adds half a pixel to positions and pads a point without a box
    ones = torch.ones(points, 1)
    corners = np.stack([prompts[i].box for i in order[points:]]).astype(np.float32)
    with exact():
        sparse_points = encoder._embed_points(xy[:, None] - 0.5, ones, pad=True)
        sparse_boxes = encoder._embed_boxes(torch.from_numpy(corners) - 0.5)
    logits, predicted = decode_prompts(
        step.sam,
        step.embedding[owner[order]],
        torch.cat([sparse_points, sparse_boxes]),
        step.cells,
    )
    per_mask = mask_loss(logits, target[:, None].expand_as(logits))
    one_point, box = per_mask[:points, 1:], per_mask[points:]
    with torch.no_grad():
        hit, truth = logits.flatten(2) > 0, target.flatten(1)[:, None] > 0.5
        iou = (hit & truth).sum(-1) / (hit | truth).sum(-1).clamp(min=1)
    return {
        # a little of the mean keeps the two masks alive that are not the best one
        "point": one_point.min(1).values.mean() + 0.09 * one_point.mean(),
        "box": (box[:, 0] + 0.3 * box[:, 1:].min(1).values).mean(),
        "predicted_iou": F.mse_loss(predicted, iou),
    }


def _text(step: Step) -> dict[str, Tensor]:
    """Text as a prompt token, often behind a grid of points; and all classes in one pass."""
    rng, count, size = step.rng, step.config.texts, len(step.embedding)
    asked = np.stack([draw_asked_classes(c, count, rng) for c in step.batch.classes])
    # two vocabularies a step, so that a class goes by two names in it
    spoken = [[word_for(c, rng) for c in range(NUM_CLASSES)] for _ in range(2)]
    embedded = torch.stack([step.text(words) for words in spoken])
    which = torch.from_numpy(rng.integers(0, 2, (size, count)))
    token = embedded[which, torch.from_numpy(asked)].flatten(0, 1)
    # noise makes the neighbourhood of a text mean the same: there prompts are learned later
    noise = torch.from_numpy(rng.normal(0, 0.1, token.shape).astype(np.float32))
    sparse = (token + noise * token.detach().std())[:, None]
    if rng.random() < 0.6:
        grid = _grid_tokens(step.sam, int(rng.choice(_GRID_COUNTS)), rng)
        sparse = torch.cat([grid.expand(len(token), -1, -1), sparse], 1)
    owner = torch.arange(size).repeat_interleave(count)
    logits, _ = decode_prompts(step.sam, step.embedding[owner], sparse, step.cells)
    classes = by_cell(step.batch.classes)[:, step.cells.numpy()]
    target = torch.from_numpy((classes[:, None] == asked[:, :, None, None]).astype(np.float32))

    together = decode_all_classes(step.sam, step.embedding, embedded[0], step.cells)
    index = torch.from_numpy(classes.astype(np.int64))
    index[index == IGNORE] = _NO_TARGET
    every = np.arange(NUM_CLASSES)[None, :, None, None]
    each = torch.from_numpy((classes[:, None] == every).astype(np.float32))
    return {
        "text": mask_loss(logits[:, 0], target.flatten(0, 1)).mean(),
        "one_pass": F.cross_entropy(together, index, _class_weights(step.config))
        + 0.5 * mask_loss(together, each).mean(),
    }


def _class_weights(config: PretrainConfig) -> Tensor:
    """Things cover little of a scene: without a weight they would be learned last, ``[C]``."""
    weights = torch.ones(NUM_CLASSES)
    weights[FIRST_THING:] = config.balance
    return weights


def _grid_tokens(sam: SmallSam, count: int, rng: np.random.Generator) -> Tensor:
    """Tokens ``[1, count, D]`` of a square grid of foreground points, shifted a little."""
    side = math.isqrt(count)
    line = (np.arange(side) + 0.5) / side * SIDE
    xy = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2) + rng.normal(0, 1, (1, 2))
    points = torch.from_numpy(xy.astype(np.float32))[None]
    with exact():
        tokens: Tensor = sam.prompt_encoder._embed_points(
            points - 0.5, torch.ones(1, count), pad=False
        )
    return tokens


def _auxiliary(step: Step) -> dict[str, Tensor]:
    """Class, extent and hue at the centre of each cell."""
    batch, size = step.batch, len(step.embedding)
    centre = (slice(None), slice(CELL // 2, None, CELL), slice(CELL // 2, None, CELL))
    classes = torch.from_numpy(batch.classes[centre].astype(np.int64))
    classes[classes == IGNORE] = _NO_TARGET
    instances = batch.instances[centre]
    thing = instances >= THING_ID
    number = np.where(thing, instances - THING_ID, 0)
    image = np.arange(size)[:, None, None]
    box = batch.box[image, number]
    y, x = np.mgrid[0:GRID, 0:GRID] * CELL + CELL // 2
    sides = (x - box[..., 0], y - box[..., 1], box[..., 2] - x, box[..., 3] - y)
    extent = torch.from_numpy((np.stack(sides, 1) / GRID).astype(np.float32))
    angle = np.nan_to_num(batch.hue[image, number]) * 2 * np.pi
    hue = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32))
    is_thing = torch.from_numpy(thing)[:, None].float()
    has_hue = torch.from_numpy(thing & batch.true_hue[:, None, None])[:, None].float()

    predicted = step.heads.box(step.embedding).float()
    distance = ((predicted[:, :4] - extent).abs() * is_thing).sum() / (4 * is_thing.sum() + 1)
    hue_error = (step.heads.hue(step.embedding).float() - hue).square() * has_hue
    return {
        "class": step.config.class_weight
        * F.cross_entropy(
            step.heads.cls(step.embedding).float(), classes, _class_weights(step.config)
        ),
        "extent": distance + F.binary_cross_entropy_with_logits(predicted[:, 4:], is_thing),
        "hue": hue_error.sum() / (2 * has_hue.sum() + 1),
    }

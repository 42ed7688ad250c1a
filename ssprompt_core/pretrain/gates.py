"""The gates a small SAM must pass: masks from points and boxes, and use on the shifted data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssprompt_core.data.domains import DOWNSTREAM, UPSTREAM, SceneDomain
from ssprompt_core.data.procedural import ProceduralDataset
from ssprompt_core.data.scenes import THING_ID, draw_scene
from ssprompt_core.data.support import draw_support
from ssprompt_core.data.textures import SIDE
from ssprompt_core.models.small_sam import GRID, SmallSam

HELD_OUT_SEED = 2
"""Seed of scenes that pretraining never draws."""

MINIMA = {
    "upstream_point_best_of_3_iou": 0.85,
    "upstream_box_iou": 0.90,
    "downstream_box_iou": 0.70,
    "downstream_probe_miou": 0.65,
    "downstream_probe_worst_thing_iou": 0.30,
}


@dataclass(frozen=True)
class Gate:
    """One figure and the least that it must be."""

    name: str
    value: float
    minimum: float

    @property
    def passed(self) -> bool:
        """Whether the figure reaches its minimum."""
        return self.value >= self.minimum


def measure_gates(sam: SmallSam, *, scenes: int = 200, probe_draws: int = 3) -> list[Gate]:
    """Measure all gates through segment-anything's stock calls.

    Args:
        sam: The model, with final weights.
        scenes: Held-out scenes per world for point and box prompts.
        probe_draws: Support draws that the linear probe's figures are averaged over.
    """
    sam = sam.eval()
    with torch.no_grad():
        up_point, up_box = _prompted_iou(sam, UPSTREAM, scenes)
        _, down_box = _prompted_iou(sam, DOWNSTREAM, scenes)
    iou_C = np.mean([_probe_iou(sam, seed) for seed in range(probe_draws)], 0)
    things = iou_C[len(DOWNSTREAM.stuff) :]
    values = {
        "upstream_point_best_of_3_iou": up_point,
        "upstream_box_iou": up_box,
        "downstream_box_iou": down_box,
        "downstream_probe_miou": float(iou_C.mean()),
        "downstream_probe_worst_thing_iou": float(things.min()),
    }
    return [Gate(name, values[name], MINIMA[name]) for name in MINIMA]


def embed(sam: SmallSam, images: NDArray[np.uint8]) -> Tensor:
    """Embeddings ``[B, 96, 24, 24]`` of RGB images uint8 ``[B, 96, 96, 3]``."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    embedding: Tensor = sam.image_encoder((x - sam.pixel_mean) / sam.pixel_std)
    return embedding


def _prompted_iou(sam: SmallSam, domain: SceneDomain, scenes: int) -> tuple[float, float]:
    """Mean IoU over all things: one random inner point (best of 3 masks), and the exact box."""
    rng = np.random.default_rng([HELD_OUT_SEED])
    point, box = [], []
    for index in range(scenes):
        scene = draw_scene(domain, HELD_OUT_SEED, index)
        embedding = embed(sam, scene.image[None])
        for number, corners in enumerate(scene.boxes):
            target = torch.from_numpy(scene.instances == THING_ID + number)
            ys, xs = np.nonzero(target.numpy())
            chosen = rng.integers(len(ys))
            xy = torch.tensor([[[xs[chosen], ys[chosen]]]], dtype=torch.float32)
            masks = _decode(sam, embedding, points=(xy, torch.ones(1, 1)), multimask=True)
            point.append(max(_iou(mask, target) for mask in masks))
            (mask,) = _decode(sam, embedding, boxes=torch.from_numpy(corners)[None])
            box.append(_iou(mask, target))
    return float(np.mean(point)), float(np.mean(box))


def _decode(
    sam: SmallSam,
    embedding: Tensor,
    *,
    points: tuple[Tensor, Tensor] | None = None,
    boxes: Tensor | None = None,
    multimask: bool = False,
) -> Tensor:
    """Masks of one prompt, bool ``[1 or 3, 96, 96]``."""
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    logits, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    masks: Tensor = logits[0] > 0
    return masks


def _iou(mask: Tensor, target: Tensor) -> float:
    return float((mask & target).sum() / (mask | target).sum())


def _probe_iou(sam: SmallSam, seed: int, shots: int = 16) -> NDArray[np.float64]:
    """IoU per class of a linear probe on frozen embeddings, fitted on one K-shot draw."""
    data = ProceduralDataset()
    num_classes = len(data.class_names)
    presence = {i: data.classes_present(i) for i in data.ids("train")}
    support = draw_support(presence, data.class_names, [shots], seed, selection=False)
    features, fractions = [], []
    for images, labels in _batches(data, support.support[shots]):
        with torch.no_grad():
            embedding = embed(sam, images)
        features.append(embedding.flatten(2).transpose(1, 2).reshape(-1, embedding.shape[1]))
        onehot = F.one_hot(torch.from_numpy(labels).long(), num_classes).float()
        cells = F.avg_pool2d(onehot.permute(0, 3, 1, 2), SIDE // GRID)
        fractions.append(cells.flatten(2).transpose(1, 2).reshape(-1, num_classes))
    weight, bias = _logistic_regression(torch.cat(features), torch.cat(fractions))

    confusion = np.zeros((num_classes, num_classes))
    for images, labels in _batches(data, data.ids("test")):
        with torch.no_grad():
            logits = F.conv2d(embed(sam, images), weight[:, :, None, None], bias)
            predicted = F.interpolate(logits, (SIDE, SIDE), mode="bilinear").argmax(1).numpy()
        np.add.at(confusion, (labels.ravel(), predicted.ravel()), 1)
    hits = confusion.diagonal()
    return np.asarray(hits / (confusion.sum(0) + confusion.sum(1) - hits))


def _batches(
    data: ProceduralDataset, ids: tuple[str, ...], size: int = 32
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for start in range(0, len(ids), size):
        chunk = ids[start : start + size]
        images = np.stack([data.image(image_id) for image_id in chunk])
        yield images, np.stack([data.label(image_id) for image_id in chunk])


def _logistic_regression(x_ND: Tensor, y_NC: Tensor, l2: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Weights ``[C, D]`` and bias ``[C]`` of a multinomial logistic regression on soft targets."""
    mean, std = x_ND.mean(0), x_ND.std(0)
    z = (x_ND - mean) / std
    weight = torch.zeros(y_NC.shape[1], x_ND.shape[1], requires_grad=True)
    bias = torch.zeros(y_NC.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=80, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(z @ weight.T + bias, y_NC) + l2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        scaled = weight / std
        return scaled, bias - scaled @ mean

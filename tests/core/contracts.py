"""Contract tests: every data set and every text encoder passes the same ones."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
import torch

from ssprompt_core.data.dataset import IGNORE, SegmentationDataset
from ssprompt_core.errors import UserError
from ssprompt_core.text.encoder import TextEncoder


class DatasetContract(ABC):
    """Subclass with a ``dataset`` fixture of at least two train and one test image."""

    @abstractmethod
    def dataset(self) -> SegmentationDataset: ...

    def test_splits_are_disjoint_and_unique(self, dataset: SegmentationDataset) -> None:
        ids = [i for split in ("train", "val", "test") for i in dataset.ids(split)]
        assert len(ids) == len(set(ids))
        assert len(dataset.ids("train")) >= 2
        assert dataset.ids("test")

    def test_images_and_labels_agree(self, dataset: SegmentationDataset) -> None:
        for image_id in (*dataset.ids("train")[:2], *dataset.ids("test")[:1]):
            image, label = dataset.image(image_id), dataset.label(image_id)
            assert image.dtype == label.dtype == np.uint8
            assert image.shape == (*label.shape, 3)
            values = {int(v) for v in np.unique(label)} - {IGNORE}
            assert values <= set(range(len(dataset.class_names)))
            assert dataset.classes_present(image_id) == values

    def test_reading_twice_gives_the_same(self, dataset: SegmentationDataset) -> None:
        image_id = dataset.ids("train")[0]
        assert np.array_equal(dataset.image(image_id), dataset.image(image_id))
        assert np.array_equal(dataset.label(image_id), dataset.label(image_id))
        assert dataset.digest(image_id) == dataset.digest(image_id)
        assert dataset.label_digest(image_id) == dataset.label_digest(image_id)

    def test_digests_tell_images_apart(self, dataset: SegmentationDataset) -> None:
        first, second = dataset.ids("train")[:2]
        assert dataset.digest(first) != dataset.digest(second)
        assert len(dataset.digest(first)) == 64

    def test_equal_label_digests_mean_equal_labels(self, dataset: SegmentationDataset) -> None:
        seen: dict[str, bytes] = {}
        for image_id in (*dataset.ids("train")[:6], *dataset.ids("test")[:2]):
            digest, label = dataset.label_digest(image_id), dataset.label(image_id)
            assert len(digest) == 64
            assert seen.setdefault(digest, label.tobytes()) == label.tobytes()
        assert len(seen) > 1

    def test_thing_classes_are_classes(self, dataset: SegmentationDataset) -> None:
        assert dataset.thing_classes <= set(range(len(dataset.class_names)))


class TextEncoderContract(ABC):
    """Subclass with an ``encoder`` fixture."""

    @abstractmethod
    def encoder(self) -> TextEncoder: ...

    def test_shape_and_dtype(self, encoder: TextEncoder) -> None:
        embeddings = encoder.encode(["road", "sky", "traffic light"])
        assert embeddings.shape == (3, encoder.dim)
        assert embeddings.dtype == torch.float32
        assert not embeddings.requires_grad
        assert embeddings.isfinite().all()

    def test_equal_texts_equal_embeddings_whatever_stands_beside(
        self, encoder: TextEncoder
    ) -> None:
        alone = encoder.encode(["road"])
        beside = encoder.encode(["sky", "road"])
        torch.testing.assert_close(alone[0], beside[1])
        assert not torch.allclose(beside[0], beside[1])

    def test_fingerprint_is_a_sha256(self, encoder: TextEncoder) -> None:
        assert len(encoder.fingerprint) == 64
        assert int(encoder.fingerprint, 16) >= 0

    def test_an_empty_name_is_refused(self, encoder: TextEncoder) -> None:
        with pytest.raises(UserError, match="at least one word"):
            encoder.encode(["road", "  "])

    def test_gradient_reaches_the_context_alone(self, encoder: TextEncoder) -> None:
        if encoder.context_dim is None:
            pytest.skip("no token embeddings to learn")
        before = encoder.encode(["road", "sky"])
        context_LW = encoder.starting_context(3, torch.Generator().manual_seed(0))
        assert context_LW.shape == (3, encoder.context_dim)
        assert context_LW.std() > 0
        context_LW.requires_grad_()
        embeddings = encoder.encode_with_context(["road", "sky"], context_LW)
        assert embeddings.shape == before.shape
        assert not torch.allclose(embeddings, before)
        embeddings[:, 0].sum().backward()
        assert context_LW.grad is not None
        assert (context_LW.grad.abs().sum(1) > 0).all()
        model: torch.nn.Module = encoder.model
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
        assert torch.equal(encoder.encode(["road", "sky"]), before)

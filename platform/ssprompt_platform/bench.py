"""What a worker needs to train and score: data, stored embeddings, the frozen model, settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.methods import FewShotModel, build_model
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.fit import FitResult, FitSettings, LabelledEmbeddings, Report, fit
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.together import Fit
from ssprompt_platform.cluster import Resources
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.plan import Group
from ssprompt_platform.search.space import method_settings
from ssprompt_platform.sources import SegmenterSource


@dataclass(frozen=True)
class Bench:
    """Made in the driver, sent to the workers once.

    Attributes:
        dataset: The data; in the search without the test labels.
        store: Embeddings of every image that is asked for.
        source: How to build the frozen segmenter.
        texts: The class names and their text embeddings.
        train: The ``train`` group of the configuration.
        resources: What the worker has.
    """

    dataset: SegmentationDataset
    store: EmbeddingStore
    source: SegmenterSource
    texts: ClassTexts
    train: TrainConfig
    resources: Resources

    def with_dataset(self, dataset: SegmentationDataset) -> Bench:
        """The same bench over another view of the data."""
        return replace(self, dataset=dataset)

    @property
    def num_classes(self) -> int:
        """``C``."""
        return len(self.dataset.class_names)

    def labelled(self, image_ids: Sequence[str]) -> LabelledEmbeddings:
        """Embeddings and labels of some images."""
        labels = [self.dataset.label(image_id) for image_id in image_ids]
        return LabelledEmbeddings(
            embeddings=self.store.images([self.dataset.digest(i) for i in image_ids]),
            labels=labels,
            sizes=[(label.shape[0], label.shape[1]) for label in labels],
        )

    def model(self, group: Group, hyperparameters: Mapping[str, Any], seed: int) -> FewShotModel:
        """An untrained model of the group's method."""
        segmenter = self.source.build().to(self.resources.device)
        return build_model(
            group.method,
            method_settings(hyperparameters),
            segmenter,
            self.texts,
            seed=seed,
        )

    def prepared(
        self,
        model: FewShotModel,
        support_ids: Sequence[str],
        *,
        overrides: Mapping[str, Any],
        epochs: int,
        seed: int,
        checkpoint_every: int,
        report: Report,
        get_checkpoint: Callable[[], TrainState | None],
    ) -> Fit:
        """What is to be trained on which support images, to do it together with others.

        ``overrides`` are hyperparameters in place of values of the ``train`` group, and of
        ``epochs``.
        """
        train = replace(self.train, **{"epochs": epochs, **overrides})
        settings = fit_settings(train, self.resources.device, train.epochs, seed)
        settings = replace(settings, checkpoint_every=checkpoint_every)
        return Fit(model, self.labelled(support_ids), settings, report, get_checkpoint)

    def fit(self, model: FewShotModel, support_ids: Sequence[str], **named: Any) -> FitResult:
        """Train a model on its support images; arguments as of :meth:`prepared`."""
        one = self.prepared(model, support_ids, **named)
        return fit(
            one.model,
            one.data,
            one.settings,
            report=one.report,
            get_checkpoint=one.get_checkpoint,
        )


def fit_settings(train: TrainConfig, device: str, epochs: int, seed: int) -> FitSettings:
    """The core's settings of one fit, without checkpoints.

    Raises:
        UserError: The ``train`` group asks for what the device cannot do, or for a value out of
            range.
    """
    return FitSettings(
        epochs=epochs,
        steps_per_epoch=train.steps_per_epoch,
        batch_size=train.batch_size,
        micro_batch=train.micro_batch,
        cells=train.cells,
        ce_weight=train.ce_weight,
        dice_weight=train.dice_weight,
        focal_weight=train.focal_weight,
        focal_gamma=train.focal_gamma,
        class_balance=train.class_balance,
        warm_up=train.warm_up,
        schedule=train.schedule,
        patience=train.patience,
        precision=train.precision,
        device=device,
        compile=train.compile,
        seed=seed,
    )

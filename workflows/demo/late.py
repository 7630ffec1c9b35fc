"""Late fusion: two single-modality models whose decisions are joined point by point.

What the demo calls a model without cross-modal fusion in the strict sense: neither network ever
sees a feature of the other modality. At each point the probability is the geometric mean of the
two, and the distances to start and end are the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from extractors.features import Features
from extractors.storage.store import FeatureStore
from model.checkpoint import load_checkpoint
from model.decoding import decode
from model.loco import LoCo, Prediction
from pipeline.core.events import Event
from pipeline.recipe import Recipe
from workflows.annotations import load_annotations
from workflows.detection.predict import events_of
from workflows.evaluate import evaluate_split
from workflows.metrics import Scores
from workflows.training.build import decoding_settings
from workflows.training.dataset import SplitDataset, feature_tensors


def evaluate_late(recipe: Recipe, checkpoints: Sequence[Path]) -> Scores:
    """Score the joined decisions of trained models on the recipe's test subset.

    Args:
        recipe: Where labels and features lie.
        checkpoints: ``best.safetensors`` of each model; its card says which modality it uses.
    """
    store = FeatureStore.open(recipe.data.features)
    labels = load_annotations(recipe.data.annotations)
    data = SplitDataset(store, labels.subset(recipe.data.test), labels.classes)
    models = [load_checkpoint(path) for path in checkpoints]

    @torch.inference_mode()
    def predict(features: Features) -> list[Event]:
        said = [
            _predict(model, features, modalities=str(card.data["modalities"]))
            for model, card in models
        ]
        found = decode(join_decisions(said), decoding_settings(recipe))[0]
        return events_of(found, labels.classes, features.grid, features.summary.duration)

    return evaluate_split(data, predict, tiou=recipe.eval.tiou)[0].scores


def join_decisions(predictions: Sequence[Prediction]) -> Prediction:
    """Geometric mean of probabilities, mean of distances, at every point.

    Args:
        predictions: Of the same videos by models of one architecture.

    Returns:
        The first prediction with the joined values; a point is valid where any model has it.
    """
    log_probability = torch.stack([F.logsigmoid(each.logits) for each in predictions]).mean(0)
    masks: list[Tensor] = [each.mask for each in predictions]
    return replace(
        predictions[0],
        logits=log_probability - torch.log(-torch.expm1(log_probability)),
        distances=torch.stack([each.distances for each in predictions]).mean(0),
        mask=torch.stack(masks).any(0),
    )


def _predict(model: LoCo, features: Features, *, modalities: str) -> Prediction:
    """One whole video as a batch of one."""
    inputs = (entry[None] for entry in feature_tensors(features, modalities=modalities))
    prediction: Prediction = model(*inputs)
    return prediction

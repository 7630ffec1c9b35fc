"""A classifier of whole videos: what knowing the classes, and nothing of their times, is worth.

Multi-label logistic regression on features that are pooled over time; each class is reported from
the first to the last second, with its probability. It shares nothing with LoCo and is convex, so
that it has neither a seed nor a stopping time.

Shapes: N videos, F pooled features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from workflows.evaluate import EvaluationReport, score, truth_of
from workflows.metrics import TIOU, whole_video_baseline
from workflows.training.dataset import SplitDataset

DECAYS = (1e-3, 1e-2, 1e-1, 1.0)  # strengths of the L2 penalty that are tried
HELD_OUT = 5  # one training video in so many chooses among them
LEAST_SCORE = 1e-3  # classes below it are not reported
ITERATIONS = 200


def evaluate_whole_video(
    train: SplitDataset,
    test: SplitDataset,
    classes: Sequence[str],
    *,
    tiou: Sequence[float] = TIOU,
) -> EvaluationReport:
    """Train on one split and score the whole-video answers on another.

    Args:
        train: Videos to learn from.
        test: Videos to answer for.
        classes: Names of the K classes.
        tiou: Thresholds.
    """
    inputs, answers = pooled(train), _labels(train, classes)
    mean, spread = inputs.mean(0), inputs.std(0, correction=0).clamp(min=1e-6)
    inputs = (inputs - mean) / spread
    weights = fit(inputs, answers, decay=_choose_decay(inputs, answers))
    with torch.no_grad():
        probabilities = _logits((pooled(test) - mean) / spread, weights).sigmoid()
    durations = {id: test.features(id).summary.duration for id in test.ids}
    scores: Mapping[str, Mapping[str, float]] = {
        id: {
            label: float(value)
            for label, value in zip(classes, row, strict=True)
            if value >= LEAST_SCORE
        }
        for id, row in zip(test.ids, probabilities, strict=True)
    }
    return score(
        truth_of(test.videos), whole_video_baseline(durations, scores), durations, tiou=tiou
    )


def pooled(data: SplitDataset) -> Tensor:
    """(N, F) mean, deviation and maximum over the valid steps of both modalities; 0 for none."""
    rows = []
    for id in data.ids:
        sample = data.sample(id)
        parts: list[NDArray[np.float32]] = []
        for values, mask in (
            (sample.vision, sample.vision_mask),
            (sample.audio, sample.audio_mask),
        ):
            valid = values[:, mask].numpy()
            empty = np.zeros((3, len(values)), np.float32)
            found = (valid.mean(1), valid.std(1), valid.max(1)) if valid.size else tuple(empty)
            parts += found
        rows.append(np.concatenate(parts))
    return torch.from_numpy(np.stack(rows)).double()


def fit(inputs: Tensor, answers: Tensor, *, decay: float) -> Tensor:
    """(F + 1, K) weights of a penalised logistic regression, the bias last; by L-BFGS.

    Args:
        inputs: (N, F), standardised.
        answers: (N, K) of 0 and 1.
        decay: Strength of the L2 penalty on all weights but the bias.
    """
    weights = torch.zeros(
        inputs.shape[1] + 1, answers.shape[1], dtype=inputs.dtype, requires_grad=True
    )
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe", tolerance_change=1e-10
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(_logits(inputs, weights), answers)
        loss = loss + decay * weights[:-1].square().sum() / answers.shape[1] / 2
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights.detach()


def _choose_decay(inputs: Tensor, answers: Tensor) -> float:
    """The strength that predicts held-out training videos best."""
    held = torch.arange(len(inputs)) % HELD_OUT == 0
    losses = [
        F.binary_cross_entropy_with_logits(
            _logits(inputs[held], fit(inputs[~held], answers[~held], decay=decay)), answers[held]
        )
        for decay in DECAYS
    ]
    return DECAYS[int(torch.stack(losses).argmin())]


def _logits(inputs: Tensor, weights: Tensor) -> Tensor:
    return inputs @ weights[:-1] + weights[-1]


def _labels(data: SplitDataset, classes: Sequence[str]) -> Tensor:
    """(N, K) which classes have an event in which video."""
    number = {label: index for index, label in enumerate(classes)}
    answers = torch.zeros(len(data.ids), len(classes), dtype=torch.double)
    for row, id in enumerate(data.ids):
        for label in data.videos[id].classes:
            answers[row, number[label]] = 1.0
    return answers

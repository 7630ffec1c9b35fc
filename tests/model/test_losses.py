"""The focal loss at its ends, where powers have no slope and probabilities round to 0 and 1."""

from __future__ import annotations

import pytest
import torch

from model.losses import focal_loss


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_sure_and_right_answer_has_a_finite_gradient(gamma: float, soft: bool) -> None:
    logits = torch.tensor([30.0, -120.0, 0.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0, 1.0]), gamma=gamma, soft=soft)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert slope[:2].tolist() == [0.0, 0.0]
    assert slope[2] < 0

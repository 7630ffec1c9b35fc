"""Points, label assignment, losses and Soft-NMS equal the public implementation's outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.assignment import assign
from model.losses import focal_loss, interval_loss
from model.points import Points, make_points
from model.softnms import multiclass_soft_nms

# float32 arithmetic in another order; measured differences are below 1e-7.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize("length", [224, 256, 192, 2304])
def test_points_are_the_reference_points(golden: Path, length: int) -> None:
    arrays = np.load(golden / "points" / "points_unav.npz")
    points = make_points([length >> level for level in range(6)])
    ours = torch.stack([points.times, points.low, points.high, points.strides], dim=1)
    theirs = np.concatenate([arrays[f"T{length}/disjoint/level{level}"] for level in range(6)])
    np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("case", range(10))
def test_assignment_is_the_reference_assignment(golden: Path, case: int) -> None:
    arrays = np.load(golden / "labels" / "labels_unav.npz")
    table = torch.from_numpy(arrays[f"c{case}/points"])
    target, distance = assign(
        Points(*table.unbind(1)),
        torch.from_numpy(arrays[f"c{case}/segments"]),
        torch.from_numpy(arrays[f"c{case}/labels"]),
        classes=int(arrays[f"c{case}/num_classes"]),
    )
    np.testing.assert_array_equal(target.numpy(), arrays[f"c{case}/class_aware/cls"])
    np.testing.assert_allclose(distance.numpy(), arrays[f"c{case}/class_aware/reg"], **CLOSE)


def test_a_video_without_events_has_targets_of_full_shape() -> None:
    points = make_points([8, 4])
    none = torch.zeros((0, 2)), torch.zeros(0, dtype=torch.long)
    target, distance = assign(points, *none, classes=3)
    assert target.shape == (12, 3)
    assert distance.shape == (12, 3, 2)
    assert not target.any()


@pytest.mark.parametrize("inputs", ["rand", "extreme", "soft"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 2.0)])
def test_focal_loss_and_its_gradient_are_the_reference(
    golden: Path, inputs: str, alpha: float, gamma: float
) -> None:
    arrays = np.load(golden / "losses" / "losses_unav.npz")
    logits = torch.from_numpy(arrays[f"focal/{inputs}/logits"]).requires_grad_()
    targets = torch.from_numpy(arrays[f"focal/{inputs}/targets"])
    loss = focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    loss.sum().backward()
    prefix = f"focal/{inputs}/a{alpha}_g{gamma}"
    np.testing.assert_allclose(loss.detach().numpy(), arrays[f"{prefix}/none"], **CLOSE)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), arrays[f"{prefix}/grad"], **CLOSE)


def test_diou_loss_and_its_gradient_are_the_reference(golden: Path) -> None:
    arrays = np.load(golden / "losses" / "losses_unav.npz")
    predicted = torch.from_numpy(arrays["diou/pred"]).requires_grad_()
    loss = interval_loss(predicted, torch.from_numpy(arrays["diou/target"]), kind="diou")
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach().numpy(), arrays["diou/none"], **CLOSE)
    assert predicted.grad is not None
    # Where both distances tie, the share of the gradient that each gets is a free choice.
    tied = (arrays["diou/pred"] == arrays["diou/target"]).any(1) | (arrays["diou/pred"] == 0).any(1)
    np.testing.assert_allclose(
        predicted.grad.numpy()[~tied], arrays["diou/grad"][~tied], rtol=1e-5, atol=1e-6
    )


def test_giou_of_intervals_around_one_point_is_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.rand((2, 50, 2), generator=generator)
    overlap = torch.minimum(one, two).sum(-1)
    expected = 1 - overlap / (one.sum(-1) + two.sum(-1) - overlap)
    torch.testing.assert_close(interval_loss(one, two, kind="giou"), expected)


@pytest.mark.parametrize("setting", ["unav", "af_epic"])
@pytest.mark.parametrize("case", range(30))
def test_soft_nms_is_the_reference(golden: Path, case: int, setting: str) -> None:
    arrays = np.load(golden / "nms" / "nms_unav.npz")
    options = json.loads((golden / "nms" / "settings.json").read_text())[setting]
    name = f"c{case:02d}"
    segments = torch.from_numpy(arrays[f"{name}/segs"])
    scores = torch.from_numpy(arrays[f"{name}/scores"])
    labels = torch.from_numpy(arrays[f"{name}/labels"])
    index, decayed = multiclass_soft_nms(
        segments,
        scores,
        labels,
        sigma=options["sigma"],
        min_score=options["min_score"],
        max_per_class=options["max_seg_num"],
        max_total=options["max_seg_num"],
    )
    expected = arrays[f"{name}/{setting}/scores"]
    np.testing.assert_allclose(decayed.numpy(), expected, **CLOSE)
    if str(arrays[f"{name}/kind"]) not in ("ties", "identical"):  # there the order is free
        np.testing.assert_array_equal(segments[index].numpy(), arrays[f"{name}/{setting}/segs"])
        np.testing.assert_array_equal(labels[index].numpy(), arrays[f"{name}/{setting}/labels"])

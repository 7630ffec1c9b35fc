"""Points, label assignment, losses and Soft-NMS equal the public implementation's outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.assignment import assign, matches
from model.losses import focal_loss, interval_loss
from model.points import Points, make_points
from model.softnms import interval_iou, multiclass_soft_nms, soft_nms, vote

SETTINGS = (
    "unav", "unav_hard", "af_thumos", "af_thumos_fused", "af_anet", "af_epic",
    "hard_agnostic_vote", "hard_agnostic_novote", "soft_agnostic_novote",
)  # fmt: skip

# float32 arithmetic in another order; measured differences are below 1e-7.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize("length", [224, 256, 192, 2304])
@pytest.mark.parametrize("ranges", ["disjoint", "overlap"])
def test_points_are_the_reference_points(golden: Path, length: int, ranges: str) -> None:
    arrays = np.load(golden / "points" / "points_unav.npz")
    theirs = [arrays[f"T{length}/{ranges}/level{level}"] for level in range(6)]
    given = None if ranges == "disjoint" else [tuple(level[0, 1:3].tolist()) for level in theirs]
    points = make_points([length >> level for level in range(6)], ranges=given)
    ours = torch.stack([points.times, points.low, points.high, points.strides], dim=1)
    np.testing.assert_array_equal(ours.numpy(), np.concatenate(theirs))


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


@pytest.mark.parametrize("case", range(10))
def test_assignment_without_classes_is_the_reference_assignment(golden: Path, case: int) -> None:
    arrays = np.load(golden / "labels" / "labels_unav.npz")
    table = torch.from_numpy(arrays[f"c{case}/points"])
    target, distance = assign(
        Points(*table.unbind(1)),
        torch.from_numpy(arrays[f"c{case}/segments"]),
        torch.from_numpy(arrays[f"c{case}/labels"]),
        classes=int(arrays[f"c{case}/num_classes"]),
        class_aware=False,
    )
    np.testing.assert_array_equal(target.numpy(), arrays[f"c{case}/agnostic/cls"])
    # The reference has one pair of distances a point, and what it holds where no event is, is free.
    point, kind = target.nonzero(as_tuple=True)
    theirs = arrays[f"c{case}/agnostic/reg"][point.numpy()]
    np.testing.assert_allclose(distance[point, kind].numpy(), theirs, **CLOSE)


def test_a_video_without_events_has_targets_of_full_shape() -> None:
    points = make_points([8, 4])
    none = torch.zeros((0, 2)), torch.zeros(0, dtype=torch.long)
    target, distance = assign(points, *none, classes=3)
    assert target.shape == (12, 3)
    assert distance.shape == (12, 3, 2)
    assert not target.any()


def test_a_class_number_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3\] do not all lie in 0\.\.2"):
        assign(make_points([8]), torch.tensor([[1.0, 4.0]]), torch.tensor([3]), classes=3)


def test_an_event_between_two_points_is_missed_unless_the_nearest_point_is_forced() -> None:
    points = make_points([8, 4])
    segments, labels = torch.tensor([[2.2, 2.6], [1.0, 4.0]]), torch.tensor([0, 1])
    assert matches(points, segments).any(0).tolist() == [False, True]
    target, _ = assign(points, segments, labels, classes=2)
    assert not target[:, 0].any()
    target, distance = assign(points, segments, labels, classes=2, force_nearest=True)
    assert target[:, 0].nonzero().flatten().tolist() == [2]  # the point at 2.0 of the finest level
    torch.testing.assert_close(distance[2, 0], torch.tensor([0.0, 0.6]))
    assert target[:, 1].any()


@pytest.mark.parametrize("inputs", ["rand", "extreme", "soft"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 2.0), (0.25, 0.0)])
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


def test_class_aware_diou_loss_and_its_gradient_are_the_reference(golden: Path) -> None:
    arrays = np.load(golden / "losses" / "losses_unav.npz")
    predicted = torch.from_numpy(arrays["diou_ca/pred"]).requires_grad_()
    target = torch.from_numpy(arrays["diou_ca/target"])
    used = (target > 0).any(-1)  # as the model selects: the pairs of a point and a class with event
    loss = interval_loss(predicted[used], target[used], kind="diou")
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach().numpy(), arrays["diou_ca/none"], **CLOSE)
    assert predicted.grad is not None
    np.testing.assert_allclose(predicted.grad.numpy(), arrays["diou_ca/grad"], rtol=1e-5, atol=1e-6)


def test_giou_loss_and_its_gradient_are_the_reference(golden: Path) -> None:
    arrays = np.load(golden / "losses" / "giou_actionformer.npz")
    predicted = torch.from_numpy(arrays["diou/pred"]).requires_grad_()
    loss = interval_loss(predicted, torch.from_numpy(arrays["diou/target"]), kind="giou")
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach().numpy(), arrays["giou/none"], **CLOSE)
    assert predicted.grad is not None
    tied = (arrays["diou/pred"] == arrays["diou/target"]).any(1) | (arrays["diou/pred"] == 0).any(1)
    np.testing.assert_allclose(
        predicted.grad.numpy()[~tied], arrays["giou/grad"][~tied], rtol=1e-5, atol=1e-6
    )


def test_giou_of_intervals_around_one_point_is_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.rand((2, 50, 2), generator=generator)
    overlap = torch.minimum(one, two).sum(-1)
    expected = 1 - overlap / (one.sum(-1) + two.sum(-1) - overlap)
    torch.testing.assert_close(interval_loss(one, two, kind="giou"), expected)


def nms_case(golden: Path, case: int) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    with np.load(golden / "nms" / "nms_unav.npz") as loaded:
        prefix = f"c{case:02d}/"
        arrays = {
            name.removeprefix(prefix): loaded[name]
            for name in loaded.files
            if name.startswith(prefix)
        }
    return arrays, {name: torch.from_numpy(arrays[name]) for name in ("segs", "scores", "labels")}


def has_ties(arrays: dict[str, np.ndarray]) -> bool:
    return str(arrays["kind"]) in ("ties", "identical")


def assert_hard_suppression(
    segments: torch.Tensor, scores: torch.Tensor, index: torch.Tensor, threshold: float
) -> None:
    """The kept do not overlap, and each of the others overlaps a kept one that is no worse."""
    overlaps = interval_iou(segments[:, None], segments[index][None]) >= threshold
    assert torch.equal(overlaps[index], torch.eye(len(index), dtype=torch.bool))
    assert (overlaps & (scores[index][None] >= scores[:, None])).any(1).all()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", range(30))
def test_suppression_and_voting_are_the_reference(golden: Path, case: int, setting: str) -> None:
    options = json.loads((golden / "nms" / "settings.json").read_text())[setting]
    arrays, given = nms_case(golden, case)
    segments, scores, labels = given["segs"], given["scores"], given["labels"]
    method = "gaussian" if options["use_soft_nms"] else "hard"
    chosen = {
        "method": method,
        "sigma": options["sigma"],
        "iou_threshold": options["iou_threshold"],
        "min_score": options["min_score"],
    }
    limit = options["max_seg_num"]
    if options["multiclass"]:
        index, decayed = multiclass_soft_nms(
            segments, scores, labels, **chosen, max_per_class=limit, max_total=limit
        )
    else:
        index, decayed = soft_nms(segments, scores, **chosen, max_total=limit)
    found = segments[index]
    if not options["multiclass"] and options["voting_thresh"] > 0:
        found = vote(found, segments, scores, iou_threshold=options["voting_thresh"])
    if method == "hard" and not options["multiclass"] and has_ties(arrays):
        # Which of two equal scores goes first decides how many survive.
        assert_hard_suppression(segments, scores, index, options["iou_threshold"])
        return
    expected = {name: arrays[f"{setting}/{name}"] for name in ("segs", "scores", "labels")}
    np.testing.assert_allclose(decayed.numpy(), expected["scores"], **CLOSE)
    if not has_ties(arrays):  # there the order is free
        np.testing.assert_allclose(found.numpy(), expected["segs"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(labels[index].numpy(), expected["labels"])


@pytest.mark.parametrize(
    ("ours", "theirs"), [("hard", "hardm0"), ("linear", "linear"), ("gaussian", "gauss")]
)
@pytest.mark.parametrize("case", range(30))
def test_one_class_suppression_is_the_reference(
    golden: Path, case: int, ours: str, theirs: str
) -> None:
    arrays, given = nms_case(golden, case)
    index, decayed = soft_nms(
        given["segs"], given["scores"], method=ours, iou_threshold=0.5, sigma=0.4, min_score=0.001
    )
    expected = arrays[f"raw_{theirs}/dets"]
    np.testing.assert_allclose(decayed.numpy(), expected[:, 2], **CLOSE)
    if not has_ties(arrays):
        np.testing.assert_array_equal(index.numpy(), arrays[f"raw_{theirs}/inds"])
        np.testing.assert_array_equal(given["segs"][index].numpy(), expected[:, :2])


@pytest.mark.parametrize("case", range(30))
def test_hard_suppression_without_a_floor_is_the_reference(golden: Path, case: int) -> None:
    arrays, given = nms_case(golden, case)
    index, decayed = soft_nms(
        given["segs"], given["scores"], method="hard", iou_threshold=0.5, min_score=0.0
    )
    assert torch.equal(decayed, given["scores"][index])
    assert_hard_suppression(given["segs"], given["scores"], index, 0.5)
    if not has_ties(arrays):
        np.testing.assert_array_equal(index.numpy(), arrays["raw_nms/inds"])


def test_classes_do_not_suppress_each_other() -> None:
    segments = torch.tensor([[0.0, 10.0], [0.0, 10.0], [0.0, 10.0]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    index, decayed = multiclass_soft_nms(segments, scores, labels, sigma=0.4)
    assert index.tolist() == [0, 1, 2]
    assert decayed[1] == scores[1]
    assert decayed[2] < 0.1 * scores[2]


def test_stopping_early_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(3000, generator=generator) * 200
    segments = torch.stack([start, start + torch.rand(3000, generator=generator) * 30], dim=1)
    scores = torch.rand(3000, generator=generator)
    labels = torch.randint(0, 7, (3000,), generator=generator)
    everything = multiclass_soft_nms(segments, scores, labels, max_per_class=3000, max_total=3000)
    some = multiclass_soft_nms(segments, scores, labels, max_per_class=3000, max_total=40)
    assert torch.equal(some[0], everything[0][:40])
    assert torch.equal(some[1], everything[1][:40])


def test_nothing_in_gives_nothing_out() -> None:
    none = torch.zeros((0, 2)), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    index, decayed = multiclass_soft_nms(*none)
    assert len(index) == len(decayed) == 0

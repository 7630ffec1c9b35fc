"""Training samples: cut as the reference cuts, never without shape, the same for the same seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.storage.store import FeatureStore
from pipeline.core.errors import ConfigError, StoreError
from tests.fixtures.planted import CLASSES, SPEC, add_video, noise, plant
from workflows.annotations import load_annotations
from workflows.training.batch import Sample, collate
from workflows.training.dataset import SplitDataset, random_crop


def sample(steps: int, *segments: tuple[float, float]) -> Sample:
    return Sample(
        "clip",
        torch.arange(steps, dtype=torch.float32)[None],
        torch.zeros(2, steps),
        torch.ones(steps, dtype=torch.bool),
        torch.ones(steps, dtype=torch.bool),
        torch.tensor(segments, dtype=torch.float32).reshape(-1, 2),
        torch.zeros(len(segments), dtype=torch.long),
    )


def crop(
    whole: Sample, *, seed: int = 0, max_steps: int = 64, keep: float = 0.5, margin: float = 0.0
) -> Sample:
    return random_crop(
        whole,
        max_steps=max_steps,
        share=(0.9, 1.0),
        keep=keep,
        margin=margin,
        generator=random.Random(seed),
    )


def one_video(folder: Path, *events: tuple[float, float], steps: int = 20) -> SplitDataset:
    store = FeatureStore.create(folder / "store", SPEC)
    add_video(store, "a/clip.mp4", noise(np.random.default_rng(0), steps))
    rows = [{"segment": list(event), "label": "dog"} for event in events]
    path = folder / "labels.json"
    entry = {"subset": "train", "annotations": rows}
    path.write_text(json.dumps({"database": {"clip": entry}}))
    return SplitDataset(store, load_annotations(path).subset("train"), CLASSES)


# UnAV cuts events at the piece, ActionFormer half a window beyond it: 0.5 * 24 / 8 steps.
@pytest.mark.parametrize(("code", "margin"), [("unav", 0.0), ("actionformer", 1.5)])
def test_crops_are_those_of_the_reference(golden: Path, code: str, margin: float) -> None:
    cases = np.load(golden / "train" / "crops.npz")
    for seed in range(24):
        case = f"c{seed:02d}"
        segments = torch.from_numpy(cases[f"{case}/segments"]).float()
        labels = torch.from_numpy(cases[f"{case}/labels"]).long()
        whole = sample(int(cases[f"{case}/T"]))
        whole = Sample(*(getattr(whole, n) for n in ("id", "vision", "audio", "vision_mask",
                                                     "audio_mask")), segments, labels)  # fmt: skip
        piece = crop(whole, seed=seed, max_steps=224, margin=margin)
        assert piece.steps == cases[f"{case}/{code}/length"]
        assert piece.vision[0, 0] == cases[f"{case}/{code}/start"]
        np.testing.assert_allclose(piece.segments, cases[f"{case}/{code}/segments"], atol=1e-4)
        np.testing.assert_array_equal(piece.labels, cases[f"{case}/{code}/labels"])


@pytest.mark.parametrize("seed", range(5))
def test_a_short_event_in_a_long_video_is_always_found(seed: int) -> None:
    piece = crop(sample(200_000, (123_456.0, 123_460.0)), seed=seed)
    assert piece.steps == 64
    assert piece.segments.shape == (1, 2)
    event = piece.segments[0] + piece.vision[0, 0]  # where the piece lies in the video
    assert event.tolist() == pytest.approx([123_456.0, 123_460.0])


def test_an_event_longer_than_any_piece_stays_an_event() -> None:
    piece = crop(sample(1000, (0.0, 1000.0)))
    assert piece.segments.tolist() == [[0.0, 64.0]]


def test_where_any_share_is_enough_events_outside_of_the_piece_are_still_left_out() -> None:
    events = [(2.0 * n, 2.0 * n + 1) for n in range(500)]
    piece = crop(sample(1000, *events), keep=0.0)
    assert len(piece.segments) in (32, 33)
    assert (piece.segments[:, 1] > piece.segments[:, 0]).all()


def test_a_video_without_events_is_cut_and_keeps_its_shapes() -> None:
    piece = crop(sample(100))
    assert piece.segments.shape == (0, 2)
    assert piece.labels.shape == (0,)
    batch = collate([piece, sample(10, (1.0, 2.0))])
    assert batch.vision.shape == (2, 1, 64)
    assert batch.vision_mask.sum(1).tolist() == [64, 10]
    assert [len(entry) for entry in batch.segments] == [0, 1]


def test_seconds_become_steps_through_the_grid(tmp_path: Path) -> None:
    data = one_video(tmp_path, (1.0, 2.0))
    # The window centred on 1 s is the third one: 16 frames at 16 fps, every 4 frames.
    assert data.sample("clip").segments.tolist() == [[2.0, 6.0]]
    assert data.sample("clip").labels.tolist() == [CLASSES.index("dog")]


def test_an_event_past_the_end_of_the_extracted_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'clip': 'dog' starts at 99 s.*ends at 5\.75 s"):
        one_video(tmp_path, (1.0, 2.0), (99.0, 100.0))


def test_events_between_the_points_are_counted(tmp_path: Path) -> None:
    data = one_video(tmp_path, (1.05, 1.1), (1.0, 3.0))
    assert data.unreachable(levels=4) == 1


def test_a_long_video_is_shown_as_often_as_it_is_long(tmp_path: Path) -> None:
    data = one_video(tmp_path, (1.0, 2.0), steps=130)
    assert data.crops(64) == ["clip"] * 2
    assert data.crops(130) == ["clip"]


def test_a_masked_modality_counts_as_missing(tmp_path: Path) -> None:
    store, labels = plant(tmp_path, train=1, validation=0, test=0)
    annotations = load_annotations(labels)
    data = SplitDataset(
        FeatureStore.open(store), annotations.subset("train"), CLASSES, modalities="audio"
    )
    whole = data.sample(data.ids[0])
    assert not whole.vision_mask.any()
    assert whole.audio_mask.all()


def test_a_cached_sample_equals_a_fresh_one(tmp_path: Path) -> None:
    store, labels = plant(tmp_path, train=2, validation=0, test=0)
    subset = load_annotations(labels).subset("train")
    opened = FeatureStore.open(store)
    fresh = SplitDataset(opened, subset, CLASSES)
    cached = SplitDataset(opened, subset, CLASSES, cache_bytes=10**9)
    for id in fresh.ids:
        assert cached.sample(id) is cached.sample(id)
        assert torch.equal(fresh.sample(id).vision, cached.sample(id).vision)


def test_videos_without_features_are_listed_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    store, labels = plant(tmp_path, train=2, validation=0, test=0)
    opened = FeatureStore.open(store)
    known = load_annotations(labels).subset("train")
    some = {**known, "train/lost": known["train/00"]}
    data = SplitDataset(opened, some, CLASSES)
    assert data.missing == ["train/lost"]
    assert "1 of 3 annotated videos have no features: train/lost" in data.describe_missing()
    with pytest.raises(StoreError, match="none of the 1 annotated videos"):
        SplitDataset(opened, {"lost": known["train/00"]}, CLASSES)

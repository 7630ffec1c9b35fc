"""Features that would spoil a training are refused by name, or corrected and counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.features import Rows
from extractors.storage.store import FeatureStore
from model.loco import LoCo
from pipeline.core.errors import StoreError
from tests.fixtures.planted import AUDIO_DIM, CLASSES, SPEC, VISION_DIM, add_video, noise
from workflows.annotations import load_annotations
from workflows.evaluate import evaluate_split
from workflows.training.batch import collate
from workflows.training.dataset import SplitDataset


def dataset(
    folder: Path, rows: Rows, *events: tuple[float, float], duration: float = 60.0
) -> SplitDataset:
    store = FeatureStore.create(folder / "store", SPEC)
    add_video(store, "clip.mp4", rows)
    annotations = [{"segment": list(event), "label": "dog"} for event in events]
    entry = {"subset": "train", "duration": duration, "annotations": annotations}
    path = folder / "labels.json"
    path.write_text(json.dumps({"database": {"clip": entry}}))
    return SplitDataset(store, load_annotations(path).subset("train"), CLASSES)


def rows(steps: int = 20) -> Rows:
    return noise(np.random.default_rng(0), steps)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("modality", ["vision", "audio"])
def test_a_value_that_is_not_finite_is_named_before_it_spoils_a_training(
    value: float, modality: str, tmp_path: Path
) -> None:
    bad = rows()
    bad[modality][13, 2] = value
    data = dataset(tmp_path, bad, (1.0, 2.0))
    for look in (data.sample, data.features):
        with pytest.raises(StoreError, match=rf"'clip' in .*: {modality} is not finite in step 13"):
            look("clip")


def test_a_bad_value_far_into_a_long_video_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractors.storage.finite.BLOCK_STEPS", 7)
    bad = rows(30)
    bad["audio"][29, 0] = np.nan
    with pytest.raises(StoreError, match="audio is not finite in step 29"):
        dataset(tmp_path, bad, (1.0, 2.0)).sample("clip")


def test_an_event_that_ends_after_the_features_is_clipped_and_counted(tmp_path: Path) -> None:
    data = dataset(tmp_path, rows(), (1.0, 2.0), (3.0, 50.0), (4.0, 6.0))
    # 20 steps are 5.75 s; an end at 6 s is taken for rounding.
    assert data.clipped == 1
    assert data.sample("clip").segments.tolist() == [[2.0, 6.0], [10.0, 21.0], [14.0, 21.0]]
    assert [event.end for event in data.videos["clip"].events] == [2.0, 50.0, 6.0]


@pytest.mark.parametrize("lost", [("vision",), ("audio",), ("vision", "audio")])
def test_missing_modalities_leave_loss_and_gradients_finite(
    lost: tuple[str, ...], tmp_path: Path
) -> None:
    masked = rows()
    for modality in lost:
        masked[modality][:] = 0
        masked[f"{modality}_mask"][:] = False
    sample = dataset(tmp_path, masked, (1.0, 2.0)).sample("clip")
    batch = collate([sample, sample], steps=24)
    torch.manual_seed(0)
    model = LoCo(
        vision_dim=VISION_DIM,
        audio_dim=AUDIO_DIM,
        classes=len(CLASSES),
        channels=8,
        heads=2,
        unimodal_blocks=1,
        levels=3,
        decoder_channels=8,
        max_seq_len=24,
    )
    found = model(batch.vision, batch.audio, batch.vision_mask, batch.audio_mask)
    losses = model.loss(found, batch.segments, batch.labels)
    losses.total.backward()
    assert losses.total.isfinite()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_what_was_left_out_of_the_truth_stands_beside_the_score(tmp_path: Path) -> None:
    data = dataset(tmp_path, rows(20), (1.0, 2.0), (3.0, 8.0))
    end = data.features("clip").summary.duration
    assert 3.0 < end < 7.0
    report, _ = evaluate_split(data, lambda features: [], notes=["13 bad rows were left out"])
    assert report.to_json()["notes"] == [
        "13 bad rows were left out",
        "1 events end after what was extracted of their video",
    ]
    assert "note: 13 bad rows were left out" in report.format_table()

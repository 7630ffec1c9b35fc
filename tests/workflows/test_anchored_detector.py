"""CLASP without training on raw files and stored features, and the choice of a method."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.audio.yamnet import audioset_classes
from extractors.features import Features, Rows, Summary
from extractors.lite_spec import EFFICIENTNET_LITE0, LITE, YAMNET
from extractors.media.ffmpeg import ffmpeg_binary
from extractors.spec import Backbone, BackboneSpec, Encoded
from extractors.vision.efficientnet import imagenet_classes
from extractors.windows import WindowGrid
from model.build import build_network
from model.checkpoint import Card, save_checkpoint
from pipeline.core.errors import UsageError
from pipeline.core.events import AGREEMENT, Event
from tests.fixtures.backbones import encoder_spec, toy
from tests.fixtures.texts import DIMS, PlantedTexts, direction
from workflows.detection import open_encoders
from workflows.detection import run as detect
from workflows.detection.agreement import lite_table
from workflows.detection.anchored import (
    AnchoredDetector,
    AnchoredScorer,
    AnchoredSettings,
    anchors_on_agreement,
    anchors_on_vocabulary,
)
from workflows.detection.open_vocabulary import OpenVocabularyDetector
from workflows.detection.run import METHODS, AgreementDetector, load_detector

BARK, DOG = 70, 207  # "Bark" of AudioSet, "golden retriever" of ImageNet


class WhiteIsDog:
    """A picture net that sees a dog in anything bright."""

    spec = EFFICIENTNET_LITE0
    class_names = imagenet_classes()

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 32, 32

    def embed(self, frames: np.ndarray) -> Encoded:
        bright = frames.mean(axis=(1, 2, 3)) > 128
        scores = np.full((len(frames), 1000), 1e-3, np.float32)
        scores[bright] = 1e-5
        scores[bright, DOG] = 0.95
        embeddings = np.ones((len(frames), 1280), np.float32)
        embeddings[bright, :640] = -1
        return Encoded(embeddings, scores)


class LoudIsBark:
    """A sound net that hears barking in anything loud."""

    spec = YAMNET
    class_names = audioset_classes()

    def embed(self, windows: np.ndarray) -> Encoded:
        loud = np.abs(windows).mean(axis=1) > 0.02
        scores = np.full((len(windows), 521), 1e-4, np.float32)
        scores[loud, BARK] = 0.95
        embeddings = np.ones((len(windows), 1024), np.float32)
        embeddings[loud, :512] = -1
        return Encoded(embeddings, scores)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(LITE, WhiteIsDog(), LoudIsBark())


@pytest.fixture(scope="module")
def detector(backbone: Backbone) -> AnchoredDetector:
    return anchors_on_agreement(backbone, lite_table())


def clip(path: Path, *, silent: bool = False, black: bool = False) -> Path:
    """12 s: white from 3 to 8 s, a tone from 5 to 10 s."""
    white = "between(t,3,8)" if not black else "0"
    loud = "4*between(t,5,10)" if not silent else "0"
    picture = f"color=black:s=64x48:r=25:d=12,drawbox=c=white:t=fill:enable='{white}'"
    sound = f"sine=f=800:r=16000:d=12,volume=volume='{loud}':eval=frame"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", picture]
    subprocess.run(
        [*command, "-f", "lavfi", "-i", sound, "-pix_fmt", "yuv420p", str(path)], check=True
    )
    return path


def test_what_is_seen_and_heard_at_once_is_the_event(
    detector: AnchoredDetector, tmp_path: Path
) -> None:
    path = clip(tmp_path / "white and loud.mp4")
    found = detector(path)
    assert found.video == os.fspath(path) and found.detector == "CLASP without training (lite)"
    assert {event.label for event in found.events} == {"dog barking"}
    best = max(found.events, key=lambda event: event.score)
    assert best.start == pytest.approx(5, abs=0.6) and best.end == pytest.approx(8, abs=0.6)
    assert found.notes == ()
    assert found.curves is not None
    assert found.curves.labels[0] == "dog barking" and found.curves.labels[-1] == AGREEMENT


@pytest.mark.parametrize(
    "lacks", [{"silent": True}, {"black": True}, {"silent": True, "black": True}], ids=str
)
def test_a_silent_or_black_video_has_no_event(
    detector: AnchoredDetector, tmp_path: Path, lacks: dict[str, bool]
) -> None:
    found = detector(clip(tmp_path / "nothing.mp4", **lacks))
    assert found.events == () and found.notes == ()


def test_a_label_that_the_nets_do_not_know_has_a_way_out(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="unknown label 'welding'") as caught:
        anchors_on_agreement(backbone, lite_table(), labels=["welding"])
    assert "--method open-vocabulary" in str(caught.value.hint)


def test_labels_choose_what_is_reported(backbone: Backbone, tmp_path: Path) -> None:
    lions = anchors_on_agreement(backbone, lite_table(), labels=["lions roaring"])
    found = lions(clip(tmp_path / "dog.mp4"))
    assert found.events == () and found.curves is not None
    assert set(found.curves.labels) <= {"lions roaring", AGREEMENT}
    with pytest.raises(UsageError, match="unknown label"):
        anchors_on_agreement(backbone, lite_table(), labels=["unicorn"])


LABELS = ("bell", "dog")


def said(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Any source of probabilities will do; here the rows carry them."""
    return rows["heard"], rows["seen"]


def rows_of(steps: int, *, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    there = np.ones(steps, np.bool_)
    return {
        "heard": rng.random((steps, 2)).astype(np.float32),
        "seen": rng.random((steps, 2)).astype(np.float32),
        "audio": rng.normal(size=(steps, 4)).astype(np.float32),
        "vision": rng.normal(size=(steps, 5)).astype(np.float32),
        "audio_mask": there,
        "vision_mask": there,
    }


def curves_of(
    rows: Rows, *cuts: int, settings: AnchoredSettings | None = None
) -> tuple[list[Event], dict[str, np.ndarray]]:
    """Events and curves of rows that come in blocks."""
    scorer = AnchoredScorer(LABELS, said, settings or AnchoredSettings(min_score=0.0))
    steps = len(rows["heard"])
    for first, last in pairwise([0, *cuts, steps]):
        scorer.add({name: array[first:last] for name, array in rows.items()})
    events, curves = scorer.finish(LITE.grid, LITE.grid.step_seconds * steps + 0.75)
    return events, dict(zip(curves.labels, curves.values.T, strict=True))


def test_the_cut_into_blocks_decides_nothing() -> None:
    whole, curves = curves_of(rows_of(90))
    blocks, others = curves_of(rows_of(90), 1, 40, 41)
    assert whole == blocks and curves.keys() == others.keys() == {*LABELS, AGREEMENT}
    assert all(np.array_equal(curves[name], others[name]) for name in curves)


def test_a_long_video_is_worked_on_in_pieces_and_answered_for_as_a_whole() -> None:
    pieces = replace(AnchoredSettings().pieces, chunk=64, overlap=16)
    settings = AnchoredSettings(min_score=0.0, pieces=pieces)
    rows = rows_of(200)
    events, curves = curves_of(rows, settings=settings)
    _, first = curves_of({name: array[:64] for name, array in rows.items()}, settings=settings)
    for name in LABELS:
        assert len(curves[name]) == 200
        np.testing.assert_array_equal(curves[name][:50], first[name][:50])
    assert max(event.end for event in events) > 45


@pytest.mark.parametrize("steps", [1, 2])
def test_videos_of_one_or_two_steps_are_answered_for(steps: int) -> None:
    _, curves = curves_of(rows_of(steps))
    assert len(curves[AGREEMENT]) == steps


def test_stored_features_of_other_nets_are_refused(detector: AnchoredDetector) -> None:
    summary = Summary(2.75, 8, {"vision": 1.0, "audio": 1.0}, {"vision": "test"}, "done")
    features = Features("clip", LITE.grid, "digest", rows_of(8), summary)
    with pytest.raises(UsageError, match="are of backbone digest"):
        detector.detect_features(features)


WORDS = Backbone(
    BackboneSpec(
        "hf:words",
        WindowGrid(),
        encoder_spec("vision", unit="frame", dim=DIMS["vision"], classes=0),
        encoder_spec("audio", unit="window", dim=DIMS["audio"], classes=0),
    ),
    WhiteIsDog(),
    LoudIsBark(),
)


def words(labels: Sequence[str]) -> OpenVocabularyDetector:
    return OpenVocabularyDetector(WORDS, PlantedTexts, labels=labels)


def test_anchors_also_stand_on_the_scores_of_free_text() -> None:
    steps, rng = 80, np.random.default_rng(0)
    rows = {"vision_mask": np.ones(steps, bool), "audio_mask": np.ones(steps, bool)}
    for modality, quiet in (("vision", "an empty room"), ("audio", "silence")):
        names = ["glass smashing" if 30 <= step < 50 else quiet for step in range(steps)]
        array = np.stack([direction(name, modality) for name in names])
        array += 0.03 * rng.normal(size=array.shape)
        rows[modality] = (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)
    grid = WORDS.spec.grid
    seconds = grid.span(steps - 1)[1]
    summary = Summary(seconds, steps, {}, {}, "done")
    features = Features("clip", grid, WORDS.spec.digest, rows, summary)
    detector = anchors_on_vocabulary(words(["chainsaw", "glass smashing"]))
    events, curves = detector.detect_features(features)
    assert detector.name == "CLASP without training (hf:words)"
    assert [event.label for event in events] == ["glass smashing"]
    centres = grid.centres(steps)
    assert events[0].start == pytest.approx(centres[30], abs=0.5)
    assert events[0].end == pytest.approx(centres[49], abs=0.5)
    assert set(curves.labels) == {"chainsaw", "glass smashing", AGREEMENT}


# The choice of a method.


@pytest.fixture
def nets(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "load_backbone", lambda name, **rest: backbone)


def test_the_method_chooses_a_detector_that_needs_no_training(nets: None) -> None:
    assert isinstance(load_detector(), AgreementDetector)
    assert isinstance(load_detector(method="agreement"), AgreementDetector)
    clasp = load_detector(method="clasp", min_score=0.6, labels=["dog barking"])
    assert isinstance(clasp, AnchoredDetector)
    assert clasp.settings.min_score == 0.6 and clasp.labels == ("dog barking",)
    assert {"agreement", "clasp"} <= set(METHODS)


@pytest.mark.parametrize("backbone", ["hf:a+b", "unav-hf:a+b"])
def test_a_pair_of_encoders_with_text_makes_its_anchors_on_free_text(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_encoders, "load_open_vocabulary", lambda labels, **rest: words(labels))
    found = load_detector(method="clasp", backbone=backbone, labels=["glass smashing"])
    assert isinstance(found, AnchoredDetector) and found.labels == ("glass smashing",)


def test_unknown_methods_and_those_that_need_training_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown method 'magic'"):
        load_detector(method="magic")
    with pytest.raises(UsageError, match="method 'loco' needs a trained model"):
        load_detector(method="loco")


def test_nets_without_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "load_backbone", lambda name, **rest: toy())
    with pytest.raises(UsageError, match="which the clasp detector needs"):
        load_detector(method="clasp")


@pytest.mark.parametrize(("method", "other"), [("clasp", "loco"), ("loco", "clasp")])
def test_a_checkpoint_names_its_own_method(tmp_path: Path, method: str, other: str) -> None:
    torch.manual_seed(0)
    architecture = {"vision_dim": 1280, "audio_dim": 1024, "classes": 2, "channels": 8, "heads": 2}
    if method == "loco":
        architecture |= {"decoder_channels": 8, "levels": 2}
    model = build_network(method, **architecture)
    card = Card(architecture, ("bell", "dog"), LITE.to_json(), LITE.digest, method=method)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), card)
    assert load_detector(path, device="cpu").labels == ("bell", "dog")
    assert load_detector(path, method=method, device="cpu").labels == ("bell", "dog")
    with pytest.raises(UsageError, match=f"holds a model of method '{method}', not '{other}'"):
        load_detector(path, method=other, device="cpu")

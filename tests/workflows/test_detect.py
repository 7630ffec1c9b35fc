"""From a file to its events, with nets that know one picture and one sound."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.audio.yamnet import audioset_classes
from extractors.lite_spec import EFFICIENTNET_LITE0, LITE, YAMNET
from extractors.media.ffmpeg import ffmpeg_binary
from extractors.spec import Backbone, Encoded
from extractors.storage.store import FeatureStore
from extractors.stream import extract_features
from extractors.vision.efficientnet import imagenet_classes
from model.checkpoint import Card, load_checkpoint, save_checkpoint
from model.decoding import DecodingSettings, step_activation
from model.loco import LoCo, Prediction
from model.sequence import SequenceDetector
from pipeline.core.errors import MediaError, UsageError
from pipeline.core.events import Detections, Event
from tests.fixtures.backbones import toy
from workflows.bench.clips import Clip, ClipsReport, Presence, judge, load_clips, measure_clips
from workflows.detection import predict
from workflows.detection import run as detect
from workflows.detection.agreement import AgreementSettings, lite_table
from workflows.detection.piecewise import ActivationTrack, block_of
from workflows.detection.predict import TrainedDetector
from workflows.detection.run import AgreementDetector, load_detector
from workflows.labels import known_labels

BARK, DOG = 70, 207  # "Bark" of AudioSet, "golden retriever" of ImageNet


class WhiteIsDog:
    """A picture net that sees a dog in anything bright."""

    spec = EFFICIENTNET_LITE0
    class_names = imagenet_classes()

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 32, 32

    def embed(self, frames: np.ndarray) -> Encoded:
        scores = np.full((len(frames), 1000), 1e-3, np.float32)
        scores[frames.mean(axis=(1, 2, 3)) > 128] = 1e-5
        scores[frames.mean(axis=(1, 2, 3)) > 128, DOG] = 0.95
        return Encoded(np.zeros((len(frames), 1280), np.float32), scores)


class LoudIsBark:
    """A sound net that hears barking in anything loud."""

    spec = YAMNET
    class_names = audioset_classes()

    def embed(self, windows: np.ndarray) -> Encoded:
        scores = np.full((len(windows), 521), 1e-4, np.float32)
        scores[np.abs(windows).mean(axis=1) > 0.02, BARK] = 0.95
        return Encoded(np.zeros((len(windows), 1024), np.float32), scores)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(LITE, WhiteIsDog(), LoudIsBark())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s: white from 3 to 8 s, a tone from 5 to 10 s."""
    path = tmp_path_factory.mktemp("detect") / "white and loud.mp4"
    picture = "color=black:s=64x48:r=25:d=12,drawbox=c=white:t=fill:enable='between(t,3,8)'"
    sound = "sine=f=800:r=16000:d=12,volume=volume='4*between(t,5,10)':eval=frame"
    make(path, ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound])
    return path


def make(path: Path, inputs: Sequence[str]) -> None:
    output = ("-pix_fmt", "yuv420p", str(path))
    subprocess.run([ffmpeg_binary(), "-v", "error", *inputs, *output], check=True)


def test_what_is_seen_and_heard_at_once_is_the_event(backbone: Backbone, clip: Path) -> None:
    detector = AgreementDetector(backbone, lite_table())
    found = detector(clip)
    assert found.video == os.fspath(clip) and found.detector == "agreement (lite)"
    assert found.duration == pytest.approx(12, abs=0.1)
    assert {event.label for event in found.events} == {"dog barking"}
    best = max(found.events, key=lambda event: event.score)
    assert best.start == pytest.approx(5, abs=0.6) and best.end == pytest.approx(8, abs=0.6)
    assert found.notes == ()
    assert found.curves is not None and found.curves.labels == ("dog barking",)


def test_labels_choose_what_is_reported(backbone: Backbone, clip: Path) -> None:
    found = AgreementDetector(backbone, lite_table(), labels=["lions roaring"])(clip)
    assert found.events == () and found.curves is not None and found.curves.labels == ()


@pytest.mark.parametrize("missing", ["sound", "picture"])
def test_a_missing_stream_is_said_and_no_event_is_invented(
    backbone: Backbone, clip: Path, tmp_path: Path, missing: str
) -> None:
    path = tmp_path / "half.mp4"
    make(path, ["-i", str(clip), "-an" if missing == "sound" else "-vn"])
    found = AgreementDetector(backbone, lite_table())(path)
    assert found.events == ()
    assert any(f"without {missing} none can be found" in note for note in found.notes)


def test_a_truncated_file_says_that_its_result_is_partial(
    backbone: Backbone, clip: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    make(whole, ["-i", str(clip), "-c:v", "mpeg4", "-q:v", "2"])
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    found = AgreementDetector(backbone, lite_table())(cut)
    assert any("partial result" in note for note in found.notes)


def test_a_file_that_is_no_media_is_one_clear_error(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("not a video")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        AgreementDetector(backbone, lite_table())(path)


def test_an_unknown_label_is_told_apart_from_one_that_cannot_be_known() -> None:
    table = lite_table()
    with pytest.raises(UsageError, match="did you mean 'dog barking'"):
        known_labels(["dog barkin"], table.labels, table.unknown)
    for name in ("man speaking", "Man  speaking"):
        with pytest.raises(UsageError, match="ImageNet has no person"):
            known_labels([name], table.labels, table.unknown)
    with pytest.raises(UsageError, match="no class to report"):
        known_labels([], table.labels)
    assert known_labels(["playing harp", "dog barking"], table.labels) == (
        "dog barking",
        "playing harp",
    )


def test_case_matters_only_between_classes_that_differ_in_nothing_else() -> None:
    assert known_labels(["DOG  barking"], ["cat", "dog barking"]) == ("dog barking",)
    assert known_labels(["dog"], ["Dog", "dog"]) == ("dog",)
    with pytest.raises(UsageError, match="unknown label 'DOG'"):
        known_labels(["DOG"], ["Dog", "dog"])


def test_a_backbone_that_names_no_classes_is_refused(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = replace(LITE, audio=replace(YAMNET, classes=0))
    monkeypatch.setattr(detect, "load_backbone", lambda name, **_: replace(backbone, spec=mute))
    with pytest.raises(UsageError, match="names no classes"):
        load_detector(backbone="mute")


def test_the_smallest_score_reaches_the_detector(
    backbone: Backbone, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "load_backbone", lambda name, **_: backbone)
    assert load_detector(min_score=0.999)(clip).events == ()
    assert load_detector()(clip).events != ()


# ---- a trained checkpoint on raw files -----------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network on the toy nets, untrained, that looks at 4 s at a time."""
    torch.manual_seed(4)
    architecture = {
        "vision_dim": 3, "audio_dim": 2, "classes": 2, "channels": 8, "heads": 2,
        "decoder_channels": 8, "levels": 2, "unimodal_blocks": 1, "window": 4, "prior": 0.3,
    }  # fmt: skip
    pieces = {"decoding": {"chunk": 16, "overlap": 8}}
    spec = toy().spec
    card = Card(architecture, ("dog", "cat"), spec.to_json(), spec.digest, data=pieces)
    save_checkpoint(tmp_path / "toy.safetensors", LoCo(**architecture).state_dict(), card)
    monkeypatch.setattr(predict, "backbone_spec", lambda name, **_: spec)
    monkeypatch.setattr(predict, "load_backbone", lambda name, **_: toy())
    return tmp_path / "toy.safetensors"


def test_a_file_that_streams_through_gives_what_its_stored_features_give(
    checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    detector = TrainedDetector(checkpoint, device="cpu", min_score=0.0)
    streamed = detector(clip)
    assert len(streamed.events) > 10, "an untrained network says something everywhere"
    store = FeatureStore.create(tmp_path / "store", toy().spec)
    features = extract_features(clip, toy())
    assert features.steps > 2 * 16
    with store.writer("clip") as writer:
        writer.append({name: np.asarray(array) for name, array in features.arrays.items()})
        writer.finish(features.summary)
    for source in (features, store.read("clip")):
        again = detector.detections(source, video=os.fspath(clip))
        assert again == streamed  # times and scores to the last bit
        assert again.curves is not None and streamed.curves is not None
        assert again.curves.labels == streamed.curves.labels
        assert np.array_equal(again.curves.values, streamed.curves.values)
        assert np.array_equal(again.curves.times, streamed.curves.times)
        assert len(again.curves.times) == features.steps


def test_a_detector_never_holds_more_than_a_piece(checkpoint: Path, clip: Path) -> None:
    detector, sizes = TrainedDetector(checkpoint, device="cpu"), []
    detector._predict._model.register_forward_pre_hook(
        lambda model, inputs: sizes.append(inputs[0].shape[-1])
    )
    steps = len(detector(clip).curves.times)  # type: ignore[union-attr]
    assert max(sizes) == 16 and len(sizes) == 1 + -(-(steps - 16) // 8)


def test_curves_over_pieces_are_the_best_of_both(checkpoint: Path) -> None:
    model, _ = load_checkpoint(checkpoint)
    said: list[tuple[int, np.ndarray]] = []
    track = ActivationTrack(2)

    def watch(start: int, prediction: Prediction) -> None:
        said.append((start, step_activation(prediction, 0).numpy()))
        track(start, prediction)

    settings = DecodingSettings(chunk=16, overlap=12)
    scan = SequenceDetector(model, settings=settings, watch=watch)
    mask = torch.ones(50, dtype=torch.bool)
    scan.add(torch.randn(3, 50), torch.randn(2, 50), mask, mask)
    scan.finish()
    expected = np.zeros((50, 2), np.float32)
    for start, values in said:
        part = expected[start : start + len(values)]
        np.maximum(part, values, out=part)
    curves = track.curves([], ("dog", "cat"), toy().spec.grid)
    order = [("dog", "cat").index(label) for label in curves.labels]
    assert np.array_equal(curves.values, expected[:, order].astype(np.float16))


def test_a_network_for_one_modality_is_not_shown_the_other() -> None:
    rows = {
        "vision": np.ones((4, 3), np.float32), "audio": np.ones((4, 2), np.float32),
        "vision_mask": np.ones(4, bool), "audio_mask": np.ones(4, bool),
    }  # fmt: skip
    _, _, seen, heard = block_of(rows, modalities="audio")
    assert heard.all() and not seen.any() and rows["vision_mask"].all()


# ---- the table of real clips ------------------------------------------------------------------


def result(label: str, start: float, end: float) -> Detections:
    return Detections("x.mp4", 10.0, (Event(start, end, label, 0.8),), "test")


CHAINSAW = Clip(
    file="x.mp4",
    counted=True,
    events=(Presence("chainsawing trees", 3, 6),),
    heard_only=(Presence("chainsawing trees", 6, 9), Presence("wind noise", 0, float("inf"))),
    seen_only=(Presence("dog barking", 0, float("inf")),),
)


def test_a_clip_is_right_when_the_strongest_event_has_its_class() -> None:
    right = judge(CHAINSAW, result("chainsawing trees", 3, 5), ["chainsawing trees"])
    assert right.right and right.verdict == "right" and right.tiou == pytest.approx(2 / 3)
    assert right.false_alarms == ()
    nothing = judge(CHAINSAW, Detections("x", 10.0, (), "test"), ["chainsawing trees"])
    assert nothing.verdict == "nothing" and not nothing.right
    assert judge(CHAINSAW, result("dog barking", 0, 1), []).verdict == "wrong, cannot know"


def test_firing_for_what_is_only_heard_or_only_seen_is_counted() -> None:
    known = ["chainsawing trees", "dog barking"]
    absent = judge(CHAINSAW, result("dog barking", 0, 1), known)
    assert [(a.how, a.seconds) for a in absent.false_alarms] == [("only seen", 1.0)]
    beyond = judge(CHAINSAW, result("chainsawing trees", 3, 8), known)
    assert [(a.how, a.seconds) for a in beyond.false_alarms] == [("only heard", 2.0)]
    report = ClipsReport("test", (absent, beyond), ("gone.mp4",)).format_table()
    assert "FALSE ALARM x.mp4: dog barking" in report and "gone.mp4" in report
    assert "reaches 2.00 s into" in report
    assert absent.traps == 2, "wind noise is no trap for a detector that does not know it"


def test_the_committed_clips_are_the_35_and_some_more() -> None:
    clips = load_clips()
    assert sum(clip.counted for clip in clips) == 35
    assert len({clip.file for clip in clips}) == len(clips)
    assert all(p.end > p.start for c in clips for p in (*c.events, *c.heard_only, *c.seen_only))


def test_only_clips_that_are_there_are_measured(tmp_path: Path) -> None:
    (tmp_path / "avsync15").mkdir()
    (tmp_path / "avsync15" / "lions_roaring.mp4").write_bytes(b"")

    class Roars:
        name = "test"
        labels = ("lions roaring",)

        def __call__(self, path: str | os.PathLike[str]) -> Detections:
            return Detections(os.fspath(path), 4.0, (Event(0, 4, "lions roaring", 1.0),), "test")

    report = measure_clips(tmp_path, detector=Roars())
    assert [r.verdict for r in report.results] == ["right"] and report.results[0].tiou == 1.0
    assert len(report.missing) == len(load_clips()) - 1


def test_settings_are_taken(backbone: Backbone, clip: Path) -> None:
    strict = AgreementSettings(min_score=0.999)
    assert AgreementDetector(backbone, lite_table(), settings=strict)(clip).events == ()

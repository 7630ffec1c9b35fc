"""Events in free text, on planted embeddings: found where both streams show them, only there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractors.features import Features, Summary
from extractors.media.ffmpeg import ffmpeg_binary
from extractors.spec import MODALITIES, Backbone, BackboneSpec, Encoded, Modality
from extractors.windows import WindowGrid
from pipeline.core.errors import UsageError
from pipeline.core.events import Event
from tests.fixtures.backbones import encoder_spec
from tests.fixtures.texts import DIMS, PlantedTexts, direction
from workflows.detection.open_vocabulary import OpenVocabularyDetector, OpenVocabularySettings
from workflows.unav100 import class_names
from workflows.weak.predict import LocalisationSettings

GRID = WindowGrid()
STEPS = 80
NOISE = 0.5  # length of the noise beside directions of length 1
Spans = Mapping[str, tuple[int, int]]
LABELS = ("dog barking", "chainsaw", "glass smashing")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def stream(
    modality: Modality, spans: Spans, *, background: str, steps: int, noise: float
) -> np.ndarray:
    """What is there at each step, or the background where nothing is; and noise."""
    rng = np.random.default_rng(7)
    rows = unit(rng.normal(size=(steps, DIMS[modality]))) * noise
    for step in range(steps):
        there = [name for name, (first, end) in spans.items() if first <= step < end]
        rows[step] += np.sum([direction(name, modality) for name in there or [background]], axis=0)
    return unit(rows)


def planted(
    *,
    heard: Spans,
    seen: Spans,
    room: str = "an empty room",
    quiet: str = "silence",
    steps: int = STEPS,
    noise: float = NOISE,
) -> Features:
    arrays = {
        "vision": stream("vision", seen, background=room, steps=steps, noise=noise),
        "audio": stream("audio", heard, background=quiet, steps=steps, noise=noise),
        "vision_mask": np.ones(steps, bool),
        "audio_mask": np.ones(steps, bool),
    }
    seconds = GRID.span(steps - 1)[1]
    return Features("v", GRID, SPEC.digest, arrays, Summary(seconds, steps, {}, {}, "done"))


class WhiteIsDog:
    """A picture net that sees a dog in anything bright, and else an empty room."""

    spec = encoder_spec("vision", unit="frame", dim=DIMS["vision"], classes=0)
    class_names: tuple[str, ...] = ()

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 32, 24

    def embed(self, frames: np.ndarray) -> Encoded:
        bright = frames.mean(axis=(1, 2, 3)) > 128
        names = np.where(bright, "dog barking", "an empty room")
        rows = np.stack([direction(name, "vision") for name in names])
        return Encoded(rows.astype(np.float32), None)


class LoudIsBark:
    """A sound net that hears barking where half a window is loud, and else silence."""

    spec = encoder_spec("audio", unit="window", dim=DIMS["audio"], classes=0)
    class_names: tuple[str, ...] = ()

    def embed(self, windows: np.ndarray) -> Encoded:
        loud = np.abs(windows).mean(axis=1) > 0.15
        names = np.where(loud, "dog barking", "silence")
        rows = np.stack([direction(name, "audio") for name in names])
        return Encoded(rows.astype(np.float32), None)


SPEC = BackboneSpec("planted", GRID, WhiteIsDog.spec, LoudIsBark.spec)
BACKBONE = Backbone(SPEC, WhiteIsDog(), LoudIsBark())


def detector(
    *labels: str, settings: OpenVocabularySettings | None = None
) -> OpenVocabularyDetector:
    return OpenVocabularyDetector(
        BACKBONE, PlantedTexts, labels=labels or LABELS, settings=settings
    )


def found(features: Features, *labels: str) -> list[Event]:
    return detector(*labels).detect_features(features)[0]


def seconds(first: int, end: int) -> tuple[float, float]:
    """Borders of the steps [first, end), as events have them."""
    start, stop = GRID.to_seconds(np.array([first - 0.5, end - 0.5]))
    return float(start), float(stop)


# ---- what is an event -------------------------------------------------------------------------


def test_an_event_is_found_where_it_is_seen_and_heard() -> None:
    events = found(planted(heard={"dog barking": (20, 44)}, seen={"dog barking": (30, 60)}))
    assert [event.label for event in events] == ["dog barking"]
    start, end = seconds(30, 44)
    assert events[0].start == pytest.approx(start, abs=0.51)
    assert events[0].end == pytest.approx(end, abs=0.51)
    assert events[0].score > 0.7


@pytest.mark.parametrize("only", ["heard", "seen"])
def test_what_one_modality_alone_shows_is_no_event(only: str) -> None:
    spans = {"chainsaw": (20, 50)}
    features = planted(heard=spans if only == "heard" else {}, seen=spans if only == "seen" else {})
    assert found(features) == []


def test_another_event_in_each_modality_is_none() -> None:
    assert found(planted(heard={"chainsaw": (20, 50)}, seen={"dog barking": (20, 50)})) == []


def test_two_events_at_once_are_both_found() -> None:
    spans = {"dog barking": (10, 40), "chainsaw": (25, 60)}
    events = found(planted(heard=spans, seen=spans))
    assert sorted(event.label for event in events) == ["chainsaw", "dog barking"]
    for event in events:
        start, end = seconds(*spans[event.label])
        assert event.start == pytest.approx(start, abs=0.76)
        assert event.end == pytest.approx(end, abs=0.76)


@pytest.mark.parametrize(
    ("room", "quiet"),
    [
        ("an empty room", "silence"),
        ("a black picture", "silence"),  # silent and black throughout
        ("a landscape", "static"),
        ("playing chess", "keys jingling"),  # something that no text speaks of
    ],
)
def test_where_nothing_is_nothing_is_found(room: str, quiet: str) -> None:
    features = planted(heard={}, seen={}, room=room, quiet=quiet)
    assert found(features) == []
    assert found(features, "dog barking") == []


def test_a_hundred_classes_that_nobody_asked_for_stay_silent_where_nothing_is() -> None:
    everything = OpenVocabularyDetector(BACKBONE, PlantedTexts)
    assert everything.detect_features(planted(heard={}, seen={}))[0] == []


def test_a_single_label_is_weighed_against_what_else_there_could_be() -> None:
    """A softmax over the given labels alone would call every step a dog."""
    spans = {"dog barking": (20, 40)}
    features = planted(heard=spans, seen=spans)
    [event] = found(features, "dog barking")
    assert (event.start, event.end) == pytest.approx(seconds(20, 40), abs=0.51)
    assert found(features, "cat meowing") == []
    another = {"church bell ringing": (20, 40)}
    assert found(planted(heard=another, seen=another), "dog barking") == []


def test_an_event_that_fills_the_video_is_found() -> None:
    spans = {"dog barking": (0, STEPS)}
    features = planted(heard=spans, seen=spans)
    [event] = found(features)
    assert (event.start, event.end) == (0.0, features.summary.duration)


# ---- labels and what competes with them -------------------------------------------------------


def test_the_order_of_labels_does_not_matter() -> None:
    spans = {"dog barking": (10, 40), "chainsaw": (25, 60)}
    features = planted(heard=spans, seen=spans)
    assert found(features, *LABELS) == found(features, *LABELS[::-1])


def test_one_more_label_does_not_move_the_events_of_another() -> None:
    spans = {"dog barking": (10, 40), "chainsaw": (25, 60)}
    features = planted(heard=spans, seen=spans)
    alone = found(features, "dog barking")
    among = found(features, "dog barking", "dog", "barking dogs", "chainsaw", "a dog that barks")
    assert alone and [event for event in among if event.label == "dog barking"] == alone


def test_labels_in_another_case_are_one_label_and_keep_their_first_form() -> None:
    assert detector("Dog barking", "dog  BARKING ").labels == ("Dog barking",)


def test_a_label_that_says_what_a_competitor_says_does_not_lose_to_it() -> None:
    """Both streams show "chainsawing trees", one of the competitors; "chainsaw" is asked for."""

    class Related(PlantedTexts):
        """Texts in which a chainsaw lies near chainsawing trees, as in a trained encoder."""

        def encode(self, texts):  # type: ignore[no-untyped-def]
            rows = super().encode(texts)
            trees = direction("chainsawing trees", self.modality)
            near = np.array(["chainsaw" in text for text in texts])
            return unit(rows + 2 * near[:, None] * trees)

    spans = {"chainsawing trees": (20, 40)}
    events, _ = OpenVocabularyDetector(BACKBONE, Related, labels=["chainsaw"]).detect_features(
        planted(heard=spans, seen=spans)
    )
    assert [event.label for event in events] == ["chainsaw"]


def test_the_default_labels_are_the_hundred_of_unav_100() -> None:
    detector = OpenVocabularyDetector(BACKBONE, PlantedTexts)
    assert detector.labels == class_names()
    spans = {"playing harp": (20, 40)}
    events, _ = detector.detect_features(planted(heard=spans, seen=spans))
    assert [event.label for event in events] == ["playing harp"]


def test_without_competing_events_the_background_still_stands_against_a_label() -> None:
    settings = OpenVocabularySettings(competitors=())
    spans = {"dog barking": (20, 40)}
    ours = detector("dog barking", settings=settings)
    [event] = ours.detect_features(planted(heard=spans, seen=spans))[0]
    assert (event.start, event.end) == pytest.approx(seconds(20, 40), abs=0.51)
    assert ours.detect_features(planted(heard={}, seen={}))[0] == []


def test_a_class_that_was_asked_for_is_believed_sooner_than_one_of_a_long_list() -> None:
    spans = {"dog barking": (20, 40)}
    features = planted(heard=spans, seen=spans, noise=1.5)
    [asked] = found(features, "dog barking")
    events, _ = OpenVocabularyDetector(BACKBONE, PlantedTexts).detect_features(features)
    [unasked] = [event for event in events if event.label == "dog barking"]
    assert asked.score > unasked.score > 0.3


# ---- the recipe of localisation from labels of whole videos ----------------------------------


def test_the_recipe_is_that_of_a_trained_clasp() -> None:
    ours, clasp = OpenVocabularySettings(), LocalisationSettings()
    assert ours.recipe == clasp.recipe
    assert ours.max_total == clasp.max_total == 100
    assert ours.recipe.thresholds == (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert 0.25 <= ours.recipe.outer <= 0.5
    assert (ours.recipe.video_weight, ours.recipe.sigma) == (0.2, 0.4)


def test_a_label_that_fills_more_of_the_video_scores_higher_by_a_fifth_of_its_video_score() -> None:
    """score = (contrast + 0.2 v) / 1.2, with v the mean of the best eighth of the steps."""
    spans = {"dog barking": (20, 24)}
    features = planted(heard=spans, seen=spans, noise=0.0)
    settings = OpenVocabularySettings()
    without = replace(settings, recipe=replace(settings.recipe, video_weight=0.0))
    [ours] = detector(settings=settings).detect_features(features)[0]
    [plain] = detector(settings=without).detect_features(features)[0]
    assert (ours.start, ours.end) == (plain.start, plain.end)
    # 4 of the best 10 of 80 steps are certain, and agree; nothing is there at the others.
    assert ours.score == pytest.approx((plain.score + 0.2 * 0.4) / 1.2, abs=0.01)


def test_the_best_hundred_candidates_are_kept_and_of_a_long_video_so_many_for_each_piece() -> None:
    barks = {"dog barking": (0, 0)}
    features = planted(heard=barks, seen=barks, steps=1600, noise=0.0)
    arrays = dict(features.arrays)
    for modality in MODALITIES:
        rows = arrays[modality].copy()
        for first in range(10, 1590, 20):  # 79 barks, each of 8 steps
            rows[first : first + 8] = direction("dog barking", modality)
        arrays[modality] = rows
    features = replace(features, arrays=arrays)
    few = detector("dog barking", settings=OpenVocabularySettings(max_total=2))
    assert len(few.detect_features(features)[0]) == 2 * 3  # pieces of 768 steps that share 256
    part = {name: array[:768] for name, array in arrays.items()}
    summary = replace(features.summary, steps=768, duration=GRID.span(767)[1])
    short = replace(features, arrays=part, summary=summary)
    assert len(few.detect_features(short)[0]) == 2
    assert len(found(features, "dog barking")) == 79


# ---- streams that are not whole ---------------------------------------------------------------


@pytest.mark.parametrize("missing", ["vision", "audio"])
def test_without_one_modality_there_is_no_event(missing: Modality) -> None:
    spans = {"dog barking": (20, 40)}
    features = planted(heard=spans, seen=spans)
    arrays = dict(features.arrays)
    arrays[missing] = np.zeros_like(arrays[missing])
    arrays[f"{missing}_mask"] = np.zeros(STEPS, bool)
    assert found(replace(features, arrays=arrays)) == []


def test_a_sound_that_ends_early_ends_its_events() -> None:
    spans = {"dog barking": (20, 60)}
    features = planted(heard=spans, seen=spans)
    arrays = {name: array.copy() for name, array in features.arrays.items()}
    arrays["audio"][40:], arrays["audio_mask"][40:] = 0, False
    [event] = found(replace(features, arrays=arrays))
    assert (event.start, event.end) == pytest.approx(seconds(20, 40), abs=0.51)


def test_long_features_are_read_in_chunks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans = {"dog barking": (10, 40), "chainsaw": (25, 60)}
    features = planted(heard=spans, seen=spans)
    whole = found(features)
    monkeypatch.setattr("workflows.detection.open_vocabulary.CHUNK_STEPS", 7)
    assert found(features) == whole


def test_features_of_another_backbone_are_refused() -> None:
    with pytest.raises(UsageError, match="--backbone planted"):
        found(replace(planted(heard={}, seen={}), digest="0" * 16))


def test_an_encoder_whose_space_is_not_that_of_its_texts_is_refused() -> None:
    narrow = encoder_spec("vision", unit="frame", dim=12, classes=0)
    backbone = replace(BACKBONE, spec=replace(SPEC, vision=narrow))
    with pytest.raises(UsageError, match="vision embeddings have 12 values, their texts 96"):
        OpenVocabularyDetector(backbone, PlantedTexts, labels=["dog"])


# ---- from a raw file --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s: white from 3 to 8 s, a tone from 5 to 10 s."""
    path = tmp_path_factory.mktemp("open") / "white and loud.mp4"
    picture = "color=black:s=64x48:r=25:d=12,drawbox=c=white:t=fill:enable='between(t,3,8)'"
    sound = "sine=f=800:r=16000:d=12,volume=volume='4*between(t,5,10)':eval=frame"
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    output = ["-pix_fmt", "yuv420p", str(path)]
    subprocess.run([ffmpeg_binary(), "-v", "error", *inputs, *output], check=True)
    return path


def test_a_file_gives_events_in_seconds_and_curves(clip: Path) -> None:
    result = detector("Dog barking", "chainsaw")(clip)
    assert result.video == os.fspath(clip)
    assert result.detector == "open vocabulary (planted)" and result.notes == ()
    [event] = result.events
    assert event.label == "Dog barking"  # as the user wrote it
    assert event.start == pytest.approx(5, abs=0.6) and event.end == pytest.approx(8, abs=0.6)
    assert result.curves is not None and result.curves.labels == ("Dog barking",)
    assert result.curves.values.min() >= 0 and result.curves.values.max() <= 1


def test_a_file_without_sound_says_so_and_has_no_event(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "silent film.mp4"
    subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(clip), "-an", str(path)], check=True)
    result = detector("dog barking")(path)
    assert result.events == ()
    assert any("without sound none can be found" in note for note in result.notes)

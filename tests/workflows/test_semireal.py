"""The measurement behind the detector's numbers, on nets' scores that are made up and known."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from extractors.audio.yamnet import audioset_classes
from extractors.lite_spec import EFFICIENTNET_LITE0, LITE, YAMNET
from extractors.media.ffmpeg import ffmpeg_binary
from extractors.spec import Backbone, Encoded
from extractors.vision.efficientnet import imagenet_classes
from extractors.windows import WindowGrid
from pipeline.core.errors import NothingMatchedError
from pipeline.core.events import Event
from workflows.bench.semireal import (
    AP_TIOU,
    SCORERS,
    Kit,
    Truth,
    _fit,
    average_precisions,
    load_kit,
    load_truth,
    make_timelines,
    score_curve,
)
from workflows.bench.semireal_parts import ANCHORS, clasp_parts
from workflows.detection.agreement import AgreementSettings, lite_table

TRUTH = Truth(
    audio={"dog": ["dog barking"], "lion": ["lions roaring"], "rain": ["raining"]},
    vision={"dog": ["dog barking"], "lion": ["lions roaring"]},
)


def kit(*, sure: float) -> Kit:
    """Two kinds of pictures and three of sounds; the nets name them as surely as asked."""
    table = lite_table()
    rows = {row.label: row for row in table.classes}

    def sound(label: str) -> np.ndarray:
        scores = np.full((20, 521), 1e-4, np.float32)
        scores[:, rows[label].audio[0]] = sure
        return scores

    def picture(label: str) -> np.ndarray:
        scores = np.full(1000, (1 - sure) / 1000, np.float32)
        scores[rows[label].vision[0]] = sure
        return scores

    rng = np.random.default_rng(0)
    return Kit(
        sounds={name: [sound(labels[0])] * 3 for name, labels in TRUTH.audio.items()},
        pictures={name: [picture(labels[0])] * 3 for name, labels in TRUTH.vision.items()},
        sound_embeddings={
            name: [rng.normal(size=64) + 0.1 * rng.normal(size=(20, 64))] * 3
            for name in TRUTH.audio
        },
        picture_embeddings={name: [rng.normal(size=64)] * 3 for name in TRUTH.vision},
    )


def test_every_label_of_the_truth_table_is_a_joint_class() -> None:
    truth, known = load_truth(), set(lite_table().labels)
    named = {
        label for side in (truth.audio, truth.vision) for row in side.values() for label in row
    }
    assert named <= known
    assert truth.both("dog", "dog") and not truth.both("dog", "cat")


def test_the_fit_finds_the_curve_that_made_the_data() -> None:
    random = np.random.default_rng(0)
    x = random.normal(0, 2, (4000, 3))
    labels = random.random(x.shape) < 1 / (1 + np.exp(-(0.7 * x + 0.0)))
    slope, offset = _fit([x], labels)
    assert slope == pytest.approx(0.7, abs=0.05) and offset == pytest.approx(0, abs=0.1)


def test_made_timelines_hold_events_only_where_sound_and_picture_belong_together() -> None:
    made = make_timelines(kit(sure=0.9), TRUTH, 30, np.random.default_rng(0))
    steps = [len(timeline.rows["audio_mask"]) for timeline in made]
    assert steps == [120] * 30
    events = [event for timeline in made for event in timeline.events]
    assert 40 < len(events) < 120
    assert all(end - start == 20 and len(labels) == 1 for start, end, labels in events)


@pytest.mark.parametrize("method", list(SCORERS))
def test_sure_nets_give_a_perfect_detector_and_blind_nets_none(method: str) -> None:
    grid = WindowGrid()
    sure = make_timelines(kit(sure=0.95), TRUTH, 10, np.random.default_rng(1))
    blind = make_timelines(kit(sure=1e-3), TRUTH, 10, np.random.default_rng(1))
    scorers, _ = SCORERS[method](lite_table(), AgreementSettings())
    best = max(score_curve(sure, scorers, grid), key=lambda point: point[3])
    assert best[1] == 1.0 and best[2] > 0.5, "equal neighbours are one event to the detector"
    assert all(recall == 0 for _, _, recall, _ in score_curve(blind, scorers, grid))
    empty = np.array(score_curve([], scorers, grid))
    assert np.isfinite(empty).all()


def test_average_precision_is_that_of_its_definition() -> None:
    made = make_timelines(kit(sure=0.95), TRUTH, 3, np.random.default_rng(1))
    labels = [sorted(events[0][2])[0] for _, events in ((m.rows, m.events) for m in made)]
    answers = iter(
        # Half of the event, beside it, all of it: by falling score a miss (0.9), then two hits.
        [
            [Event(*_part(made[0].events[0], 0.4), labels[0], 0.8)],
            [Event(500.0, 510.0, labels[1], 0.9)],
            [Event(*_part(made[2].events[0], 1.0), labels[2], 0.7)],
        ]
    )

    class Fixed:
        def add(self, rows: object) -> None:
            pass

        def finish(self, grid: WindowGrid, duration: float) -> tuple[list[Event], None]:
            return next(answers), None

    total = sum(len(timeline.events) for timeline in made)
    assert AP_TIOU == (0.3, 0.5)
    found = average_precisions(made, Fixed, WindowGrid())  # type: ignore[arg-type]
    assert found == pytest.approx((2 * 2 / 3 / total, 1 / 3 / total))


def _part(event: tuple[int, int, frozenset[str]], share: float) -> tuple[float, float]:
    return float(event[0]), event[0] + share * (event[1] - event[0])


def test_each_part_of_the_training_free_clasp_is_switched_for_itself() -> None:
    made = make_timelines(kit(sure=0.3), TRUTH, 12, np.random.default_rng(1))
    parts = clasp_parts(lite_table(), AgreementSettings())
    curves = {name: score_curve(made, part, WindowGrid()) for name, part in parts.items()}
    whole, _ = SCORERS["clasp"](lite_table(), AgreementSettings())
    assert next(iter(parts)) == "propagation" and set(ANCHORS) < set(parts)
    assert curves["propagation"] == score_curve(made, whole, WindowGrid())
    assert curves["no propagation"] != curves["propagation"]
    assert curves["no propagation, recipe of agreement"] != curves["no propagation"]


class Constant:
    """A net that answers with the mean of what it is given."""

    def __init__(self, modality: str) -> None:
        self.spec = YAMNET if modality == "audio" else EFFICIENTNET_LITE0
        self.class_names = audioset_classes() if modality == "audio" else imagenet_classes()

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 16, 16

    def embed(self, batch: np.ndarray) -> Encoded:
        means = np.abs(batch).reshape(len(batch), -1).mean(axis=1, keepdims=True) / 256
        scores = np.repeat(means.astype(np.float32), self.spec.classes, axis=1)
        return Encoded(np.zeros((len(batch), 1), np.float32), scores)


def test_sounds_and_pictures_are_read_by_category(tmp_path: Path) -> None:
    (tmp_path / "audio" / "dog").mkdir(parents=True)
    (tmp_path / "images" / "dog").mkdir(parents=True)
    run = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i"]
    subprocess.run([*run, "sine=d=3:r=16000", str(tmp_path / "audio/dog/a.ogg")], check=True)
    white = [*run, "color=white:s=64x64", "-frames:v", "1", str(tmp_path / "images/dog/a.png")]
    subprocess.run(white, check=True)
    found = load_kit(tmp_path, Backbone(LITE, Constant("vision"), Constant("audio")))
    assert found.sounds["dog"][0].shape == (9, 521)
    assert found.sound_embeddings["dog"][0].shape == (9, 1)
    assert found.picture_embeddings["dog"][0].shape == (1,)
    assert found.pictures["dog"][0][0] == pytest.approx(1.0, abs=0.02)


def test_a_folder_without_the_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingMatchedError, match="no sounds or no pictures"):
        load_kit(tmp_path, Backbone(LITE, Constant("vision"), Constant("audio")))

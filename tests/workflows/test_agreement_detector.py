"""From class scores to events in seconds, through the committed table."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import workflows
from extractors.features import Features, Summary
from extractors.windows import WindowGrid
from pipeline.core.errors import ConfigError, UsageError
from pipeline.core.events import Event
from workflows.detection import agreement
from workflows.detection.agreement import AgreementSettings, detect_features, lite_table
from workflows.detection.joint_classes import JointTable, parse_joint_table
from workflows.detection.localise import once

UNAV_100 = 100
GRID = WindowGrid()


@pytest.fixture(scope="module")
def table() -> JointTable:
    return lite_table()


def make_features(
    table: JointTable,
    steps: int,
    *,
    heard: Mapping[str, tuple[int, int]],
    seen: Mapping[str, tuple[int, int]],
    grid: WindowGrid = GRID,
    audio_mask: np.ndarray | None = None,
    duration: float | None = None,
) -> Features:
    """Scores of nets that are sure of some classes during some steps and know nothing else."""
    audio = np.full((steps, 521), 1e-4, np.float16)
    vision = np.full((steps, 1000), 1e-3, np.float16)
    rows = {row.label: row for row in table.classes}
    for label, (first, end) in heard.items():
        audio[first:end, rows[label].audio[0]] = 0.9
    for label, (first, end) in seen.items():
        vision[first:end] *= 0.1
        vision[first:end, rows[label].vision[0]] = 0.8
    there = np.ones(steps, bool)
    arrays: dict[str, Any] = {
        "audio_scores": audio,
        "vision_scores": vision,
        "audio_mask": there if audio_mask is None else audio_mask,
        "vision_mask": there,
    }
    seconds = grid.span(steps - 1)[1] + 0.1 if duration is None else duration
    return Features("v", grid, "", arrays, Summary(seconds, steps, {}, {}, "done"))


# ---- the table --------------------------------------------------------------------------------


def test_every_class_of_unav_100_is_in_the_table_or_has_a_reason_not_to_be(
    table: JointTable, golden: Path
) -> None:
    names = (golden / "unav100_classes.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == UNAV_100
    assert set(names) <= set(table.labels) | set(table.unknown)
    assert set(table.unknown) <= set(names) and not set(table.unknown) & set(table.labels)


def test_every_row_has_names_of_both_nets_and_a_comment(table: JointTable) -> None:
    for row in table.classes:
        assert row.audio and row.vision and len(row.why) > 5, row.label
        assert len(set(row.vision)) == len(row.vision) and len(set(row.audio)) == len(row.audio)
    assert all(len(reason) > 10 for reason in table.unknown.values())


def test_names_that_say_too_little_are_not_in_the_table() -> None:
    text = (Path(workflows.__file__).parent / "data" / "joint_classes.yaml").read_text("utf-8")
    used = {name for row in yaml.safe_load(text)["classes"] for name in row["audio"]}
    vague = {"Animal", "Domestic animals, pets", "Music", "Musical instrument", "Vehicle"}
    assert not used & (vague | {"Speech", "Engine", "Wild animals", "Sound effect"})


@pytest.mark.parametrize(
    ("audio", "vision", "message"),
    [
        (["Barking"], ["1 cat"], "unknown sound classes"),
        (["Bark"], ["1 dog"], "calls picture class 1 'dog'"),
        (["Bark"], ["2 cat"], "has no picture class"),
        (["Bark"], ["0 dog - 7 cat"], "has no picture class"),
    ],
)
def test_a_row_that_names_what_a_net_does_not_know_is_refused(
    audio: list[str], vision: list[str], message: str
) -> None:
    row = {"label": "x", "audio": audio, "vision": vision, "why": "because"}
    value = {"version": 1, "classes": [row], "unknown": {}}
    with pytest.raises(ConfigError, match=message):
        parse_joint_table(value, ["Bark"], ["dog, hound", "cat"])


def test_a_label_given_twice_is_refused() -> None:
    row = {"label": "x", "audio": ["Bark"], "vision": ["0 dog - 1 cat"], "why": "because"}
    for value in (
        {"version": 1, "classes": [row, row], "unknown": {}},
        {"version": 1, "classes": [row], "unknown": {"x": "no"}},
    ):
        with pytest.raises(ConfigError, match="given twice"):
            parse_joint_table(value, ["Bark"], ["dog, hound", "cat"])


def test_sound_takes_the_best_name_and_picture_the_sum_of_its_classes() -> None:
    rows = [
        {"label": "x", "audio": ["b", "a"], "vision": ["0 p - 1 q"], "why": "because"},
        {"label": "y", "audio": ["c"], "vision": ["2 r", "0 p"], "why": "because"},
    ]
    value = {"version": 1, "classes": rows, "unknown": {}}
    small = parse_joint_table(value, ["a", "b", "c"], ["p", "q", "r"])
    found = small.audio_probabilities(np.float16([[0.5, 0.25, 0.125]]))
    assert found.tolist() == [[0.5, 0.125]] and found.dtype == np.float32
    assert small.vision_probabilities(np.float32([[0.5, 0.25, 0.125]])).tolist() == [[0.75, 0.625]]
    assert small.vision_shares == pytest.approx([2 / 3, 2 / 3])


# ---- events -----------------------------------------------------------------------------------


def test_an_event_is_where_a_class_is_seen_and_heard_at_once(table: JointTable) -> None:
    """Heard 10..30 s, seen 20..40 s: the event lies where both are, within a second."""
    features = make_features(
        table, 240, heard={"dog barking": (40, 120)}, seen={"dog barking": (80, 160)}
    )
    events, curves = detect_features(features)
    assert {event.label for event in events} == {"dog barking"}
    best = events[0]
    assert best.start == pytest.approx(80 * 0.25 + 0.375, abs=0.5)
    assert best.end == pytest.approx(119 * 0.25 + 0.625, abs=0.5)
    assert curves.labels[0] == "dog barking" and curves.values.shape == (240, len(curves.labels))
    assert curves.times[0] == 0.5 and curves.times[1] == 0.75


@pytest.mark.parametrize("side", ["heard", "seen", "other"])
def test_one_modality_alone_or_two_that_disagree_are_no_event(table: JointTable, side: str) -> None:
    heard = {} if side == "seen" else {"dog barking": (0, 60)}
    seen = (
        {}
        if side == "heard"
        else {("playing cello" if side == "other" else "dog barking"): (0, 60)}
    )
    events, _ = detect_features(make_features(table, 60, heard=heard, seen=seen))
    assert events == []


def test_two_classes_at_once_are_two_events(table: JointTable) -> None:
    spans = {"playing trumpet": (0, 60), "playing drum kit": (20, 40)}
    features = make_features(table, 60, heard=spans, seen={"playing trumpet": (0, 60)})
    drum = next(row for row in table.classes if row.label == "playing drum kit").vision[0]
    trumpet = next(row for row in table.classes if row.label == "playing trumpet").vision[0]
    features["vision_scores"][20:40, [drum, trumpet]] = 0.45
    events, _ = detect_features(features)
    assert {event.label for event in events} >= {"playing trumpet", "playing drum kit"}


def test_an_event_through_the_whole_video_reaches_both_of_its_ends(table: JointTable) -> None:
    spans = {"lions roaring": (0, 30)}
    features = make_features(table, 30, heard=spans, seen=spans, duration=8.37)
    events, _ = detect_features(features)
    assert (events[0].start, events[0].end) == (0.0, 8.37)


def test_steps_without_sound_hold_no_event(table: JointTable) -> None:
    spans = {"lions roaring": (0, 80)}
    mask = np.arange(80) >= 40
    features = make_features(table, 80, heard=spans, seen=spans, audio_mask=mask)
    events, curves = detect_features(features)
    assert events[0].start == pytest.approx(40 * 0.25 + 0.375)
    assert np.all(curves.values[:40] == 0)
    silent = make_features(table, 80, heard=spans, seen=spans, audio_mask=np.zeros(80, bool))
    assert detect_features(silent)[0] == []


def test_times_follow_the_grid_of_the_features(table: JointTable) -> None:
    grid = WindowGrid(fps=Fraction(25), window=24, stride=8, sample_rate=16_000)
    spans = {"lions roaring": (50, 100)}
    features = make_features(table, 150, heard=spans, seen=spans, grid=grid)
    best = detect_features(features)[0][0]
    assert best.start == pytest.approx(float(grid.to_seconds(49.5)), abs=0.65)
    assert best.end == pytest.approx(float(grid.to_seconds(99.5)), abs=0.65)


def test_chunks_do_not_show_in_the_result(
    table: JointTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    features = make_features(table, 333, heard={}, seen={})
    features["audio_scores"][:] = random.random((333, 521)) ** 6
    features["vision_scores"][:] = random.dirichlet(np.full(1000, 0.02), 333)
    whole, curves = detect_features(features)
    monkeypatch.setattr(agreement, "CHUNK_STEPS", 50)
    parts, part_curves = detect_features(features)
    assert parts == whole and len(whole) > 0
    assert np.array_equal(part_curves.values, curves.values)


def test_weak_events_are_left_out_as_told(table: JointTable) -> None:
    spans = {"lions roaring": (20, 40)}
    features = make_features(table, 80, heard=spans, seen=spans)
    assert detect_features(features, settings=AgreementSettings(min_score=0.99))[0] == []
    found = detect_features(features, settings=AgreementSettings(min_score=0.0))[0]
    assert [e.score for e in found] == sorted((e.score for e in found), reverse=True)


def test_features_without_class_scores_are_refused(table: JointTable) -> None:
    features = make_features(table, 8, heard={}, seen={})
    arrays = {name: array for name, array in features.arrays.items() if "scores" not in name}
    bare = Features("v", GRID, "", arrays, features.summary)
    with pytest.raises(UsageError, match="no class scores"):
        detect_features(bare)


def test_an_event_is_reported_once() -> None:
    long = Event(0.0, 8.0, "dog barking", 0.5)
    inside = Event(0.0, 2.0, "dog barking", 0.4)
    beside = Event(7.0, 12.0, "dog barking", 0.3)
    other = Event(0.0, 2.0, "cat meowing", 0.2)
    assert once([inside, other, long, beside]) == [long, beside, other]

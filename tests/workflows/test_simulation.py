"""Features simulated on annotations: real times, planted classes, nothing that gives it away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractors.registry import backbone_spec, load_backbone
from extractors.storage.store import FeatureStore
from extractors.windows import WindowGrid
from pipeline.core.errors import ConfigError, StoreError, UsageError
from pipeline.core.events import Event
from tests.fixtures.annotated import write_annotations
from workflows.annotations import load_annotations
from workflows.simulation.make import Simulation, SimulationSettings, choose_videos, simulate
from workflows.simulation.video import (
    GAP_S,
    INSTANCE_SHARE,
    JITTER_S,
    LAG_SHARE,
    Bond,
    Habits,
    Source,
    _source_vector,
    _strength,
    plan_video,
    video_rows,
)
from workflows.simulation.world import GROUP_SHARE, make_world
from workflows.training.dataset import SplitDataset
from workflows.whole_video import evaluate_whole_video

TINY = SimulationSettings(train=6, validation=2, test=3, vision_dim=10, audio_dim=8, noise=1.0)
HABITS = Habits(np.full(3, 1 / 3), np.array([2.0, 5.0, 9.0]))
NUMBERS = {"bell": 0, "dog": 1, "drum": 2}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_annotations(tmp_path_factory.mktemp("labels"), train=30, validation=4, test=20)


def bond(share: float, *, seed: int = 9) -> Bond:
    return Bond(share, np.random.default_rng(seed), width=48)


def contents(made: Simulation) -> dict[str, bytes]:
    store = FeatureStore.open(made.features)
    return {
        id: b"".join(np.array(array).tobytes() for array in store.read(id).arrays.values())
        for id in store.ids()
    }


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(
    labels: Path, tmp_path: Path
) -> None:
    first = simulate(labels, tmp_path / "first", TINY)
    again = simulate(labels, tmp_path / "again", TINY)
    other = simulate(labels, tmp_path / "other", replace(TINY, seed=1))
    assert contents(first) == contents(again)
    assert first.annotations.read_bytes() == again.annotations.read_bytes()
    assert first.backbone == again.backbone != other.backbone
    mine, theirs = contents(first), contents(other)
    shared = mine.keys() & theirs.keys()
    assert shared
    assert all(mine[id] != theirs[id] for id in shared)


def test_a_simulation_that_was_broken_off_ends_with_the_same_features(
    labels: Path, tmp_path: Path
) -> None:
    whole = simulate(labels, tmp_path / "whole", TINY)

    def stop(done: int, total: int) -> None:
        assert total == 11
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(labels, tmp_path / "broken", TINY, progress=stop)
    assert len(FeatureStore.open(tmp_path / "broken" / "features")) == 4
    assert contents(simulate(labels, tmp_path / "broken", TINY)) == contents(whole)


def test_the_store_fits_the_annotations_video_by_video(labels: Path, tmp_path: Path) -> None:
    made = simulate(labels, tmp_path, TINY)
    reduced, original = load_annotations(made.annotations), load_annotations(labels)
    store = FeatureStore.open(made.features, digest=backbone_spec(made.backbone).digest)
    assert made.videos == {"train": 6, "validation": 2, "test": 3}
    assert sorted(reduced.videos) == store.ids()
    for id, video in reduced.videos.items():
        assert video == original.videos[id]
        features = store.read(id)
        assert features.steps == WindowGrid().steps(float(video.duration or 0))
        assert features["vision"].shape == (features.steps, 10)
        assert features["audio"].shape == (features.steps, 8)
        assert features["vision_mask"].all()
        assert features["audio_mask"].all()
        assert np.isfinite(features["vision"]).all()
        np.testing.assert_allclose(np.linalg.norm(features["audio"], axis=1), 1, atol=1e-5)


def test_only_the_most_frequent_classes_and_whole_videos_of_them_are_chosen(labels: Path) -> None:
    original = load_annotations(labels)
    chosen = choose_videos(original, replace(TINY, classes=2, train=5, validation=0, test=2))
    counts = {
        label: sum(
            event.label == label
            for video in original.subset("train").values()
            for event in video.events
        )
        for label in original.classes
    }
    assert set(chosen.classes) == set(sorted(counts, key=lambda c: (-counts[c], c))[:2])
    assert len(chosen.videos) == 7
    assert all(set(video.classes) <= set(chosen.classes) for video in chosen.videos.values())
    assert all(video == original.videos[id] for id, video in chosen.videos.items())


def test_a_larger_size_holds_the_smaller_one(labels: Path) -> None:
    original = load_annotations(labels)
    few, more = (choose_videos(original, replace(TINY, test=count)) for count in (3, 9))
    assert few.videos.keys() < more.videos.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": 31}, "asks for 31 train videos, .* has 30"),
        ({"classes": 4}, "asks for 4 classes, .* has 3"),
    ],
)
def test_asking_for_more_than_there_is_is_refused(
    labels: Path, tmp_path: Path, change: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate(labels, tmp_path, replace(TINY, **change))


def test_a_video_without_duration_is_named(tmp_path: Path) -> None:
    path = write_annotations(tmp_path, train=6, validation=2, test=3)
    value = json.loads(path.read_text())
    del value["database"]["test-001"]["duration"]
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="'test-001' has no duration"):
        simulate(path, tmp_path / "out", TINY)


def test_two_simulations_never_share_a_store(labels: Path, tmp_path: Path) -> None:
    simulate(labels, tmp_path, TINY)
    with pytest.raises(StoreError, match="made by the backbone 'simulated:10x8:"):
        simulate(labels, tmp_path, replace(TINY, noise=2.0))


def test_simulated_features_have_no_nets(labels: Path, tmp_path: Path) -> None:
    made = simulate(labels, tmp_path, TINY)
    with pytest.raises(UsageError, match="have no encoder"):
        load_backbone(made.backbone, device="cpu")
    with pytest.raises(UsageError, match="names no simulated features"):
        backbone_spec("simulated")


# --- what is seen and heard -----------------------------------------------------------------------


def plans(events: list[Event], *, duration: float = 40.0, count: int = 60) -> list[list[Source]]:
    return [
        plan_video(events, NUMBERS, duration, HABITS, np.random.default_rng(seed))
        for seed in range(count)
    ]


def test_an_event_is_where_its_class_is_both_seen_and_heard() -> None:
    event = Event(10.0, 16.0, "dog", 1.0)
    lags = []
    for sources in plans([event]):
        spans = sources[0].spans
        assert spans.keys() == {"vision", "audio"}
        start = max(first for first, _ in spans.values())
        end = min(last for _, last in spans.values())
        assert start == pytest.approx(event.start, abs=5 * JITTER_S)
        assert end == pytest.approx(event.end, abs=5 * JITTER_S)
        early = start - min(first for first, _ in spans.values())
        assert 0 <= early <= LAG_SHARE * 6.0
        lags.append(early)
    assert np.mean(lags) > 0.2


def test_what_only_one_modality_has_never_meets_its_class_in_the_other() -> None:
    events = [Event(5.0, 9.0, "dog", 1.0), Event(20.0, 22.0, "bell", 1.0)]
    seen = heard = own = 0
    for sources in plans(events):
        distractors = [source for source in sources if len(source.spans) == 1]
        seen += sum("vision" in source.spans for source in distractors)
        heard += sum("audio" in source.spans for source in distractors)
        own += sum(source.label in (0, 1) for source in distractors)
        for one in distractors:
            ((start, end),) = one.spans.values()
            assert 0 <= start < end <= 40.0
            for other in sources:
                if other is not one and other.label == one.label:
                    for first, last in other.spans.values():
                        assert start >= last + GAP_S or first >= end + GAP_S
    assert seen > 60
    assert heard > 60
    assert own > 0.5 * (seen + heard)


def test_a_video_without_events_has_distractors_too() -> None:
    assert any(sources for sources in plans([]))


def test_an_onset_is_a_ramp_as_long_as_the_window() -> None:
    world = make_world(tuple(NUMBERS), {"vision": 12, "audio": 12}, seed=0)
    grid = WindowGrid()
    source = Source(1, {"vision": (10.0, 20.0)})
    rows = video_rows(
        [source], world, grid, 30.0, noise=0.0, bond=bond(0.0), rng=np.random.default_rng(0)
    )
    mean = world["vision"].rotate(world["vision"].mean[None])[0]
    strength = np.linalg.norm(rows["vision"] / 12.0 - mean, axis=1)
    last_outside = int(np.floor((10.0 - grid.window_seconds) / grid.step_seconds))
    assert strength[: last_outside + 1].max() < 1e-5
    ramp = strength[last_outside : last_outside + 5]
    assert (np.diff(ramp) > 0).all()
    assert ramp[2] == pytest.approx(ramp[4] / 2, rel=0.35)  # half of the window; strength drifts
    # What is not heard leaves no trace in the sound.
    assert np.ptp(rows["audio"], axis=0).max() < 1e-5


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_picture_and_sound_have_the_share_in_common_that_is_asked_for(share: float) -> None:
    world = make_world(sorted(NUMBERS), {"vision": 48, "audio": 32}, seed=3)
    pairs = []
    for seed in range(200):  # sources that are there from end to end, one a video
        source = Source(0, {"vision": (0.0, 4.0), "audio": (0.0, 4.0)})
        common = bond(share, seed=seed).of_source(0, 1)[0]
        rng = np.random.default_rng([seed, 1])
        pairs.append(
            [
                (_source_vector(source, encoder, bond(share), common, rng)
                 - np.sqrt(1 - INSTANCE_SHARE) * encoder.prototypes[0]) / encoder.deviations
                for encoder in world.values()
            ]
        )  # fmt: skip
    seen = np.stack([pair[0][:32] for pair in pairs]).ravel()
    heard = np.stack([pair[1][:32] for pair in pairs]).ravel()
    assert np.corrcoef(seen, heard)[0, 1] == pytest.approx(share, abs=0.03)
    assert seen.var() == pytest.approx(INSTANCE_SHARE, rel=0.05)


def test_the_strength_of_a_source_rises_and_falls_alike_where_all_is_common() -> None:
    def correlation(share: float) -> float:
        common = bond(share).of_source(0, 2000)[1]
        seen, heard = (
            _strength(2000, 0.25, bond(share), common, np.random.default_rng(seed))
            for seed in (1, 2)
        )
        return float(np.corrcoef(np.log(seen), np.log(heard))[0, 1])

    assert correlation(1.0) == pytest.approx(1.0)
    assert abs(correlation(0.0)) < 0.1


def test_correspondence_changes_the_features_but_not_what_happens_when(
    labels: Path, tmp_path: Path
) -> None:
    apart = simulate(labels, tmp_path / "apart", TINY)
    bound = simulate(labels, tmp_path / "bound", replace(TINY, correspondence=0.5))
    assert apart.annotations.read_bytes() == bound.annotations.read_bytes()
    assert apart.backbone != bound.backbone
    assert contents(apart) != contents(bound)


def test_encoders_have_a_common_part_few_directions_and_groups_of_classes() -> None:
    classes = tuple(f"class {n}" for n in range(40))
    encoder = make_world(classes, {"vision": 256, "audio": 64}, seed=3)["vision"]
    np.testing.assert_allclose(encoder.basis @ encoder.basis.T, np.eye(256), atol=1e-10)
    drawn = encoder.draw(np.random.default_rng(0), 4000)
    assert (drawn**2).sum(1).mean() == pytest.approx(1, rel=0.05)
    values = np.linalg.eigvalsh(np.cov(drawn.T))
    assert values.sum() ** 2 / (values**2).sum() < 40  # effective dimensions, of 256
    products = encoder.prototypes @ encoder.prototypes.T
    near = np.sort(products - 9 * np.eye(40), axis=1)[:, -3:]  # the other three of a group
    far = np.sort(products, axis=1)[:, :20]
    assert near.mean() == pytest.approx(GROUP_SHARE, abs=0.2)
    assert far.mean() < 0.1


def test_whole_video_answers_know_the_classes_where_there_is_no_noise(
    labels: Path, tmp_path: Path
) -> None:
    scores = {}
    for noise in (0.0, 30.0):
        settings = replace(TINY, train=30, test=20, noise=noise)
        made = simulate(labels, tmp_path / str(noise), settings)
        found, store = load_annotations(made.annotations), FeatureStore.open(made.features)
        train, test = (
            SplitDataset(store, found.subset(name), found.classes) for name in ("train", "test")
        )
        scores[noise] = evaluate_whole_video(train, test, found.classes).scores.at(0.1)
    assert scores[0.0] > 1.2 * scores[30.0]


def test_features_of_the_bundled_study_spread_as_its_documentation_says(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    """The figures of docs/simulation.md that are no constants; there of 200 videos."""
    settings = SimulationSettings(
        train=60, validation=0, test=1, classes=12, vision_dim=96, audio_dim=64, noise=1.5
    )
    made = simulate(shared("data/unav100_annotations.json"), tmp_path, settings)
    store = FeatureStore.open(made.features)
    rows = np.concatenate([np.array(store.read(id)["vision"], float) for id in store.ids()])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    assert norms.mean() == pytest.approx(33, abs=1.5)
    other = np.random.default_rng(0).permutation(len(rows))
    cosines = (rows * rows[other] / norms / norms[other]).sum(1)
    assert cosines.mean() == pytest.approx(0.35, abs=0.05)
    values = np.linalg.eigvalsh(np.cov(rows.T))
    assert values.sum() ** 2 / (values**2).sum() == pytest.approx(16, abs=2)


def test_the_published_annotations_fill_the_bundled_study(shared: Callable[[str], Path]) -> None:
    labels = load_annotations(shared("data/unav100_annotations.json"))
    chosen = choose_videos(
        labels, SimulationSettings(train=480, validation=0, test=219, classes=12)
    )
    assert len(chosen.classes) == 12
    assert len(chosen.videos) == 699
    assert {label for v in chosen.videos.values() for label in v.classes} == set(chosen.classes)

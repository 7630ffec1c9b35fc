"""Which segments a semi-weak training learns from."""

from itertools import pairwise

import numpy as np
import pytest

from extractors.windows import WindowGrid
from pipeline.core.events import Event
from workflows.annotations import VideoLabels
from workflows.weak.pseudo_labels import Answer, pseudo_label, unsure_stretches
from workflows.weak.strong import strong_ids

COMMON, RARE = "dog", ("bell", "cat", "drum", "horn")


def videos(count: int = 200) -> dict[str, VideoLabels]:
    """One common class in all, and four that are in two videos each."""
    rare = {place: RARE[place // 2] for place in range(2 * len(RARE))}
    return {
        f"{number:03d}": VideoLabels(
            "train", 9.0, (), (COMMON, rare[number]) if number in rare else (COMMON,)
        )
        for number in range(count)
    }


def test_a_larger_share_contains_a_smaller_one_and_the_order_of_ids_does_not_matter() -> None:
    some = videos()
    shares = (0.0, 0.01, 0.05, 0.1, 0.5, 1.0)
    chosen = [strong_ids(some, fraction=share, seed=3) for share in shares]
    assert [len(ids) for ids in chosen] == [0, 2, 10, 20, 100, 200]
    assert all(small < large for small, large in pairwise(chosen))
    backwards = dict(reversed(some.items()))
    assert strong_ids(backwards, fraction=0.1, seed=3) == chosen[3]
    assert strong_ids(some, fraction=0.1, seed=4) != chosen[3]


def test_every_class_is_among_the_chosen_where_there_is_place_for_it() -> None:
    for seed in range(5):
        chosen = strong_ids(videos(), fraction=0.02, seed=seed)
        assert len(chosen) == 4
        assert {label for id in chosen for label in videos()[id].classes} == {COMMON, *RARE}
    few = strong_ids(videos(), fraction=0.01, seed=0)
    assert len({label for id in few for label in videos()[id].classes}) == 3


def test_no_share_but_zero_is_rounded_to_no_video() -> None:
    assert len(strong_ids(videos(40), fraction=0.001, seed=0)) == 1
    assert strong_ids({}, fraction=0.5, seed=0) == set()


GRID = WindowGrid()


def answer(*events: Event, **activation: list[float]) -> Answer:
    return Answer(events, {name: np.array(row) for name, row in activation.items()}, GRID)


def test_events_count_where_their_class_is_known_to_be_in_the_video() -> None:
    said = answer(
        Event(1, 2, "dog", 1.1),
        Event(4, 6, "dog", 0.6),
        Event(0, 9, "bell", 0.5),
        Event(7, 8, "drum", 0.3),
        Event(3, 4, "drum", 0.2),
        Event(8, 9, "dog", 0.1),
    )
    video = VideoLabels("train", 9.0, (Event(5, 6, "drum", 1),), ("dog", "cat"))
    found = pseudo_label({"a": video}, lambda id: said, min_score=0.4)["a"]
    assert found.events == (
        Event(1, 2, "dog", 1),
        Event(4, 6, "dog", 0.6),
        Event(7, 8, "drum", 0.3),
    )
    assert "cat" not in found.classes, "the model found no trace of it"
    assert found.unsure == ()


@pytest.mark.parametrize("targets", ["weighted", "soft"])
def test_the_surest_event_comes_last_where_scores_count(targets: str) -> None:
    said = answer(Event(5, 9, "dog", 0.9), Event(0, 9, "dog", 0.4), Event(6, 7, "dog", -0.3))
    video = {"a": VideoLabels("train", 9.0, (), ("dog",))}
    found = pseudo_label(video, lambda id: said, min_score=-1, targets=targets)["a"].events
    assert [event.score for event in found] == pytest.approx([0.001, 0.4, 0.9]), "all above 0"


def steps_of(stretches: list[Event], steps: int) -> list[bool]:
    times = GRID.centres(steps)
    return [any(s.start < t < s.end for s in stretches) for t in times]


def test_unsure_is_activation_outside_of_events_and_its_lack_inside() -> None:
    activation = [0.0, 0.1, 0.19, 0.2, 0.9, 0.9, 0.3, 0.6, 0.0, 0.4]
    times = GRID.centres(len(activation))
    event = Event(times[4], times[6] + 0.01, "dog", 1.0)  # steps 4, 5 and 6
    found = unsure_stretches("dog", [event], answer(dog=activation), low=0.2, high=0.5)
    expected = [False, False, False, True, False, False, True, True, False, True]
    assert steps_of(found, len(activation)) == expected
    assert len(found) == 3 and {stretch.label for stretch in found} == {"dog"}
    assert all(stretch.start >= 0 for stretch in found)


def test_classes_that_the_video_is_known_to_lack_are_surely_absent() -> None:
    said = answer(Event(0.2, 0.8, "dog", 0.9), dog=[0.3] * 9, cat=[0.3] * 9, bell=[0.3] * 9)
    video = {"a": VideoLabels("train", 9.0, (), ("dog", "cat"))}
    found = pseudo_label(video, lambda id: said, min_score=0.4, ignore=(0.2, 0.25))["a"]
    assert {stretch.label for stretch in found.unsure} == {"dog", "cat"}
    assert steps_of([s for s in found.unsure if s.label == "cat"], 9) == [True] * 9
    assert steps_of([s for s in found.unsure if s.label == "dog"], 9) == [False] * 2 + [True] * 7

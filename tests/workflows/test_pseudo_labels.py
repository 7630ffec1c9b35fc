"""Which segments a semi-weak training learns from."""

from pipeline.core.events import Event
from workflows.annotations import VideoLabels
from workflows.pseudo_labels import pseudo_label, strong_ids

IDS = [f"{number:02d}" for number in range(40)]


def test_a_larger_share_contains_a_smaller_one_and_the_order_of_ids_does_not_matter() -> None:
    few = strong_ids(IDS, fraction=0.1, seed=3)
    assert len(few) == 4 and few < strong_ids(reversed(IDS), fraction=0.5, seed=3)
    assert few != strong_ids(IDS, fraction=0.1, seed=4)
    assert strong_ids(IDS, fraction=0.0, seed=3) == set()
    assert strong_ids(IDS, fraction=1.0, seed=3) == set(IDS)


def test_events_count_where_their_class_is_known_to_be_in_the_video() -> None:
    said = [
        Event(1, 2, "dog", 0.9),
        Event(4, 6, "dog", 0.6),
        Event(0, 9, "bell", 0.5),
        Event(7, 8, "drum", 0.3),
        Event(3, 4, "drum", 0.2),
        Event(8, 9, "dog", 0.1),
    ]
    video = VideoLabels("train", 9.0, (Event(5, 6, "drum", 1),), ("dog", "cat"))
    found = pseudo_label({"a": video}, lambda id: said, min_score=0.4)["a"]
    assert found.events == (Event(1, 2, "dog", 1), Event(4, 6, "dog", 1), Event(7, 8, "drum", 1))
    assert "cat" not in found.classes, "the model found no trace of it"

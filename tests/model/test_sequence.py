"""Pieces of a long video: what comes in blocks equals the whole, and no border loses an event.

Events are found by an oracle that sees a piece's features and knows nothing beyond them: wherever
a channel of the picture is on, it reports the stretch for which it is on within the piece.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.decoding import DecodingSettings, Detected, decode, piece_starts
from model.loco import LoCo, Prediction
from model.points import make_points
from model.sequence import SequenceDetector
from tests.fixtures.whole_sequences import detect_sequence

CHUNK, OVERLAP, HOP = 64, 16, 48
PIECES = DecodingSettings(chunk=CHUNK, overlap=OVERLAP)
SURE = 0.3  # Soft-NMS leaves shadows of an event below it


class Oracle(nn.Module):
    """Reports what it sees of each event; its ends may be some steps off, this way and that.

    Args:
        jitter: Steps by which the middle is off in every piece, to either side in turn.
    """

    alignment = 1

    def __init__(self, *, jitter: float = 0.0) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))  # its device is asked for
        self.jitter = jitter
        self.sizes: list[int] = []

    def forward(self, vision: Tensor, audio: Tensor, seen: Tensor, heard: Tensor) -> Prediction:
        steps, classes = vision.shape[-1], vision.shape[1]
        logits = torch.full((steps, classes), -20.0)
        distances = torch.zeros(steps, classes, 2)
        shift = self.jitter * (-1) ** len(self.sizes)
        for label in range(classes):
            for first, end in runs(vision[0, label] > 0):
                point = torch.arange(first, end)
                start, stop = first - 0.5 + shift, end - 0.5 + shift
                off_centre = (point - (start + stop) / 2).abs() / (end - first)
                logits[point, label] = 3 * vision[0, label, first] - off_centre
                distances[point, label] = torch.stack([point - start, stop - point], -1)
        self.sizes.append(steps)
        nothing, mask = torch.zeros(1, 2, steps), torch.ones(1, steps, dtype=torch.bool)
        return Prediction(
            make_points([steps]), (steps,), logits[None], distances[None], mask, nothing, nothing,
            mask,
        )  # fmt: skip


def runs(on: Tensor) -> list[tuple[int, int]]:
    edges = torch.cat([torch.zeros(1), on.float(), torch.zeros(1)]).diff()
    return list(zip(edges.eq(1).nonzero()[:, 0].tolist(), edges.eq(-1).nonzero()[:, 0].tolist(),
                    strict=True))  # fmt: skip


def find(
    events: list[tuple[int, int, int]],
    *,
    steps: int = 4 * HOP + OVERLAP,
    settings: DecodingSettings = PIECES,
    oracle: Oracle | None = None,
) -> list[tuple[float, float, int]]:
    """Sure detections among some events (first step, step after the last, class), by start."""
    vision = torch.zeros(2, steps)
    for first, end, label in events:
        vision[label, first:end] = 1
    mask = torch.ones(steps, dtype=torch.bool)
    model: Any = oracle or Oracle()
    found = detect_sequence(model, vision, vision, mask, mask, settings=settings)
    assert (found.scores.diff() <= 0).all(), "best first"
    return sure(found)


def sure(found: Detected) -> list[tuple[float, float, int]]:
    keep = found.scores > SURE
    rows = zip(found.segments[keep].tolist(), found.labels[keep].tolist(), strict=True)
    return sorted((start, end, label) for (start, end), label in rows)


def test_an_event_within_the_overlap_is_found_once_wherever_it_lies() -> None:
    for length in (1, 2, 7, 12, OVERLAP):
        for first in range(HOP - OVERLAP - 2, HOP + OVERLAP + 2, 1 if length > 7 else 2):
            event = (first, first + length, 1)
            assert find([event]) == [(first - 0.5, first + length - 0.5, 1)], event


@pytest.mark.parametrize("length", [20, 40, 63, 64, 65, 80, 111, 112, 113, 150])
def test_a_longer_event_is_found_once_wherever_it_lies(length: int) -> None:
    for first in range(0, HOP + 2, 2 if length < 70 else 5):
        event = (first, first + length, 0)
        assert find([event]) == [(first - 0.5, first + length - 0.5, 0)], event


def test_an_event_that_fills_many_pieces_is_one_event() -> None:
    steps = 60 * HOP
    assert find([(0, steps, 0)], steps=steps) == [(-0.5, steps - 0.5, 0)]


def test_a_short_last_piece_joins_as_well() -> None:
    for rest in range(1, 20):
        steps = CHUNK + rest
        assert find([(10, steps, 0)], steps=steps) == [(9.5, steps - 0.5, 0)], rest


def test_an_event_whose_middle_is_seen_on_either_side_is_neither_lost_nor_doubled() -> None:
    for length in (4, 8, 12):
        for first in range(HOP + OVERLAP // 2 - length // 2 - 3, HOP + OVERLAP // 2 + 1):
            for jitter in (-length / 16, length / 16):
                found = find([(first, first + length, 0)], oracle=Oracle(jitter=jitter))
                assert len(found) == 1, (first, length, jitter)
                assert abs(found[0][0] - (first - 0.5)) <= abs(jitter)


def test_neighbours_of_one_class_stay_two_events() -> None:
    border = HOP + OVERLAP // 2
    for gap in (2, 6, 12):
        events = [(10, border - gap // 2, 0), (border + gap // 2, 100, 0)]
        found = find(events)
        assert [round(start + 0.5) for start, _, _ in found] == [first for first, _, _ in events]
        assert [round(end + 0.5) for _, end, _ in found] == [end for _, end, _ in events]


def test_long_events_of_two_classes_stay_two_events() -> None:
    found = find([(10, 150, 0), (30, 190, 1)])
    assert found == [(9.5, 149.5, 0), (29.5, 189.5, 1)]


def test_a_sure_part_is_not_joined_with_an_unlikely_one() -> None:
    vision, steps = torch.zeros(1, 2 * HOP + OVERLAP), 2 * HOP + OVERLAP
    vision[0, 20:100] = 1
    mask = torch.ones(steps, dtype=torch.bool)

    class Unsure(Oracle):
        def forward(self, *inputs: Tensor) -> Prediction:
            said = super().forward(*inputs)
            return said if len(self.sizes) == 1 else doubt(said)

    def doubt(said: Prediction) -> Prediction:
        said.logits.sub_(4)  # 0.95 becomes 0.27
        return said

    model: Any = Unsure()
    found = detect_sequence(model, vision, vision, mask, mask, settings=PIECES)
    assert sure(found) == [(19.5, CHUNK - 0.5, 0)]


def test_without_overlap_an_event_is_cut_at_the_border() -> None:
    settings = DecodingSettings(chunk=CHUNK, overlap=0)
    assert find([(60, 70, 0)], settings=settings) == [(59.5, 63.5, 0), (63.5, 69.5, 0)]


@pytest.mark.parametrize("overlap", [16, 40, 60])
def test_an_overlap_of_more_than_half_a_piece_changes_nothing(overlap: int) -> None:
    settings = DecodingSettings(chunk=CHUNK, overlap=overlap)
    for event in [(5, 12, 0), (50, 66, 0), (60, 64, 1), (20, 150, 1)]:
        found = find([event], steps=200, settings=settings)
        assert found == [(event[0] - 0.5, event[1] - 0.5, event[2])]


# ---- the real network ------------------------------------------------------------------------


def small_model() -> LoCo:
    torch.manual_seed(0)
    model = LoCo(
        vision_dim=12, audio_dim=6, classes=4, channels=16, decoder_channels=16, levels=3,
        unimodal_blocks=1, max_seq_len=64, drop_path=0.0,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("drop_attention.scale", "drop_feed.scale")):
                value.fill_(0.5)
    return model.eval()


def features(steps: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    heard = torch.ones(steps, dtype=torch.bool)
    heard[steps // 3 : steps // 2] = False
    return (
        torch.randn(12, steps, generator=generator),
        torch.randn(6, steps, generator=generator),
        torch.ones(steps, dtype=torch.bool),
        heard,
    )


SMALL = DecodingSettings(chunk=96, overlap=32)


@pytest.mark.parametrize("steps", [1, 95, 96, 97, 160, 161, 250])
@pytest.mark.parametrize("block", [1, 96, 97])
def test_blocks_of_any_size_give_the_same_bits(steps: int, block: int) -> None:
    model, inputs = small_model(), features(steps)
    starts: list[int] = []
    detector = SequenceDetector(
        model, settings=SMALL, watch=lambda start, prediction: starts.append(start)
    )
    for first in range(0, steps, block):
        detector.add(*(x[..., first : first + block] for x in inputs))
    found, whole = detector.finish(), detect_sequence(model, *inputs, settings=SMALL)
    assert starts == piece_starts(steps, SMALL, alignment=model.alignment)
    assert torch.equal(found.segments, whole.segments)
    assert torch.equal(found.scores, whole.scores)
    assert torch.equal(found.labels, whole.labels)


def test_detection_does_not_round_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []
    model, inputs = small_model(), features(97)
    model.register_forward_pre_hook(lambda *_: seen.append(bool(torch.backends.cudnn.allow_tf32)))
    detect_sequence(model, *inputs, settings=SMALL)
    assert len(seen) > 1 and not any(seen)
    assert torch.backends.cudnn.allow_tf32


def test_times_are_as_exact_hours_into_a_video_as_at_its_start() -> None:
    """At 300,000 steps, 20 hours of the default grid, float32 has a value every 1/32 step."""
    first = 299_900
    settings = DecodingSettings(chunk=4096, overlap=16)
    (found,) = find(
        [(first, first + 11, 1)], steps=300_000, settings=settings, oracle=Oracle(jitter=0.3)
    )
    shift = found[0] - (first - 0.5)
    assert abs(shift) == pytest.approx(0.3, abs=1e-3)  # a value every 1/2048 step in the piece
    assert found[1] == pytest.approx(first + 10.5 + shift, abs=1e-3)


def test_a_sequence_of_one_piece_is_decoded_like_any_batch() -> None:
    model, inputs = small_model(), features(90)
    found = detect_sequence(model, *inputs, settings=SMALL)
    with torch.inference_mode():
        expected = decode(model(*(x[None] for x in inputs)), SMALL)[0]
    assert torch.equal(found.segments, expected.segments.double())
    assert torch.equal(found.scores, expected.scores)


def test_the_network_never_sees_more_than_a_piece_and_its_front_is_forgotten() -> None:
    model, sizes = small_model(), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-1]))
    detect_sequence(model, *features(420), settings=SMALL)
    assert set(sizes[:-1]) == {96} and sizes[-1] <= 96


def test_a_sequence_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        detect_sequence(small_model(), *features(0))
    with pytest.raises(ValueError, match="0 steps"):
        SequenceDetector(small_model()).finish()

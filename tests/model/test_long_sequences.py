"""Half an hour and three hours of features through a real, small, trained network.

The default grid has 4 steps a second; features are made as they are asked for and not kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.decoding import DecodingSettings, Detected, decode
from model.loco import LoCo
from model.pyramid import FUSIONS
from model.sequence import SequenceDetector
from tests.fixtures.long_videos import CLASSES, SPAN, Planted, train, video
from tests.fixtures.windows import wandering

PER_SECOND = 4
MINUTE = 60 * PER_SECOND
SURE = 0.35
PIECES = DecodingSettings(chunk=256, overlap=64, per_level=200)


@pytest.fixture(scope="module")
def trained() -> LoCo:
    return train()


def scan(model: LoCo, steps: int, settings: DecodingSettings) -> tuple[Detected, Planted, int]:
    """Detections in a planted video, its events, and the longest piece that the network saw."""
    truth, longest = Planted(), 0

    def watch(start: int, prediction: object) -> None:
        nonlocal longest
        longest = max(longest, prediction.lengths[0])  # type: ignore[attr-defined]

    detector = SequenceDetector(model, settings=settings, watch=watch)
    for block in video(steps, truth):
        detector.add(*block)
    return detector.finish(), truth, longest


def wrong_end(found: Detected, event: tuple[int, int, int]) -> float:
    """Steps by which the sure detection nearest to an event of its class misses its ends."""
    first, end, label = event
    of_class = (found.labels == label) & (found.scores > SURE)
    ends = torch.tensor([first - 0.5, end - 0.5])
    misses = (found.segments[of_class] - ends).abs().amax(-1)
    return float(misses.min()) if len(misses) else float("inf")


@pytest.mark.parametrize("minutes", [30, 180])
def test_events_of_the_last_minute_are_found_with_right_times(trained: LoCo, minutes: int) -> None:
    steps = minutes * MINUTE
    found, truth, longest = scan(trained, steps, PIECES)
    last = [event for event in truth.events if event[0] >= steps - MINUTE]
    assert len(last) >= 5
    assert {event[2] for event in last} == set(range(CLASSES))
    for event in last:
        assert wrong_end(found, event) < 2, event  # half a second
    first = [event for event in truth.events if event[1] <= MINUTE]
    assert all(wrong_end(found, event) < 2 for event in first)
    assert longest == PIECES.chunk
    # Nothing is lost on the way, and nothing doubled.
    misses = torch.tensor([wrong_end(found, event) for event in truth.events])
    assert (misses < 2).float().mean() > 0.97
    assert int((found.scores > SURE).sum()) < 1.03 * len(truth.events)


def test_pieces_of_other_lengths_find_the_same_events(trained: LoCo) -> None:
    for chunk, overlap in ((128, 32), (512, 256)):
        settings = replace(PIECES, chunk=chunk, overlap=overlap)
        found, truth, _ = scan(trained, 10 * MINUTE, settings)
        misses = torch.tensor([wrong_end(found, event) for event in truth.events])
        assert (misses < 2).float().mean() > 0.97, settings


def test_away_from_borders_the_piece_length_changes_nothing(trained: LoCo) -> None:
    """Without attention over the whole piece and places counted from its start."""
    model = LoCo(
        vision_dim=12, audio_dim=8, classes=CLASSES, channels=16, heads=2, decoder_channels=16,
        levels=3, unimodal_blocks=0, max_seq_len=SPAN, correspondence="none",
    ).eval()  # fmt: skip
    model.load_state_dict(trained.state_dict(), strict=False)
    for name in ("vision", "audio"):
        model.embed[name].table = torch.zeros(1, 16, 2000)
    answers = []
    for chunk, overlap in ((1024, 256), (512, 256), (512, 384)):
        said = torch.full((1024, CLASSES), torch.nan)
        reach = overlap // 2  # what a step depends on lies within it

        def watch(start: int, prediction, said: Tensor = said, reach: int = reach) -> None:  # type: ignore[no-untyped-def]
            steps = prediction.lengths[0]
            low = 0 if start == 0 else reach
            high = steps if start + steps == 1024 else steps - reach
            said[start + low : start + high] = prediction.logits[0, low:high]

        settings = replace(PIECES, chunk=chunk, overlap=overlap)
        detector = SequenceDetector(model, settings=settings, watch=watch)
        for block in video(1024, Planted()):
            detector.add(*block)
        detector.finish()
        assert said.isfinite().all()
        answers.append(said)
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("longest", [70, 120])
def test_detections_do_not_depend_on_batch_or_padding(fusion: str, longest: int) -> None:
    torch.manual_seed(0)
    model = LoCo(
        vision_dim=12, audio_dim=8, classes=4, channels=16, decoder_channels=16, fusion=fusion,
        levels=4, unimodal_blocks=1, max_seq_len=64,
    ).eval()  # fmt: skip
    with torch.no_grad():  # the gains start at 1e-4, which would hide every mistake in the blocks
        for name, value in model.named_parameters():
            if name.endswith(("drop_attention.scale", "drop_feed.scale")):
                value.fill_(0.5)
    wandering(model)
    lengths = (70, 33, 1, 64)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    vision, audio = torch.randn(4, 12, longest), torch.randn(4, 8, longest)
    heard = mask.clone()
    heard[0, :9] = False
    settings = DecodingSettings(per_level=10_000, max_total=10_000, max_per_class=10_000)
    with torch.inference_mode():
        together = model(vision, audio, mask, heard)
        for row, steps in enumerate(lengths):
            part = (slice(row, row + 1), ..., slice(0, steps))
            alone = model(vision[part], audio[part], mask[part], heard[part])
            first = own = 0
            for padded, count in zip(together.lengths, alone.lengths, strict=True):
                for name in ("logits", "distances"):
                    torch.testing.assert_close(
                        getattr(together, name)[row, first : first + count],
                        getattr(alone, name)[0, own : own + count],
                        rtol=1e-5,
                        atol=1e-5,
                    )
                assert not together.mask[row, first + count : first + padded].any()
                first, own = first + padded, own + count
            found = decode(alone, settings)[0]
            with_others = decode(together, settings)[row]
            assert len(found.scores) == len(with_others.scores)


MEASURE = """
import json, resource, sys
import torch
from model.decoding import DecodingSettings
from model.loco import LoCo
from model.sequence import SequenceDetector

torch.set_num_threads(1)
model = LoCo(vision_dim=1280, audio_dim=1024, classes=8, channels=16, decoder_channels=16,
             levels=3, unimodal_blocks=1, correspondence="none").eval()
peaks = []
for minutes in (6, 180):
    detector = SequenceDetector(model)
    generator = torch.Generator().manual_seed(minutes)
    for _ in range(minutes * 60 * 4 // 240):
        vision = torch.randn(1280, 1, generator=generator).expand(-1, 240)
        audio = torch.randn(1024, 1, generator=generator).expand(-1, 240)
        mask = torch.ones(240, dtype=torch.bool)
        detector.add(vision, audio, mask, mask)
    detector.finish()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.stdout.write(json.dumps(peaks))
"""


def test_three_hours_take_the_memory_of_six_minutes() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, cwd=root, check=True
    )
    short, long = json.loads(done.stdout)
    whole = 180 * MINUTE * (1280 + 1024) * 4
    assert long - short < whole / 10  # 398 MB, were the embeddings kept
    assert long < 1.1 * short

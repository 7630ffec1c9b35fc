"""Activation of long sequences in pieces."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.clasp import CLASP
from model.decoding import DecodingSettings
from model.localisation import video_scores
from model.pooling import top_mean
from tests.fixtures.whole_sequences import activate_sequence


def network() -> CLASP:
    torch.manual_seed(0)
    return CLASP(vision_dim=4, audio_dim=3, classes=2, channels=8, heads=2, max_seq_len=64).eval()


def sequence(steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(steps, dtype=torch.bool)
    vision = torch.randn(4, steps, generator=generator)
    return vision, torch.randn(3, steps, generator=generator), mask, mask.clone()


def test_a_short_sequence_is_what_the_network_says() -> None:
    model, inputs = network(), sequence(50)
    found = activate_sequence(model, *inputs)
    said = model(*(x[None] for x in inputs))
    assert torch.allclose(found.activation.float(), said.activation[0].T, atol=1e-3)
    assert torch.allclose(found.video, said.video[0])


def test_every_step_of_a_long_sequence_is_answered_by_the_piece_that_knows_it_best() -> None:
    model, inputs = network(), sequence(150)
    settings = DecodingSettings(chunk=64, overlap=20)
    found = activate_sequence(model, *inputs, settings=settings)
    assert found.activation.shape == (150, 2) and found.valid.all()
    starts = (0, 44, 88)
    pieces = [model(*(x[None, ..., s : s + 64] for x in inputs)) for s in starts]
    for step in range(150):
        owner = 0 if step < 54 else 1 if step < 98 else 2
        expected = pieces[owner].activation[0, :, step - starts[owner]]
        assert torch.allclose(found.activation[step].float(), expected, atol=1e-3), step
    assert torch.allclose(found.video, torch.stack([p.video[0] for p in pieces]).amax(0))


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        activate_sequence(network(), *sequence(0))


def test_without_a_network_the_score_of_a_video_is_the_mean_of_its_best_eighth() -> None:
    random = np.random.default_rng(0)
    activation = random.random((60, 3)).astype(np.float16)
    valid = random.random(60) < 0.8
    expected = top_mean(torch.from_numpy(activation.T).float()[None], torch.from_numpy(valid)[None])
    np.testing.assert_array_equal(video_scores(activation, valid), expected[0].numpy())
    assert video_scores(activation, np.zeros(60, bool)).tolist() == [0, 0, 0]
    for shape in ((0, 3), (4, 0)):
        found = video_scores(np.zeros(shape, np.float32), np.ones(shape[0], bool))
        assert found.tolist() == [0] * shape[1]


def test_a_short_event_counts_alike_however_long_the_rest_of_the_video_is() -> None:
    """The best of the pieces: of all steps of a long one, four would be next to nothing."""
    activation = np.zeros((200, 1), np.float32)
    activation[50:54] = 0.8
    pieces = DecodingSettings(chunk=40, overlap=8)
    [score] = video_scores(activation, np.ones(200, bool), settings=pieces)
    assert score == pytest.approx(4 * 0.8 / 5)
    [whole] = video_scores(activation, np.ones(200, bool))
    assert whole == pytest.approx(4 * 0.8 / 25)

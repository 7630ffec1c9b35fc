"""ONE-PEACE's branches equal the public implementation; a narrow net stands for the real one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.audio.onepeace import OnePeaceAudio, OnePeaceAudioEncoder
from extractors.onepeace.keys import Branch, translate
from extractors.onepeace.layers import OnePeaceSize, picture_buckets, sequence_buckets
from extractors.onepeace.spec import ONEPEACE_AUDIO, ONEPEACE_VIDEO
from extractors.onepeace.text import PADDING, OnePeaceText
from extractors.spec import FramePreparer
from extractors.vision.onepeace import MEAN, STD, OnePeaceImage, OnePeaceVideo, OnePeaceVideoEncoder
from fixtures.golden_inputs import clip_uint8
from fixtures.golden_weights import read_keys, tensor
from fixtures.onepeace import TINY, base_state, video_state

CPU = torch.device("cpu")
TOLERANCE = 1e-5  # of the largest value
FAMILIES = ("shared_rel", "per_layer_rel")  # one table of relative positions, or one a layer


@pytest.fixture(scope="module")
def reference(golden: Path) -> Mapping[str, np.ndarray]:
    return dict(np.load(golden / "backbones/onepeace_tiny.npz"))


@pytest.fixture(scope="module")
def video_reference(golden: Path) -> Mapping[str, np.ndarray]:
    return dict(np.load(golden / "backbones/onepeace_video_tiny.npz"))


def filled(net: nn.Module, branch: Branch, state: Mapping[str, Tensor]) -> nn.Module:
    ours = translate(branch)
    net.load_state_dict({name: state[key] for key in state if (name := ours(key))}, strict=True)
    return net.eval().requires_grad_(False)


def family(name: str) -> tuple[OnePeaceSize, dict[str, Tensor]]:
    """Measures and weights of one family of reference outputs."""
    state = base_state()
    if name == "shared_rel":
        return TINY, state
    for modality, rows in (("image", 52), ("audio", 66), ("text", 34)):
        for layer in range(TINY.layers):
            key = f"encoder_wrapper.{modality}_adapter.rel_pos_table_list.{layer}.weight"
            state[key] = torch.from_numpy(tensor(key, (rows, TINY.heads)))
    return replace(TINY, position_tables=TINY.layers), state


def normalised(sound: np.ndarray) -> Tensor:
    waveform = torch.from_numpy(sound)
    return F.layer_norm(waveform, waveform.shape)


def one_second(reference: Mapping[str, np.ndarray]) -> Tensor:
    """A whole second and 0.69 s of sound, the latter repeated: (2, 16000)."""
    whole, short = (normalised(reference[f"shared_rel/audio_wav{n}"]) for n in (0, 1))
    return torch.stack([whole, short.repeat(2)[:16_000]])


def assert_close(found: Tensor, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_image_branch_equals_the_reference(
    name: str, reference: Mapping[str, np.ndarray]
) -> None:
    size, state = family(name)
    net = filled(OnePeaceImage(size), "image", state)
    pictures = torch.from_numpy(reference["shared_rel/image_in"])
    assert_close(net.tokens(pictures), reference[f"{name}/image_tokens"])
    assert_close(net(pictures), reference[f"{name}/image_emb"])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_audio_branch_equals_the_reference(
    name: str, reference: Mapping[str, np.ndarray]
) -> None:
    size, state = family(name)
    net = filled(OnePeaceAudio(size), "audio", state)
    sound = one_second(reference)
    assert_close(net.adapter(sound), reference[f"{name}/audio_adapter_out"])
    assert_close(net.tokens(sound), reference[f"{name}/audio_tokens"])
    assert_close(net(sound), reference[f"{name}/audio_emb"])


def test_the_sound_that_the_net_is_given_equals_the_references(
    reference: Mapping[str, np.ndarray], shared: Callable[[str], Path]
) -> None:
    whole = np.load(shared("golden/backbones/onepeace_tiny_golden.npz"))
    assert_close(one_second(reference), whole["shared_rel/audio_src"])


@pytest.mark.parametrize("name", FAMILIES)
def test_sounds_of_two_lengths_in_one_batch_equal_the_reference(
    name: str, reference: Mapping[str, np.ndarray]
) -> None:
    size, state = family(name)
    net = filled(OnePeaceAudio(size), "audio", state)
    short, long = (normalised(reference[f"shared_rel/audio_wav{name}"]) for name in ("0", "_long"))
    sound = torch.stack([F.pad(short, (0, len(long) - len(short))), long])
    padding = torch.zeros(2, 75, dtype=torch.bool)
    padding[0, 50:] = True
    np.testing.assert_array_equal(padding, reference[f"{name}/audio_pad_mask"])
    assert_close(net(sound, padding), reference[f"{name}/audio_pad_emb"])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_branch_equals_the_reference(
    name: str, reference: Mapping[str, np.ndarray]
) -> None:
    """Two texts of different lengths, the shorter one filled up."""
    size, state = family(name)
    net = filled(OnePeaceText(size), "text", state)
    numbers = torch.from_numpy(reference["shared_rel/text_in"])
    assert (numbers == PADDING).any()
    assert_close(net(numbers), reference[f"{name}/text_emb"])


def test_a_text_says_the_same_alone_and_beside_a_longer_one(
    reference: Mapping[str, np.ndarray],
) -> None:
    net = filled(OnePeaceText(TINY), "text", base_state())
    numbers = torch.from_numpy(reference["shared_rel/text_in"])
    for row, expected in zip(numbers, reference["shared_rel/text_emb"], strict=True):
        assert_close(net(row[None, row != PADDING])[0], expected)
    with pytest.raises(ValueError, match="a text of 514 tokens; ONE-PEACE reads 513 at most"):
        net(torch.zeros(1, 514, dtype=torch.int64))


def test_the_video_branch_equals_the_reference(video_reference: Mapping[str, np.ndarray]) -> None:
    net = filled(OnePeaceVideo(TINY), "video", video_state(frames=4))
    windows = torch.from_numpy(video_reference["input"]).transpose(1, 2)
    assert_close(net.frame_tokens(windows).transpose(1, 2), video_reference["cls_per_frame"])
    assert_close(net(windows), video_reference["feature"])


def test_relative_positions_of_the_full_size_equal_the_reference(
    reference: Mapping[str, np.ndarray],
) -> None:
    places = [0, 1, 2, 100, -1]
    for name, buckets in (
        ("rp_bucket_audio_512", sequence_buckets(1023, buckets=512)),
        ("rp_bucket_text_256", sequence_buckets(1023, buckets=256)),
        ("rp_bucket_image_16", picture_buckets(16)),
    ):
        np.testing.assert_array_equal(buckets[places], reference[f"{name}/rows"])
        np.testing.assert_array_equal(buckets[:, places], reference[f"{name}/columns"])


def test_full_size_tables_equal_the_reference_everywhere(shared: Callable[[str], Path]) -> None:
    tables = np.load(shared("golden/backbones/onepeace_tiny_golden.npz"))
    for name, buckets in (("audio_512", 512), ("text_256", 256)):
        np.testing.assert_array_equal(
            sequence_buckets(1023, buckets=buckets), tables[f"rp_bucket_{name}"]
        )
    np.testing.assert_array_equal(picture_buckets(16), tables["rp_bucket_image_16"])


@pytest.mark.parametrize(
    ("branch", "make", "parameters"),
    [
        ("video", OnePeaceVideo, 1_656_384_864),
        ("image", OnePeaceImage, None),
        ("vision", partial(OnePeaceImage, head=False), None),
        ("audio", OnePeaceAudio, None),
        ("text", OnePeaceText, None),
    ],
)
def test_the_full_size_net_has_the_tensors_of_the_public_checkpoint(
    branch: Branch, make: Callable[[OnePeaceSize], nn.Module], parameters: int | None, golden: Path
) -> None:
    size = OnePeaceSize()
    with torch.device("meta"):
        net = make(size)
    public = {}
    for name, shape in read_keys(golden / "backbones/onepeace_keys.txt").items():
        if (branch == "video") != name.startswith("backbone."):
            continue
        for layer in range(size.layers) if ".layers.*." in name else [0]:
            public[name.replace(".layers.*.", f".layers.{layer}.")] = shape
    ours = translate(branch)
    wanted = {name: shape for key, shape in public.items() if (name := ours(key))}
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == wanted
    if parameters:
        assert sum(value.numel() for value in net.parameters()) == parameters


# --- encoders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video() -> OnePeaceVideoEncoder:
    net = filled(OnePeaceVideo(TINY), "video", video_state(frames=4))
    return OnePeaceVideoEncoder(net, ONEPEACE_VIDEO, side=64, device=CPU, threads=2)


@pytest.fixture(scope="module")
def audio() -> OnePeaceAudioEncoder:
    net = filled(OnePeaceAudio(TINY), "audio", base_state())
    return OnePeaceAudioEncoder(net, ONEPEACE_AUDIO, samples=16_000, device=CPU, threads=2)


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (320, 240), (640, 512), (300, 256)])
def test_frames_in_the_videos_own_size_are_scaled_and_cut_as_the_public_pipeline_does_it(
    size: tuple[int, int], golden: Path
) -> None:
    with torch.device("meta"):
        net = OnePeaceVideo(replace(TINY, image_side=256))
    encoder = OnePeaceVideoEncoder(net, ONEPEACE_VIDEO, side=256, device=CPU, threads=1)
    assert isinstance(encoder, FramePreparer)
    assert encoder.frame_size(*size) == size
    width, height = size
    frames = np.random.RandomState(0).randint(0, 256, (2, height, width, 3), dtype=np.uint8)
    squares = encoder.prepare(frames)
    assert squares.shape == (2, 256, 256, 3)
    found = hashlib.sha256(squares.tobytes()).hexdigest()
    reference = np.load(golden / "backbones/opencv_linear.npz")
    assert found == reference[f"{width}x{height}/square_sha256"]


def test_the_middle_of_the_picture_is_normalised_and_seen(video: OnePeaceVideoEncoder) -> None:
    frames = clip_uint8(4, 64, 101)
    pixels = torch.from_numpy(frames[:, :, 18:82].astype(np.float32)).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        expected = video._net(((pixels - mean) / std)[None])
    squares = video.prepare(frames)
    np.testing.assert_allclose(
        video.embed(squares[None]).embeddings, expected.numpy(), rtol=0, atol=1e-5
    )


def test_the_order_of_frames_matters(video: OnePeaceVideoEncoder) -> None:
    frames = clip_uint8(4, 64, 64)[None]
    there, back = video.embed(frames).embeddings, video.embed(frames[:, ::-1]).embeddings
    assert np.abs(there - back).max() > 1e-3 * np.abs(there).max()


def test_a_batch_of_windows_equals_its_windows_one_by_one(
    video: OnePeaceVideoEncoder, audio: OnePeaceAudioEncoder
) -> None:
    frames = np.stack([clip_uint8(4, 64, 64, seed=seed) for seed in range(5)])
    windows = 0.1 * np.random.default_rng(0).standard_normal((9, 16_000)).astype(np.float32)
    for encoder, batch in ((video, frames), (audio, windows)):
        together = encoder.embed(batch).embeddings
        alone = np.concatenate([encoder.embed(one[None]).embeddings for one in batch])
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_sound_embeddings_have_unit_length_and_do_not_depend_on_loudness(
    audio: OnePeaceAudioEncoder,
) -> None:
    window = 0.1 * np.random.default_rng(1).standard_normal((1, 16_000)).astype(np.float32)
    quiet, loud = audio.embed(window).embeddings, audio.embed(5 * window).embeddings
    np.testing.assert_allclose(np.linalg.norm(quiet, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(quiet, loud, rtol=0, atol=1e-3)


def test_less_than_a_window_of_sound_is_repeated_after_its_norm(
    audio: OnePeaceAudioEncoder, reference: Mapping[str, np.ndarray]
) -> None:
    short = reference["shared_rel/audio_wav1"]
    assert len(short) < 16_000
    found = audio.embed(short[None]).embeddings
    expected = reference["shared_rel/audio_emb"][1:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_silence_has_finite_features(audio: OnePeaceAudioEncoder) -> None:
    assert np.isfinite(audio.embed(np.zeros((1, 16_000), np.float32)).embeddings).all()


def test_no_windows_give_no_rows(video: OnePeaceVideoEncoder, audio: OnePeaceAudioEncoder) -> None:
    assert video.embed(np.zeros((0, 4, 64, 64, 3), np.uint8)).embeddings.shape == (0, TINY.dim)
    assert audio.embed(np.zeros((0, 16_000), np.float32)).embeddings.shape == (0, TINY.dim)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 3, 64, 64, 3), np.uint8),
        np.zeros((1, 4, 64, 65, 3), np.uint8),
        np.zeros((4, 64, 64, 3), np.uint8),
        np.zeros((1, 4, 64, 64, 3), np.float32),
    ],
    ids=["too-few-frames", "not-prepared", "no-window", "not-bytes"],
)
def test_frames_of_another_form_are_refused(
    video: OnePeaceVideoEncoder, frames: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"\(N, 4, 64, 64, 3\) uint8"):
        video.embed(frames)


@pytest.mark.parametrize("shape", [(1, 16_001), (16_000,), (1, 0)])
def test_sound_of_another_form_is_refused(
    audio: OnePeaceAudioEncoder, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="windows must be"):
        audio.embed(np.zeros(shape, np.float32))

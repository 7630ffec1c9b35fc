from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractors.stream as stream_module
from extractors.buffer import SlidingBuffer
from extractors.features import Rows, concatenate_rows
from extractors.media.blocks import FrameBlock
from extractors.media.gaps import Gap
from extractors.media.info import AudioStream, MediaInfo, VideoStream
from extractors.media.probe import probe
from extractors.spec import Backbone, Encoded
from extractors.stream import FeatureStream, extract_features
from extractors.windows import WindowGrid
from fixtures.backbones import Loudness, MeanColour, toy
from fixtures.media import FLASH_S, Zoo
from pipeline.core.errors import MediaError, UsageError

GRID = WindowGrid()
FPS, RATE = 16, 16_000


@dataclass
class FakeVideo:
    """Stands for a VideoReader: frames of one colour each."""

    frames: np.ndarray
    first: int = 0
    end: float = 0.0
    block: int = 7
    error: MediaError | None = None
    reader: str = "fake"
    fallback_reason: str = ""
    gaps: tuple[Gap, ...] = ()
    closed: bool = False

    def __enter__(self) -> FakeVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[FrameBlock]:
        for low in range(0, len(self.frames), self.block):
            yield FrameBlock(self.first + low, self.frames[low : low + self.block])
        if self.error:
            self.end = 0.0
            raise self.error


@dataclass
class FakeAudio:
    samples: np.ndarray
    block: int = 5000
    error: MediaError | None = None
    reader: str = "fake"
    gaps: tuple[Gap, ...] = ()
    closed: bool = False

    @property
    def end(self) -> float:
        return len(self.samples) / RATE

    def __enter__(self) -> FakeAudio:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[np.ndarray]:
        for low in range(0, len(self.samples), self.block):
            yield self.samples[low : low + self.block]
        if self.error:
            raise self.error


def video_stream(start: float, duration: float | None) -> VideoStream:
    return VideoStream(0, start, duration, Fraction(25), False, "h264", 64, 48)


def audio_stream(start: float, duration: float | None) -> AudioStream:
    return AudioStream(1, start, duration, RATE, 1, "aac")


@dataclass
class Film:
    """A made-up file: what it promises, and what its readers give."""

    picture: tuple[float, float] | None = (0.0, 10.0)  # start and promised end
    sound: tuple[float, float] | None = (0.0, 10.0)
    decoded_picture: float | None = None  # second at which decoding ends; None as promised
    decoded_sound: float | None = None
    promised: bool = True
    seed: int = 0
    video: FakeVideo = field(init=False)
    audio: FakeAudio = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        if self.picture:
            start, end = self.picture
            end = end if self.decoded_picture is None else self.decoded_picture
            first = math.ceil(start * FPS)
            count = max(0, math.ceil(end * FPS) - first)
            colours = random.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
            self.video = FakeVideo(np.broadcast_to(colours, (count, 24, 32, 3)), first, end)
        if self.sound:
            start, end = self.sound
            end = end if self.decoded_sound is None else self.decoded_sound
            samples = random.uniform(-1, 1, round(end * RATE)).astype(np.float32)
            samples[: round(start * RATE)] = 0
            self.audio = FakeAudio(samples)

    @property
    def info(self) -> MediaInfo:
        def length(span: tuple[float, float]) -> float | None:
            return span[1] - span[0] if self.promised else None

        ends = [span[1] for span in (self.picture, self.sound) if span]
        return MediaInfo(
            path=Path("film.mp4"),
            container="mp4",
            size_bytes=1,
            duration=max(ends) if self.promised else None,
            clock_offset=0.0,
            video=video_stream(self.picture[0], length(self.picture)) if self.picture else None,
            audio=audio_stream(self.sound[0], length(self.sound)) if self.sound else None,
        )

    def stream(
        self, monkeypatch: pytest.MonkeyPatch, backbone: Backbone | None = None, **options: Any
    ) -> FeatureStream:
        monkeypatch.setattr(stream_module, "open_video", lambda *_, **__: self.video)
        monkeypatch.setattr(stream_module, "open_audio", lambda *_, **__: self.audio)
        return FeatureStream(self.info, backbone or toy(), **options)


def run(stream: FeatureStream) -> Rows:
    chunks = list(stream)
    assert all(len({len(array) for array in chunk.values()}) == 1 for chunk in chunks)
    rows = concatenate_rows(chunks)
    assert len(rows["vision"]) == stream.summary.steps
    return rows


def expected_colours(film: Film, steps: int) -> np.ndarray:
    """Mean colour of the frames that each window has, straight from the definition."""
    video, means = film.video, []
    for step in range(steps):
        window = range(step * 4, step * 4 + 16)
        inside = [j - video.first for j in window if 0 <= j - video.first < len(video.frames)]
        means.append(video.frames[inside, 0, 0].mean(axis=0) / 255 if inside else np.zeros(3))
    return np.array(means)


def expected_loudness(film: Film, steps: int) -> np.ndarray:
    padded = np.concatenate([film.audio.samples, np.zeros(2 * RATE, np.float32)]).astype(float)
    windows = [padded[step * 4000 : step * 4000 + RATE] for step in range(steps)]
    return np.array([[np.sqrt((w**2).mean()), np.abs(w).max()] for w in windows])


@pytest.mark.parametrize("unit", ["frame", "window"])
@pytest.mark.parametrize("seconds", [0.9, 1.0, 1.3, 9.06, 10.0, 33.7])
def test_each_row_is_what_its_window_holds(
    monkeypatch: pytest.MonkeyPatch, unit: str, seconds: float
) -> None:
    film = Film(picture=(0, seconds), sound=(0, seconds))
    stream = film.stream(monkeypatch, toy(unit=unit))
    rows = run(stream)
    steps = GRID.steps(seconds)
    assert stream.summary.steps == steps
    assert stream.summary.duration == seconds
    assert stream.summary.status == "done"
    assert rows["vision_mask"].all() and rows["audio_mask"].all()
    if seconds >= 1:  # a shorter one is padded, which a frame's mean and a clip's are not alike in
        np.testing.assert_allclose(rows["vision"], expected_colours(film, steps), atol=1e-6)
    np.testing.assert_allclose(rows["audio"], expected_loudness(film, steps), atol=1e-6)
    assert rows["vision_scores"].dtype == np.float16


def test_a_frame_is_encoded_once_however_many_windows_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = toy()
    run(Film(picture=(0, 20), sound=(0, 20)).stream(monkeypatch, backbone))
    assert isinstance(backbone.vision, MeanColour)
    assert sum(backbone.vision.calls) == 20 * FPS


@pytest.mark.parametrize("unit", ["frame", "window"])
def test_no_net_is_given_more_than_a_batch(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    backbone = toy(unit=unit)
    run(Film().stream(monkeypatch, backbone, batch_size=24))
    assert isinstance(backbone.vision, MeanColour) and isinstance(backbone.audio, Loudness)
    assert max(backbone.vision.calls) == (24 if unit == "frame" else 1)
    assert max(backbone.audio.calls) == 24


@pytest.mark.parametrize("unit", ["frame", "window"])
def test_the_sizes_of_decoded_blocks_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    results = []
    for frames, samples in [(1, 160), (7, 5000), (64, 64_000), (1000, 10**6)]:
        film = Film(picture=(0.4, 12.3), sound=(0, 11.1))
        film.video.block, film.audio.block = frames, samples
        results.append(run(film.stream(monkeypatch, toy(unit=unit))))
    for other in results[1:]:
        assert all(np.array_equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("unit", ["frame", "window"])
def test_a_stream_that_starts_late_is_masked_until_it_fills_half_a_window(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    film = Film(picture=(2.0, 10.0))
    rows = run(film.stream(monkeypatch, toy(unit=unit)))
    # Step k ends at (k * 4 + 16) / 16 s; it holds 0.5 s of picture from k = 6 on.
    assert rows["vision_mask"].tolist() == [False] * 6 + [True] * 31
    assert not rows["vision"][:6].any() and not rows["vision_scores"][:6].any()
    assert rows["vision"][6:].any(axis=1).all()
    np.testing.assert_allclose(rows["vision"][8:], expected_colours(film, 37)[8:], atol=1e-6)
    if unit == "frame":  # the mean is over the frames that are there
        np.testing.assert_allclose(rows["vision"][6:], expected_colours(film, 37)[6:], atol=1e-6)
    assert rows["audio_mask"].all()


def test_a_shorter_stream_leaves_masked_rows_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(sound=(0.0, 6.0))
    stream = film.stream(monkeypatch)
    rows = run(stream)
    assert stream.summary.steps == 37
    assert stream.summary.status == "done"
    assert rows["audio_mask"].tolist() == [True] * 23 + [False] * 14  # step 22 starts at 5.5 s
    assert not rows["audio"][23:].any()
    np.testing.assert_allclose(rows["audio"][:23], expected_loudness(film, 23), atol=1e-6)


@pytest.mark.parametrize(("missing", "other"), [("picture", "audio"), ("sound", "vision")])
def test_a_missing_stream_is_told_and_masked(
    monkeypatch: pytest.MonkeyPatch, missing: str, other: str
) -> None:
    film = Film(**{missing: None})
    stream = film.stream(monkeypatch)
    rows = run(stream)
    gone = "vision" if missing == "picture" else "audio"
    assert not rows[f"{gone}_mask"].any() and not rows[gone].any()
    assert rows[f"{other}_mask"].all()
    assert stream.summary.notes == (
        "no picture stream" if missing == "picture" else "no audio stream",
    )
    assert gone not in stream.summary.coverage and gone not in stream.summary.readers
    assert stream.summary.status == "done"


def test_an_early_end_of_one_stream_is_partial_and_the_other_decides_the_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Film(decoded_picture=5.2).stream(monkeypatch)
    rows = run(stream)
    summary = stream.summary
    assert (summary.status, summary.steps, summary.duration) == ("partial", 37, 10.0)
    assert summary.coverage["vision"] == pytest.approx(0.52)
    assert summary.coverage["audio"] == 1.0
    assert summary.notes == ("picture ends at 5.2 s, the container promises 10.0 s",)
    assert rows["vision_mask"].sum() == 19  # the step from 4.5 s on still holds 0.7 s


def test_when_all_streams_end_early_the_decoded_end_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Film(decoded_picture=5.2, decoded_sound=4.0).stream(monkeypatch)
    rows = run(stream)
    assert stream.summary.duration == pytest.approx(5.2)
    assert stream.summary.steps == GRID.steps(5.2) == 17
    assert rows["vision_mask"].all()
    assert len(stream.summary.notes) == 2


@pytest.mark.parametrize("short", [0.0, 0.02, 0.06, 0.099])
def test_a_last_frame_more_or_less_is_not_partial(
    monkeypatch: pytest.MonkeyPatch, short: float
) -> None:
    stream = Film(decoded_picture=10 - short, decoded_sound=10 - short / 2).stream(monkeypatch)
    run(stream)
    assert stream.summary.status == "done"
    assert stream.summary.duration == 10.0 and stream.summary.steps == 37


def test_of_a_short_file_a_missing_frame_is_not_partial(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Film(picture=(0, 1.5), sound=(0, 1.5), decoded_sound=1.45).stream(monkeypatch)
    run(stream)
    assert stream.summary.status == "done"
    assert stream.summary.coverage["audio"] == pytest.approx(1.45 / 1.5)


def test_a_file_that_promises_nothing_is_as_long_as_it_decodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Film(picture=(0, 7.3), sound=(0, 6.0), promised=False).stream(monkeypatch)
    run(stream)
    assert stream.summary.duration == pytest.approx(7.3)
    assert stream.summary.steps == GRID.steps(7.3)
    assert stream.summary.status == "done"
    assert "the file does not say how long its picture is" in stream.summary.notes


def test_a_decoder_that_gives_up_is_no_end_of_a_file_that_promises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = Film(picture=(0, 7.3), sound=(0, 6.0), promised=False)
    film.audio.error = MediaError("film.mp4", "ffmpeg crashed")
    stream = film.stream(monkeypatch)
    run(stream)
    assert stream.summary.status == "partial"
    assert "audio: ffmpeg crashed" in stream.summary.notes


def test_a_file_that_goes_on_past_its_promise_is_kept_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = Film(decoded_picture=25.0, decoded_sound=24.0)
    stream = film.stream(monkeypatch)
    rows = run(stream)
    assert stream.summary.duration == 25.0
    assert stream.summary.steps == GRID.steps(25.0)
    assert "picture goes on to 25.0 s, the container promises 10.0 s" in stream.summary.notes
    np.testing.assert_allclose(rows["vision"], expected_colours(film, 97), atol=1e-6)


def test_a_little_more_than_promised_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Film(decoded_picture=10.4, decoded_sound=10.9).stream(monkeypatch)
    run(stream)
    assert (stream.summary.duration, stream.summary.steps) == (10.0, 37)
    assert stream.summary.notes == ()


@pytest.mark.parametrize("unit", ["frame", "window"])
@pytest.mark.parametrize("seconds", [0.04, 0.1, 0.5])
def test_a_file_shorter_than_a_window_has_one_step(
    monkeypatch: pytest.MonkeyPatch, unit: str, seconds: float
) -> None:
    film = Film(picture=(0, seconds), sound=(0, seconds))
    stream = film.stream(monkeypatch, toy(unit=unit))
    rows = run(stream)
    assert stream.summary.steps == 1
    assert rows["vision_mask"].all() and rows["audio_mask"].all()
    assert rows["vision"].any() and rows["audio"].any()


def test_a_single_frame_without_sound_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(picture=(0, 0.0625), sound=None)
    rows = run(film.stream(monkeypatch))
    np.testing.assert_allclose(rows["vision"][0], film.video.frames[0, 0, 0] / 255, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("modality", ["vision", "audio"])
def test_a_value_that_is_not_finite_names_its_step(
    monkeypatch: pytest.MonkeyPatch, value: float, modality: str
) -> None:
    backbone = toy(unit="window")
    encoder = getattr(backbone, modality)
    original, seen = encoder.embed, [0]

    def broken(batch: np.ndarray) -> Encoded:
        answer = original(batch)
        seen[0] += len(batch)
        if seen[0] > 21 and seen[0] - len(batch) <= 21:
            answer.embeddings[21 - (seen[0] - len(batch)), 0] = value
        return answer

    encoder.embed = broken
    film = Film()
    with pytest.raises(MediaError, match=rf"{modality} features of step 21 \(at 5.25 s\)"):
        run(film.stream(monkeypatch, backbone))
    assert film.video.closed and film.audio.closed


def test_a_file_of_which_nothing_decodes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(decoded_picture=0.0, decoded_sound=0.0)
    with pytest.raises(MediaError, match="nothing of its picture and audio can be decoded"):
        run(film.stream(monkeypatch))
    film.video.error = MediaError("film.mp4", "no picture can be decoded: bad bits")
    with pytest.raises(MediaError, match="bad bits"):
        run(film.stream(monkeypatch))


def test_sound_survives_a_picture_that_cannot_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(decoded_picture=0.0)
    film.video.error = MediaError("film.mp4", "bad bits")
    stream = film.stream(monkeypatch)
    rows = run(stream)
    assert stream.summary.status == "partial"
    assert stream.summary.notes == ("the picture cannot be decoded: bad bits",)
    assert stream.summary.coverage["vision"] == 0.0
    assert not rows["vision_mask"].any() and rows["audio_mask"].all()


def test_what_came_before_a_decoder_gave_up_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(decoded_picture=5.0)
    film.video.error = MediaError("film.mp4", "ffmpeg hung")
    stream = film.stream(monkeypatch)
    rows = run(stream)
    assert stream.summary.status == "partial"
    assert rows["vision_mask"][:17].all() and not rows["vision_mask"][19:].any()
    np.testing.assert_allclose(rows["vision"][:17], expected_colours(film, 17), atol=1e-6)


def test_a_fallback_reason_travels_with_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film()
    film.video.fallback_reason = "decord is not trusted with mpegts"
    stream = film.stream(monkeypatch)
    run(stream)
    assert stream.summary.readers["vision"] == "fake (decord is not trusted with mpegts)"


def test_leaving_early_closes_the_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(picture=(0, 60), sound=(0, 60))
    stream = film.stream(monkeypatch)
    iterator = iter(stream)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert film.video.closed and film.audio.closed
    with pytest.raises(RuntimeError, match="only after its last row"):
        _ = stream.summary


@pytest.mark.parametrize("unit", ["frame", "window"])
@pytest.mark.parametrize("late", ["nothing", "picture", "sound"])
def test_memory_does_not_grow_with_the_length(
    monkeypatch: pytest.MonkeyPatch, unit: str, late: str
) -> None:
    def peak(seconds: float) -> int:
        film = Film(
            picture=(seconds * 0.75 if late == "picture" else 0, seconds),
            sound=(seconds * 0.75 if late == "sound" else 0, seconds),
        )
        stream = film.stream(monkeypatch, toy(unit=unit))
        tracemalloc.start()
        try:
            for _ in stream:
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(600) <= 1.1 * peak(60)


def test_another_grid_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = WindowGrid(fps=Fraction(25), window=24, stride=8)
    film = Film(picture=None)
    rows = run(film.stream(monkeypatch, toy(grid=grid)))
    assert len(rows["audio"]) == grid.steps(10.0) == 29
    step = film.audio.samples[3 * 5120 : 3 * 5120 + 15360]
    assert rows["audio"][3, 1] == np.abs(step).max()


def test_an_unknown_reader_is_refused(zoo: Zoo) -> None:
    with pytest.raises(UsageError, match="unknown video reader 'avi'"):
        extract_features(zoo["constant.mp4"].path, toy(), reader="avi")


class UpperHalf(MeanColour):
    """Sees where the zoo's files flash, not the barcode below."""

    def embed(self, frames: np.ndarray) -> Encoded:
        return super().embed(frames[..., :8, :, :])


@pytest.mark.parametrize(
    "name",
    [
        "constant.mp4",
        "variable.mp4",
        "video_from_2s.mkv",
        "audio_from_2s.mp4",
        "late.ts",
        "audio_shorter.mp4",
        "no_audio.mp4",
        "audio_only.mp3",
        "edit_list.mp4",
    ],
)
@pytest.mark.parametrize("unit", ["frame", "window"])
def test_flash_and_beep_land_in_their_windows(zoo: Zoo, name: str, unit: str) -> None:
    specimen = zoo[name]
    info = probe(specimen.path)
    backbone = toy(unit=unit)
    features = extract_features(specimen.path, replace(backbone, vision=UpperHalf(unit)))
    assert features.steps == GRID.steps(info.duration)
    assert features.summary.status == "done"
    for second, modality, column, threshold in [
        (specimen.flash, "vision", 0, 0.02),
        (specimen.beep, "audio", 1, 0.1),
    ]:
        array, mask = features[modality][:, column], features[f"{modality}_mask"]
        if second is None:
            assert not array.any() and not mask.any()
            continue
        bright = np.flatnonzero(array > array[mask].min() + threshold)
        # First and last window that hold the event, which may be a frame off: 1/16 s.
        first = [max(0, math.ceil(((second + d) * 16 - 15) / 4)) for d in (-1 / 16, 1 / 16)]
        last = [math.floor((second + FLASH_S + d) * 16 / 4) for d in (-2 / 16, 1 / 16)]
        assert first[0] <= bright[0] <= first[1]
        assert min(last[0], np.flatnonzero(mask)[-1]) <= bright[-1] <= last[1]


@pytest.mark.parametrize("name", ["one_frame.mp4", "tenth.mp4"])
def test_the_shortest_files_give_one_step(zoo: Zoo, name: str) -> None:
    features = extract_features(zoo[name].path, toy())
    assert features.steps == 1
    assert features["vision_mask"].all()


@pytest.mark.parametrize("reader", ["decord", "ffmpeg"])
def test_both_readers_give_the_same_features(zoo: Zoo, reader: str) -> None:
    path = zoo["variable.mp4"].path
    ours, other = extract_features(path, toy()), extract_features(path, toy(), reader=reader)
    np.testing.assert_allclose(ours["vision"], other["vision"], atol=0.01)
    assert np.array_equal(ours["audio"], other["audio"])
    assert other.summary.readers["vision"] == reader


def test_a_reader_asked_for_by_name_is_not_replaced_by_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = Film(decoded_picture=2.0)
    film.video.error = MediaError("film.mp4", "decord cannot read it")
    with pytest.raises(MediaError, match="decord cannot read it"):
        run(film.stream(monkeypatch, reader="decord"))


def test_a_truncated_file_is_partial(zoo: Zoo, tmp_path: Path) -> None:
    data = zoo["h264.mkv"].path.read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) * 6 // 10])
    features = extract_features(path, toy())
    assert features.summary.status == "partial"
    assert features.summary.coverage["vision"] < 0.9
    assert "the container promises 5.0 s" in features.summary.notes[0]
    assert features.steps == GRID.steps(features.summary.duration)


def test_a_sliding_buffer_is_a_row_of_which_the_front_is_gone() -> None:
    random = np.random.default_rng(1)
    buffer = SlidingBuffer((2,), np.int64, first=3)
    everything: list[int] = []
    start = 3
    for _ in range(400):
        count = int(random.integers(0, 9))
        rows = np.arange(len(everything), len(everything) + count)
        everything += rows.tolist()
        buffer.append(np.stack([rows, -rows], axis=1))
        start = min(start + int(random.integers(0, 9)), 3 + len(everything))
        buffer.drop(start)
        assert (buffer.start, buffer.stop) == (start, 3 + len(everything))
        assert buffer.rows(start, start + 5)[:, 0].tolist() == everything[start - 3 : start + 2]
    with pytest.raises(IndexError, match="was dropped"):
        buffer.rows(start - 1, start)


def test_a_stream_is_iterated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Film().stream(monkeypatch)
    run(stream)
    with pytest.raises(RuntimeError, match="only once"):
        next(iter(stream))


def test_a_digest_names_the_backbone(monkeypatch: pytest.MonkeyPatch, zoo: Zoo) -> None:
    backbone = toy()
    features = extract_features(zoo["constant.mp4"].path, backbone)
    assert features.digest == backbone.spec.digest
    assert features.id == "constant.mp4"
    assert replace(backbone.spec, name="other").digest != features.digest

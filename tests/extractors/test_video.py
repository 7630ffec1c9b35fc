"""The picture readers: they agree, end cleanly, and survive decoders that crash, hang or lie."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from extractors.media import video_decord
from extractors.media.blocks import block_length, first_samples
from extractors.media.decord_child import DistrustError, checked_ticks
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import VideoReader, open_video
from fixtures import mp4
from fixtures.media import HEIGHT, WIDTH, X264, Plan, Zoo, read_number, run_ffmpeg
from pipeline.core.errors import MediaError, UsageError

FPS = Fraction(16)
SMALL = (128, 96)
LARGE = (640, 480)  # so large that the whole clip does not fit into pipe and queue


def read_all(reader: VideoReader) -> tuple[int, np.ndarray]:
    with reader:
        blocks = list(reader)
    return blocks[0].first, np.concatenate([block.frames for block in blocks])


def assert_is_the_constant_file(frames: np.ndarray) -> None:
    assert [read_number(frame) for frame in frames] == [j * 25 // 16 for j in range(80)]


def assert_process_is_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    "name", ["constant.mp4", "hevc.mp4", "vp9_opus.webm", "rotated.mp4", "odd_size.mp4"]
)
@pytest.mark.parametrize("size", [(64, 64), (224, 224), (225, 127)])
def test_both_readers_give_the_same_pixels(zoo: Zoo, name: str, size: tuple[int, int]) -> None:
    info = probe(zoo[name].path)
    first, ours = read_all(open_video(info, fps=FPS, size=size, reader="decord"))
    other_first, others = read_all(open_video(info, fps=FPS, size=size, reader="ffmpeg"))
    assert first == other_first
    assert ours.shape == others.shape
    assert np.abs(ours.astype(np.int16) - others).mean() < 1.0


@pytest.mark.parametrize(
    ("matrix", "undo"),
    [
        ((-1, 0, 0, 0, 1, 0, WIDTH, 0, 1), np.fliplr),
        ((1, 0, 0, 0, -1, 0, 0, HEIGHT, 1), np.flipud),
        ((0, 1, 0, 1, 0, 0, 0, 0, 1), lambda frame: frame.swapaxes(0, 1)),
        ((0,) * 9, np.asarray),  # nonsense, which nobody heeds
    ],
    ids=["mirrored", "upside-down", "transposed", "blank"],
)
def test_a_mirrored_picture_is_shown_as_players_show_it(
    zoo: Zoo, tmp_path: Path, matrix: tuple[int, ...], undo: Callable[[np.ndarray], np.ndarray]
) -> None:
    """decord takes each of these for a turn by quarters."""
    path = tmp_path / "selfie.mp4"
    path.write_bytes(zoo["constant.mp4"].path.read_bytes())
    mp4.turn(path, matrix)
    info = probe(path)
    assert info.video is not None
    _, frames = read_all(
        open_video(info, fps=FPS, size=(2 * info.video.width, 2 * info.video.height))
    )
    assert undo(frames[0]).shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert_is_the_constant_file(np.stack([undo(frame) for frame in frames]))


@pytest.mark.parametrize("reader", ["decord", "ffmpeg"])
@pytest.mark.parametrize("name", ["constant.mp4", "video_from_2s.mp4", "ntsc.mp4", "tenth.mp4"])
def test_the_end_is_where_the_last_frame_is_over(zoo: Zoo, name: str, reader: str) -> None:
    truth = zoo[name]
    video = open_video(probe(truth.path), fps=FPS, size=SMALL, reader=reader)
    read_all(video)
    assert truth.picture is not None
    assert video.end == pytest.approx(truth.picture[1], abs=0.006)


@pytest.mark.parametrize("name", ["constant.mp4", "h264.mkv", "vp9_opus.webm", "plain.ts"])
def test_a_truncated_file_ends_early_and_says_where(zoo: Zoo, name: str, tmp_path: Path) -> None:
    source = zoo[name].path
    if name == "constant.mp4":  # with the index in front, or nothing could be read
        source = tmp_path / "front.mp4"
        run_ffmpeg("-i", zoo[name].path, "-c", "copy", "-movflags", "+faststart", source)
    whole = source.read_bytes()
    cut = tmp_path / f"cut{source.suffix}"
    cut.write_bytes(whole[: len(whole) * 7 // 10])
    video = open_video(probe(cut), fps=FPS, size=SMALL)
    first, frames = read_all(video)
    assert 1.0 < video.end < 4.5
    assert len(frames) + first == pytest.approx(video.end * 16, abs=1.01)


def test_damage_in_the_middle_moves_on_to_ffmpeg_without_a_gap(zoo: Zoo, tmp_path: Path) -> None:
    damaged = bytearray(zoo["constant.mp4"].path.read_bytes())
    start, end = damaged.index(b"mdat") + 4, damaged.index(b"moov") - 4
    middle = start + (end - start) // 2
    damaged[middle : middle + 1000] = bytes(1000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(damaged)
    video = open_video(probe(path), fps=FPS, size=SMALL)
    first, frames = read_all(video)
    assert (first, len(frames)) == (0, 80)
    assert "ffmpeg" in video.reader
    assert video.fallback_reason
    assert not video.fallback_reason.startswith("[")  # no time of day: equal runs agree
    assert [read_number(frame) for frame in frames[:10]] == [j * 25 // 16 for j in range(10)]


def test_a_killed_decord_is_replaced_at_the_next_sample(zoo: Zoo) -> None:
    info = probe(zoo["constant.mp4"].path)
    frames = []
    with open_video(info, fps=FPS, size=LARGE) as video:
        for number, block in enumerate(video):
            assert block.first == len(frames)
            if number == 0:
                assert video.pid is not None
                os.kill(video.pid, signal.SIGKILL)
            frames += list(block.frames)
    assert video.reader == "decord+ffmpeg"
    assert "died with status -9" in video.fallback_reason
    assert video.end == pytest.approx(5.0)
    assert_is_the_constant_file(np.stack(frames))


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "while True: pass"])
def test_a_hung_decord_is_killed_and_replaced(zoo: Zoo, monkeypatch, program: str) -> None:
    monkeypatch.setattr(video_decord, "CHILD", ("-c", program))
    info = probe(zoo["constant.mp4"].path)
    video = open_video(info, fps=FPS, size=SMALL, stall_timeout=0.5)
    _, frames = read_all(video)
    assert video.reader == "ffmpeg"
    assert "no output for 0.5 s" in video.fallback_reason
    assert_is_the_constant_file(frames)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "died with status -6"),
        ("raise SystemExit('gone')", "died with status 1: gone"),
        ("print('decord says hello to standard output')", "unknown message"),
        ("import sys; sys.stdout.buffer.write(b'F' + bytes([5]) + bytes(7) + b'12345')", "another"),
    ],
)
def test_a_crashing_or_babbling_decord_is_replaced(
    zoo: Zoo, monkeypatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(video_decord, "CHILD", ("-c", program))
    video = open_video(probe(zoo["constant.mp4"].path), fps=FPS, size=SMALL)
    _, frames = read_all(video)
    assert video.reader == "ffmpeg"
    assert reason in video.fallback_reason
    assert_is_the_constant_file(frames)


@pytest.mark.skipif(os.name != "posix", reason="memory is limited on POSIX systems only")
def test_a_decord_that_wants_too_much_memory_is_replaced(zoo: Zoo, monkeypatch) -> None:
    monkeypatch.setattr(video_decord, "MEMORY_LIMIT", 200 << 20)
    video = open_video(probe(zoo["constant.mp4"].path), fps=FPS, size=SMALL)
    _, frames = read_all(video)
    assert video.reader == "ffmpeg"
    assert video.fallback_reason
    assert_is_the_constant_file(frames)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration": 36_000.0}, "larger than decord may hold"),
        ({"duration": None}, "length is unknown"),
        ({"codec": "av1"}, "cannot decode av1"),
        ({"plain": False}, "hidden frames"),
    ],
)
def test_decord_is_not_asked_where_it_is_not_trusted(
    zoo: Zoo, change: dict[str, object], reason: str
) -> None:
    info = probe(zoo["constant.mp4"].path)
    assert info.video is not None
    info = replace(info, video=replace(info.video, **change))
    video = open_video(info, fps=FPS, size=SMALL)
    _, frames = read_all(video)
    assert video.reader == "ffmpeg"
    assert reason in video.fallback_reason
    assert_is_the_constant_file(frames)


def test_a_longer_clip_than_the_header_says_is_kept_out_of_decord(zoo: Zoo, monkeypatch) -> None:
    info = probe(zoo["constant.mp4"].path)
    monkeypatch.setattr(video_decord, "FRAME_BUDGET", 100 * 128 * 96 * 3)
    assert info.video is not None
    info = replace(info, video=replace(info.video, duration=1.0))
    video = open_video(info, fps=FPS, size=SMALL)
    _, frames = read_all(video)
    assert "125 frames of 128x96" in video.fallback_reason
    assert len(frames) == 80


def test_leaving_early_ends_the_decoder(zoo: Zoo) -> None:
    info = probe(zoo["constant.mp4"].path)
    for reader in ("decord", "ffmpeg"):
        with open_video(info, fps=FPS, size=LARGE, reader=reader) as video:
            next(iter(video))
            pid = video.pid
            assert pid is not None
        assert_process_is_gone(pid)
        assert not video.fallback_reason


def test_a_reader_that_is_never_read_starts_nothing(zoo: Zoo) -> None:
    children = len(psutil.Process().children())
    with open_video(probe(zoo["constant.mp4"].path), fps=FPS, size=SMALL):
        assert len(psutil.Process().children()) == children


def test_blocks_stay_small_whatever_the_picture(zoo: Zoo) -> None:
    with open_video(probe(zoo["constant.mp4"].path), fps=FPS, size=(1280, 960)) as video:
        assert max(block.frames.nbytes for block in video) <= 4 << 20
    assert block_length(224, 224) == 27
    assert block_length(10_000, 10_000) == 1


def test_a_still_picture_of_a_minute_is_repeated_without_being_held(zoo: Zoo) -> None:
    """Two frames, a minute apart: 960 samples, in blocks of bounded size."""
    plan = Plan(
        "slides.mp4",
        picture=(0.0, 61.0),
        sound=None,
        event=60.0,
        fps=Fraction(1, 60),
        video=(*X264, "-tune", "stillimage"),
    )
    truth = replace(plan, picture=(0.0, 120.0)).make(zoo.folder)
    for reader in ("decord", "ffmpeg"):
        with open_video(probe(truth.path), fps=FPS, size=SMALL, reader=reader) as video:
            numbers = [read_number(frame) for block in video for frame in block.frames]
        assert numbers == [0] * 960 + [1] * 960


def test_a_picture_that_cannot_be_decoded_is_an_error(zoo: Zoo, tmp_path: Path) -> None:
    info = probe(zoo["constant.mp4"].path)
    gone = replace(info, path=tmp_path / "gone.mp4")
    with pytest.raises(MediaError, match=r"gone\.mp4: no picture can be decoded"):
        read_all(open_video(gone, fps=FPS, size=SMALL))


def test_a_hung_ffmpeg_is_an_error(zoo: Zoo, tmp_path: Path, monkeypatch) -> None:
    from extractors.media import video_ffmpeg

    monkeypatch.setattr(video_ffmpeg, "picture_command", lambda *_, **__: ["sleep", "60"])
    info = probe(zoo["constant.mp4"].path)
    video = open_video(info, fps=FPS, size=SMALL, reader="ffmpeg", stall_timeout=0.3)
    with pytest.raises(MediaError, match="ffmpeg hung while decoding the picture"):
        read_all(video)


def test_a_file_without_picture_is_an_error(zoo: Zoo) -> None:
    with pytest.raises(MediaError, match="no picture stream"):
        open_video(probe(zoo["audio_only.m4a"].path), fps=FPS, size=SMALL)


@pytest.mark.parametrize("wrong", [{"reader": "opencv"}, {"size": (0, 10)}, {"fps": Fraction(0)}])
def test_a_request_that_makes_no_sense_is_refused(zoo: Zoo, wrong: dict[str, object]) -> None:
    info: MediaInfo = probe(zoo["constant.mp4"].path)
    with pytest.raises(UsageError):
        open_video(info, **{"fps": FPS, "size": SMALL, **wrong})  # type: ignore[arg-type]


def test_a_frame_that_starts_on_a_sample_is_on_that_sample() -> None:
    # 30000/1001 frames a second in ticks of 1/30000: frame 15 starts 1.001 * 0.5 s.
    ticks = [n * 1001 for n in range(17)]
    samples = first_samples(ticks, Fraction(1, 30000), FPS)
    assert samples[:3] == [0, 1, 2]
    assert samples[15] == 9
    assert first_samples([0, 4000, 8000], Fraction(1, 16000), FPS) == [0, 4, 8]
    assert first_samples([3999, 4001], Fraction(1, 16000), FPS) == [4, 5]


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        (np.zeros((0, 2)), "sees no frames"),
        (np.array([[0.0, 0.04], [np.nan, 0.08]]), "not finite"),
        (np.array([[-3.7e17, 0.04], [0.04, 0.08]]), "not finite"),
        (np.array([[-1.4, -1.36], [-1.36, -1.32]]), r"at -1\.400 s"),
        (np.array([[0.0, 0.04], [0.08, 0.12], [0.04, 0.08]]), "do not increase"),
        (np.array([[0.0, 0.04], [0.0, 0.04]]), "do not increase"),
    ],
)
def test_time_stamps_that_cannot_be_true_are_not_trusted(spans: np.ndarray, reason: str) -> None:
    with pytest.raises(DistrustError, match=reason):
        checked_ticks(spans, Fraction(1, 12800))


def test_a_last_frame_without_duration_lasts_as_long_as_the_others() -> None:
    spans = np.array([[0.0, 0.04], [0.04, 0.08], [0.08, 0.08]])
    assert checked_ticks(spans, Fraction(1, 1000)) == ([0, 40, 80], 120)

"""Picture and sound of every kind of file land on one clock: a flash and a beep are found where
they are, and every sample of the grid shows the frame that is on screen then."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pytest

from extractors.media import video as video_module
from extractors.media.audio import open_audio
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import VideoReader, open_video
from extractors.windows import WindowGrid
from fixtures.media import NAMES, Specimen, Zoo, beep_start, is_white, read_number, run_ffmpeg
from pipeline.core.errors import MediaError

FPS = Fraction(16)
FRAME_S = 1 / 16
RATE = 16_000
PICTURES = [name for name in NAMES if not name.startswith(("audio_only", "song"))]
SOUNDS = [name for name in NAMES if name not in ("no_audio.mp4", "one_frame.mp4")]


@functools.cache
def read_picture(
    info: MediaInfo, *, reader: str = "auto", size: tuple[int, int] = (128, 96), fps: Fraction = FPS
) -> tuple[VideoReader, dict[int, np.ndarray]]:
    """All frames of a file by sample, upright, and the reader that gave them."""
    with open_video(info, fps=fps, size=size, reader=reader) as video:
        frames: dict[int, np.ndarray] = {}
        for block in video:
            assert block.frames.shape[1:] == (size[1], size[0], 3)
            assert block.frames.dtype == np.uint8
            assert not frames or block.first == max(frames) + 1
            frames |= {block.first + k: frame for k, frame in enumerate(block.frames)}
    return video, frames


@functools.cache
def read_sound(info: MediaInfo) -> np.ndarray:
    with open_audio(info, sample_rate=RATE) as audio:
        return np.concatenate([np.zeros(0, np.float32), *audio])


def upright(frame: np.ndarray, truth: Specimen) -> np.ndarray:
    """The frame as it was drawn, before it was marked as lying on its side."""
    return np.rot90(frame, -truth.rotation // 90)


def assert_frames_are_right(frames: dict[int, np.ndarray], truth: Specimen, fps: Fraction) -> None:
    shown = {j: read_number(upright(frame, truth)) for j, frame in frames.items()}
    expected = {j: truth.frame_at(float(j / fps)) for j in frames}
    assert shown == expected
    assert truth.picture is not None
    start, end = truth.picture
    assert min(frames) == pytest.approx(start * fps, abs=1)
    assert max(frames) == pytest.approx(end * fps - 1, abs=1.5)


@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
@pytest.mark.parametrize("name", PICTURES)
def test_every_sample_shows_the_frame_that_is_on_screen_then(
    zoo: Zoo, name: str, reader: str
) -> None:
    truth = zoo[name]
    video, frames = read_picture(probe(truth.path), reader=reader)
    assert_frames_are_right(frames, truth, FPS)
    if reader == "auto" and truth.reader is not None:
        assert video.reader == truth.reader, video.fallback_reason
        assert bool(video.fallback_reason) == (truth.reader == "ffmpeg")


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(8), Fraction(30000, 1001)])
@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
@pytest.mark.parametrize("name", ["constant.mp4", "variable.mkv", "video_from_2s.mp4"])
def test_other_grids_show_the_right_frames_too(
    zoo: Zoo, name: str, reader: str, fps: Fraction
) -> None:
    truth = zoo[name]
    _, frames = read_picture(probe(truth.path), reader=reader, fps=fps)
    assert_frames_are_right(frames, truth, fps)


@pytest.mark.parametrize("name", PICTURES)
def test_the_flash_is_seen_within_a_frame_of_its_second(zoo: Zoo, name: str) -> None:
    truth = zoo[name]
    _, frames = read_picture(probe(truth.path))
    lit = [j for j, frame in frames.items() if is_white(upright(frame, truth))]
    assert lit
    assert -1e-6 <= min(lit) / 16 - truth.flash <= FRAME_S


@pytest.mark.parametrize("name", SOUNDS)
def test_the_beep_is_heard_at_its_second(zoo: Zoo, name: str) -> None:
    truth = zoo[name]
    samples = read_sound(probe(truth.path))
    assert beep_start(samples, RATE) == pytest.approx(truth.beep, abs=0.01)
    assert truth.sound is not None
    assert len(samples) / RATE == pytest.approx(truth.sound[1], abs=0.06)


@pytest.mark.parametrize("name", [name for name in PICTURES if name in SOUNDS])
def test_flash_and_beep_share_their_windows(zoo: Zoo, name: str) -> None:
    truth = zoo[name]
    info = probe(truth.path)
    _, frames = read_picture(info)
    grid = WindowGrid()
    lit = min(j for j, frame in frames.items() if is_white(upright(frame, truth)))
    beep = beep_start(read_sound(info), RATE)
    assert truth.flash is not None and truth.beep is not None
    apart = truth.flash - truth.beep  # nothing, but for AVI with reordered frames
    assert abs(grid.frame_second(lit) - beep - apart) <= FRAME_S + 0.01
    step = round(float(grid.to_grid(beep)))
    start, end = grid.span(max(0, step))
    assert start <= grid.frame_second(lit) < end


@pytest.mark.parametrize("name", [name for name in PICTURES if not name.endswith(".ts")])
def test_without_the_list_of_trusted_containers_the_checks_catch_decord(
    zoo: Zoo, name: str, monkeypatch
) -> None:
    monkeypatch.setattr(video_module, "decord_objection", lambda *_: "")
    truth = zoo[name]
    video, frames = read_picture.__wrapped__(probe(truth.path))
    assert_frames_are_right(frames, truth, FPS)
    assert video.reader in ("decord", "ffmpeg")
    assert bool(video.fallback_reason) == (video.reader == "ffmpeg")


@pytest.mark.parametrize("name", [name for name in PICTURES if name.endswith(".ts")])
def test_decord_is_never_believed_to_the_end_of_a_transport_stream(zoo: Zoo, name: str) -> None:
    """It gives wrong frames first and an error later, which is why it is not asked for these."""
    info = probe(zoo[name].path)
    with pytest.raises(MediaError, match="decord cannot read it"):
        read_picture(info, reader="decord")


def test_a_recording_in_two_parts_stays_together(zoo: Zoo) -> None:
    """Time stamps that start again in the middle: both streams go on from there, side by side."""
    whole = zoo["plain.ts"].path.read_bytes()
    path = zoo.folder / "twice.ts"
    path.write_bytes(whole + whole)
    info = probe(path)
    _, frames = read_picture(info)
    samples = read_sound(info)
    second = min(j for j, frame in frames.items() if j > 16 * 5 and is_white(frame)) / 16
    beep = 5 + beep_start(samples[5 * RATE :], RATE)
    assert 7.5 < beep < 8.5
    assert abs(second - beep) <= FRAME_S + 0.03


def test_a_hole_in_the_sound_is_filled(zoo: Zoo) -> None:
    """Packets from 1.0 to 2.0 s are missing; what follows stays where it was."""
    path = zoo.folder / "hole.mkv"
    keep = "aselect='not(between(t,1,2))'"
    run_ffmpeg("-i", zoo["audio_only.wav"].path, "-af", keep, "-c:a", "pcm_s16le", path)
    samples = read_sound(probe(path))
    assert beep_start(samples, RATE) == pytest.approx(3.0, abs=0.012)
    assert len(samples) / RATE == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
def test_times_that_step_back_cost_no_more_than_two_frames(zoo: Zoo, reader: str) -> None:
    """Two in ten neighbours of a Matroska file have each other's time, as a broken recorder's."""
    plain, path = zoo.folder / "no_b_frames.mkv", zoo.folder / "swapped.mkv"
    run_ffmpeg("-i", zoo["h264.mkv"].path, "-c:v", "libx264", "-bf", "0", "-c:a", "copy", plain)
    later, earlier = "eq(mod(N\\,10)\\,4)", "eq(mod(N\\,10)\\,5)"
    swap = f"setts=pts=PTS+40*{later}-40*{earlier}"
    run_ffmpeg("-i", plain, "-c", "copy", "-bsf:v", swap, path)
    info = probe(path)
    video, frames = read_picture(info, reader=reader)
    assert video.gaps == ()
    assert info.duration == pytest.approx(5.0, abs=0.05)
    wrong = {j: read_number(frame) - j * 25 // 16 for j, frame in frames.items() if j < 80}
    assert set(range(80)) <= set(frames)
    assert max(map(abs, wrong.values())) <= 2
    assert np.mean([offset == 0 for offset in wrong.values()]) > 0.75

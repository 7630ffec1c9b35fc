"""What is said of a file before it is decoded."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from extractors.media.lengths import check_density, promised_end
from extractors.media.probe import probe
from fixtures.media import NAMES, Zoo, run_ffmpeg
from fixtures.oddities import ODDITIES
from pipeline.core.errors import MediaError


@pytest.mark.parametrize("name", NAMES)
def test_streams_are_described_on_the_container_clock(zoo: Zoo, name: str) -> None:
    truth = zoo[name]
    info = probe(truth.path)
    assert (info.video is None) == (truth.picture is None)
    assert (info.audio is None) == (truth.sound is None)
    if info.video is not None and truth.picture is not None:
        assert info.video.start == pytest.approx(truth.picture[0], abs=0.002)
        assert (info.video.width, info.video.height) == truth.size
        assert info.video.rotation == truth.rotation
        assert info.video.variable_rate == truth.variable
    if info.audio is not None and truth.sound is not None:
        assert info.audio.start == pytest.approx(truth.sound[0], abs=0.1)  # priming samples
    ends = [span[1] for span in (truth.picture, truth.sound) if span]
    assert info.duration == pytest.approx(max(ends), abs=0.25)


def test_the_rate_is_a_fraction(zoo: Zoo) -> None:
    video = probe(zoo["ntsc.mp4"].path).video
    assert video is not None
    assert video.rate == Fraction(30000, 1001)


def test_the_clock_offset_is_the_time_stamp_that_becomes_zero(zoo: Zoo) -> None:
    info = probe(zoo["late.ts"].path)
    assert info.clock_offset == pytest.approx(1001.4, abs=0.1)
    assert info.video is not None
    assert info.video.start < 0.1


def test_pixel_aspect_counts_for_the_display_size(zoo: Zoo, tmp_path: Path) -> None:
    wide = tmp_path / "wide.mp4"
    run_ffmpeg(
        *("-i", zoo["no_audio.mp4"].path, "-vf", "setsar=3/2", "-c:v", "libx264", wide),
    )
    video = probe(wide).video
    assert video is not None
    assert (video.width, video.height) == (96, 48)


@pytest.mark.parametrize(
    "name", ["rotated.mp4", "edit_list.mp4", "cover.mp4", "video_from_2s.mp4", "constant.mp4"]
)
def test_only_files_without_hidden_or_second_pictures_are_plain(zoo: Zoo, name: str) -> None:
    video = probe(zoo[name].path).video
    assert video is not None
    assert video.plain == (name not in ("edit_list.mp4", "cover.mp4"))


def test_a_file_that_does_not_say_how_long_it_is_gets_measured(zoo: Zoo) -> None:
    info = probe(zoo["live.mkv"].path)
    assert info.duration == pytest.approx(5.0, abs=0.05)


def test_a_length_that_cannot_be_known_is_none(zoo: Zoo, tmp_path: Path) -> None:
    raw = tmp_path / "raw.h264"
    run_ffmpeg("-i", zoo["no_audio.mp4"].path, "-c", "copy", "-f", "h264", raw)
    info = probe(raw)
    assert info.duration is None
    assert info.video is not None
    assert info.video.end is None


def test_a_truncated_file_still_promises_its_whole_length(zoo: Zoo, tmp_path: Path) -> None:
    whole = zoo["h264.mkv"].path.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    assert probe(cut).duration == pytest.approx(5.0, abs=0.05)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(MediaError, match=r"empty\.mp4: is empty \(0 bytes\)"):
        probe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.mp4: does not exist"):
        probe(tmp_path / "gone.mp4")


def test_a_folder_is_no_media_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder"):
        probe(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    with pytest.raises(MediaError, match="is a pipe"):
        probe(path)


def test_text_that_is_called_mp4_is_no_media_file(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("Dear diary,\n" * 200)
    with pytest.raises(MediaError, match="not a media file"):
        probe(path)


def test_subtitles_have_neither_picture_nor_sound(tmp_path: Path) -> None:
    path = tmp_path / "words.mp4"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n\n")
    with pytest.raises(MediaError, match="neither picture nor sound"):
        probe(path)


def test_a_playlist_does_not_reach_for_the_network(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError):
        probe(path)


def test_a_recording_without_index_is_called_broken_off(zoo: Zoo, tmp_path: Path) -> None:
    whole = zoo["constant.mp4"].path.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="has no index"):
        probe(path)


def test_an_unreadable_file_says_so(zoo: Zoo, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(zoo["constant.mp4"].path.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MediaError, match="permission denied"):
        probe(path)


def test_media_modules_load_no_torch_and_no_decord() -> None:
    code = (
        "import sys, extractors.media.probe, extractors.media.video, extractors.media.audio\n"
        "print([name for name in ('torch', 'decord', 'dask') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_clip_whose_timestamps_jump_by_days_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    """One flipped bit of a fragment's time would make a decoder repeat one frame for days."""
    data = bytearray(zoo["fragmented.mp4"].path.read_bytes())
    place = data.rindex(b"tfdt") + 4  # version and flags, then the time in ticks
    width = 8 if data[place] == 1 else 4
    ticks = 2**31 + int.from_bytes(data[place + 4 : place + 4 + width], "big")
    data[place + 4 : place + 4 + width] = ticks.to_bytes(width, "big")
    path = tmp_path / "jump.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match="timestamps are damaged"):
        probe(path)


@pytest.mark.parametrize(
    ("size", "duration", "sparse"),
    [(7200, 3600.0, False), (7200, 3601.0, True), (10, 60.0, False), (10, None, False)],
)
def test_only_hours_in_next_to_no_bytes_are_refused(
    tmp_path: Path, size: int, duration: float | None, sparse: bool
) -> None:
    with pytest.raises(MediaError) if sparse else contextlib.nullcontext():
        check_density(tmp_path / "clip.mp4", size, duration)


def test_a_broken_off_avi_still_promises_what_its_header_says(zoo: Zoo, tmp_path: Path) -> None:
    whole = zoo["mpeg4.avi"].path.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    video = probe(cut).video
    assert video is not None
    assert video.end == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize(
    ("frames", "found", "second"),
    [
        (125, 100, 5.0),
        (9_999, 100, 399.96),
        (10_001, 100, None),
        (0, 100, None),
        (1 << 30, 1 << 29, None),
        (125, None, 5.0),  # PCM
        (12_501, None, None),
    ],
)
def test_an_avi_header_is_believed_within_reason(
    frames: int, found: int | None, second: float | None
) -> None:
    """Recorders that are cut off can leave any number there, and ffmpeg guesses from it."""
    container = SimpleNamespace(format=SimpleNamespace(name="avi"), duration=5_000_000)
    stream = SimpleNamespace(
        duration=found, frames=frames, start_time=0, time_base=Fraction(1, 25), metadata={}
    )
    end = promised_end(container, stream, 0.0)
    assert end == (None if second is None else pytest.approx(second))


@pytest.mark.parametrize(
    ("name", "rate"), [("mute.avif", 25), ("mute.m2v", 25), ("rate1_10.mp4", Fraction(1, 10))]
)
def test_what_libavformat_makes_up_is_not_told(tmp_path: Path, name: str, rate: Fraction) -> None:
    """A poster of one frame in AVIF; the decoder's delay in raw MPEG-2."""
    video = probe(ODDITIES[name](tmp_path).path).video
    assert video is not None
    assert (video.start, video.rate, video.variable_rate) == (0.0, rate, False)


def test_a_camera_tape_has_frames_and_no_ticks(tmp_path: Path) -> None:
    path = tmp_path / "tape.dv"
    picture = ("-f", "lavfi", "-i", "testsrc2=s=720x576:r=25:d=1", "-pix_fmt", "yuv420p")
    run_ffmpeg(*picture, "-c:v", "dvvideo", path)
    video = probe(path).video
    assert video is not None
    assert (video.rate, video.variable_rate) == (25, False)


@pytest.mark.parametrize("name", ["default sound in mkv", "default sound in mp4"])
def test_the_sound_that_players_choose_is_taken(tmp_path: Path, name: str) -> None:
    audio = probe(ODDITIES[name](tmp_path).path).audio
    assert audio is not None
    assert audio.index == 2


def test_a_picture_that_is_announced_and_never_sent_is_none(zoo: Zoo, tmp_path: Path) -> None:
    """A broadcast of sound alone, in a list of programmes that all have a picture."""
    data = zoo["plain.ts"].path.read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    path = tmp_path / "sound.ts"
    path.write_bytes(b"".join(p for p in packets if p[1] & 0x1F != 1 or p[2] != 0))
    info = probe(path)
    assert info.video is None
    assert info.audio is not None
    assert info.duration == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("damage", ["deleted", "blanked"])
def test_fragments_behind_a_broken_one_are_promised_all_the_same(
    zoo: Zoo, tmp_path: Path, damage: str
) -> None:
    """libavformat ends at the first place that is no box, and says nothing of the rest.

    A blanked box is none, though its length of 0 would mean "up to the end of the file".
    """
    source = tmp_path / "fragments.mp4"
    run_ffmpeg(
        *("-i", zoo["constant.mp4"].path, "-c:v", "libx264", "-g", "25", "-c:a", "copy"),
        *("-movflags", "frag_keyframe+empty_moov", source),
    )
    whole = source.read_bytes()
    assert probe(source).duration == pytest.approx(5.08, abs=0.05)
    third = [place for place in range(len(whole)) if whole.startswith(b"moof", place)][2]
    broken = tmp_path / "broken.mp4"
    if damage == "deleted":
        broken.write_bytes(whole[: third - 200] + whole[third - 100 :])
    else:
        broken.write_bytes(whole[: third - 4] + bytes(100) + whole[third + 96 :])
    # By its share of the bytes; two fragments, of a second each, can be reached.
    assert probe(broken).duration == pytest.approx(5.0, rel=0.35)


@pytest.mark.parametrize(
    ("name", "tail"), [("constant.mp4", b""), ("constant.mp4", bytes(999)), ("h264.mkv", b"")]
)
def test_only_broken_fragments_lengthen_a_promise(
    zoo: Zoo, tmp_path: Path, name: str, tail: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(zoo[name].path.read_bytes() + tail)
    assert probe(path).duration == probe(zoo[name].path).duration

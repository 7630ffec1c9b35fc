"""What follows a long hole stays where it was; damaged timestamps do not move the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from extractors.interruption import interrupted_by
from extractors.media import jumps
from extractors.media.audio import open_audio
from extractors.media.gaps import GapFinder
from extractors.media.info import MediaInfo
from extractors.media.jumps import Clock, Step, judge, read_clock
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.stream import extract_features
from fixtures.backbones import toy
from fixtures.media import Plan, Specimen, Zoo, beep_start, read_number, run_ffmpeg

SECONDS, BEEP, RATE = 40.0, 34.0, 16_000
OFTEN = ("-g", "4", "-pix_fmt", "yuv420p")
CODECS = {
    "ts": ("-c:v", "libx264", "-bf", "0", *OFTEN, "-c:a", "aac"),
    "mpg": ("-r", "24", "-c:v", "mpeg2video", "-q:v", "3", *OFTEN, "-c:a", "mp2"),
    "ogv": ("-c:v", "libtheora", *OFTEN, "-c:a", "libvorbis", "-page_duration", "200000"),
}


@pytest.fixture(scope="module")
def long_one(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Specimen]:
    """Forty seconds of numbered frames, four a second, and a beep, by kind of file."""
    folder, span = tmp_path_factory.mktemp("long"), (0.0, SECONDS)
    source = Plan("long.mkv", picture=span, sound=span, event=BEEP, fps=Fraction(4)).make(folder)

    def make(kind: str) -> Specimen:
        path = folder / f"long.{kind}"
        if not path.exists():
            run_ffmpeg("-i", source.path, *CODECS[kind], path)
        return replace(source, path=path)

    return make


def with_hole(source: Path, path: Path, how: str) -> Path:
    """A copy that lacks 40 % in the middle."""
    data = source.read_bytes()
    low, high = (int(len(data) * share) // 188 * 188 for share in (0.3, 0.7))
    path.write_bytes(data[:low] + (bytes(high - low) if how == "zero" else b"") + data[high:])
    return path


def read(info: MediaInfo) -> tuple[dict[int, np.ndarray], np.ndarray]:
    with open_video(info, fps=Fraction(16), size=(128, 96)) as video:
        frames = {block.first + k: frame for block in video for k, frame in enumerate(block.frames)}
    with open_audio(info, sample_rate=RATE) as audio:
        return frames, np.concatenate(list(audio))


@pytest.mark.parametrize(
    ("kind", "how"),
    [("ts", "del"), ("ts", "zero"), ("mpg", "del"), ("mpg", "zero"), ("ogv", "del")],
)
def test_what_follows_a_long_hole_stays_where_it_was(
    long_one: Callable[[str], Specimen], tmp_path: Path, kind: str, how: str
) -> None:
    truth = long_one(kind)
    info = probe(with_hole(truth.path, tmp_path / f"hole.{kind}", how))
    step = read_clock(info).step
    assert step is not None and 11 < step < 30
    frames, samples = read(info)
    assert max(frames) / 16 == pytest.approx(SECONDS, abs=0.3)
    assert beep_start(samples, RATE) == pytest.approx(BEEP, abs=0.06)
    late = {j: read_number(frame) for j, frame in frames.items() if 31 * 16 < j < 39 * 16}
    right = [number == truth.frame_at(j / 16 - 0.03) for j, number in late.items()]
    assert np.mean(right) > 0.7  # around a change of frames, the priming of sound decides
    found = extract_features(info.path, toy())
    assert found.summary.status == "partial"
    assert found.summary.duration == pytest.approx(SECONDS, abs=0.3)
    assert found["audio_mask"][-20:].all() and found["vision_mask"][-20:].all()
    assert np.mean(found["audio_mask"]) < 0.75 and np.mean(found["vision_mask"]) < 0.75
    assert any("lost from" in note for note in found.summary.notes)


def test_a_long_pause_of_the_sound_in_a_broadcast_keeps_it_where_it_was(
    long_one: Callable[[str], Specimen], tmp_path: Path
) -> None:
    truth, path = long_one("ts"), tmp_path / "paused.ts"
    keep = "aselect='not(between(t,10,30))'"
    run_ffmpeg("-i", truth.path, "-c:v", "copy", "-af", keep, "-fps_mode", "vfr", path)
    frames, samples = read(probe(path))
    assert beep_start(samples, RATE) == pytest.approx(BEEP, abs=0.06)
    right = [read_number(frames[j]) == truth.frame_at(j / 16 - 0.03) for j in range(4, 39 * 16, 8)]
    assert np.mean(right) > 0.9
    assert extract_features(path, toy()).summary.status == "done"


def test_a_gap_that_leads_out_of_the_file_is_damage() -> None:
    finder = GapFinder(start=0.0, usual=0.04, promised=5.0)
    for second in (0.0, 5.9, 9.0):
        finder.take(f"[info] {second}")
    assert [gap.damaged for gap in finder.gaps] == [False, True]


def stamps(data: bytes, kind: int) -> list[int]:
    """Places of the timestamps in the tags of one kind of an FLV file."""
    place, found = 13, []
    while place < len(data):
        if data[place] == kind:
            found.append(place + 4)
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    return found


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize(("kind", "modality"), [(8, "audio"), (9, "vision")])
def test_what_is_filled_in_up_to_a_wild_timestamp_is_left_out(
    zoo: Zoo, tmp_path: Path, kind: int, modality: str, share: float
) -> None:
    """ffmpeg repeats the last frame or puts silence, and passes over what follows as too early."""
    path = tmp_path / "leap.flv"
    codecs = ("-c:v", "libx264", "-bf", "0", "-c:a", "aac")
    run_ffmpeg("-i", zoo["constant.mp4"].path, *codecs, path)
    data = bytearray(path.read_bytes())
    places = stamps(data, kind)
    place = places[round(share * (len(places) - 2))]  # the last tag of pictures ends the sequence
    data[place : place + 3] = (300_000).to_bytes(3, "big")  # milliseconds
    path.write_bytes(data)
    frames, sound = read(probe(path))
    length = len(sound) / RATE if modality == "audio" else len(frames) / 16
    assert length == pytest.approx(share * 5, abs=0.15)
    summary = extract_features(path, toy()).summary
    assert summary.duration == pytest.approx(5.0, abs=0.1)
    assert summary.status == ("done" if share == 1 else "partial")
    assert summary.coverage[modality] == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", ["plain.ts", "late.ts", "mpeg2.mpg", "theora.ogv"])
def test_whole_files_are_read_as_ever(zoo: Zoo, name: str) -> None:
    assert read_clock(probe(zoo[name].path)) == Clock()


def test_files_with_a_table_of_times_are_not_read_for_it(zoo: Zoo, monkeypatch) -> None:
    monkeypatch.setattr("extractors.media.jumps.WatchedProcess", None)
    assert read_clock(probe(zoo["constant.mp4"].path)) == Clock()


def test_an_interrupt_ends_the_look_at_the_timestamps_and_nothing_is_concluded(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "copy.ts"
    path.write_bytes(zoo["plain.ts"].path.read_bytes())
    info, asked = probe(path), threading.Event()
    with monkeypatch.context() as patch, interrupted_by(asked):
        patch.setattr(jumps, "steps_command", lambda info: ["sleep", "60"])
        threading.Timer(0.3, asked.set).start()
        with pytest.raises(KeyboardInterrupt):
            open_video(info, fps=Fraction(16), size=(64, 48))
    looked = []
    monkeypatch.setattr(jumps, "judge", lambda steps, zero: looked.append(steps) or Clock(12.0))
    assert read_clock(info) == Clock(12.0) and looked == [[]]


def step(packet: int, before: float, after: float, *, stream: int = 0) -> Step:
    return Step(stream, packet, before, after)


def test_the_longest_hole_decides() -> None:
    steps = [step(9, 20.0, 45.0), step(90, 60.0, 75.0), step(7, 20.0, 46.0, stream=1)]
    assert judge(steps, zero=0.0) == Clock(27.0)


def test_timestamps_that_are_taken_back_are_damaged_and_no_hole() -> None:
    assert judge([step(9, 20.0, 9000.0), step(10, 9000.0, 20.1)], zero=0.0) == Clock()
    assert judge([step(9, 20.0, 3.0), step(12, 3.2, 20.2)], zero=0.0) == Clock()


def test_a_clock_that_begins_again_is_no_hole() -> None:
    assert judge([step(900, 1200.0, 0.0)], zero=0.0) == Clock()
    assert judge([step(900, 1200.0, 0.0), step(1800, 20.0, 40.0)], zero=0.0) == Clock(21.0)


def test_damaged_timestamps_beyond_a_hole_do_not_hide_it() -> None:
    steps = [step(9, 20.0, 9000.0), step(10, 9000.0, 20.1), step(99, 30.0, 50.0)]
    assert judge(steps, zero=0.0) == Clock(21.0)


def test_damage_shorter_than_a_hole_makes_the_times_uncertain() -> None:
    steps = [step(9, 20.0, 33.0), step(10, 33.0, 20.1), step(99, 30.0, 50.0)]
    found = judge(steps, zero=10.0)
    assert found.step is None
    assert "jumps by 20 s at 20.0 s" in found.doubt and "not certain" in found.doubt


def test_a_jump_of_hours_joins_recordings_and_is_told() -> None:
    found = judge([step(9, 20.0, 20.0 + 7200), step(99, 7230.0, 7250.0)], zero=0.0)
    assert found.step == pytest.approx(21.0)
    assert "jumps by 7200 s at 20.0 s" in found.doubt


def test_a_doubt_makes_the_result_partial_and_is_told(zoo: Zoo, tmp_path: Path) -> None:
    source, second, path = zoo["plain.ts"].path, tmp_path / "later.ts", tmp_path / "both.ts"
    run_ffmpeg("-i", source, "-c", "copy", "-output_ts_offset", "8000", second)
    path.write_bytes(source.read_bytes() + second.read_bytes())
    summary = extract_features(path, toy()).summary
    assert summary.status == "partial"
    assert summary.duration == pytest.approx(10.0, abs=0.2)
    assert any("later times are not certain" in note for note in summary.notes)

"""Holes lower the coverage and are masked; stillness, pauses and low rates are no holes."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from extractors.coverage import Heard, check_span, hole_note, holes, lost_seconds, step_mask
from extractors.features import Features
from extractors.media.audio import open_audio
from extractors.media.gaps import Gap, GapFinder
from extractors.media.info import AudioStream, VideoStream
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.stream import extract_features
from extractors.windows import WindowGrid
from fixtures.backbones import toy
from fixtures.media import NAMES, Plan, Zoo, run_ffmpeg

SECONDS = 20
MOVING = ("-f", "lavfi", "-i", f"testsrc2=s=160x120:r=25:d={SECONDS}")
HUMMING = ("-f", "lavfi", "-i", f"sine=440:d={SECONDS}")
FAST = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25")


def damaged(data: bytes, how: str) -> bytes:
    """40 % of the bytes, from the middle, blanked or gone."""
    low, high = int(len(data) * 0.3), int(len(data) * 0.7)
    return data[:low] + (bytes(high - low) if how == "zero" else b"") + data[high:]


def frozen_or_silent(found: Features) -> int:
    """Steps that claim to hold something and show no motion or no sound."""
    vision, audio = found["vision"], found["audio"]
    seen, heard = found["vision_mask"], found["audio_mask"]
    moved = np.abs(np.diff(vision, axis=0)).max(axis=1) > 1e-6
    return int((~moved & seen[1:] & seen[:-1]).sum() + ((audio[:, 0] < 1e-4) & heard).sum())


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files in which every step differs from the one before and none is silent, by name."""
    folder = tmp_path_factory.mktemp("moving")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            sound = () if name.startswith("mute") else (*HUMMING, "-c:a", "aac")
            run_ffmpeg(*MOVING, *sound, *FAST, path)
        return path

    return make


@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
@pytest.mark.parametrize(
    ("name", "how"), [("a.mp4", "zero"), ("a.mkv", "zero"), ("a.mkv", "del"), ("mute.mkv", "del")]
)
def test_a_file_with_a_hole_is_partial_and_the_hole_is_masked(
    moving: Callable[[str], Path], tmp_path: Path, name: str, how: str, reader: str
) -> None:
    path = tmp_path / name
    path.write_bytes(damaged(moving(name).read_bytes(), how))
    found = extract_features(path, toy(), reader=reader)
    summary = found.summary
    assert summary.status == "partial"
    assert summary.steps == found.grid.steps(summary.duration)
    assert summary.duration == pytest.approx(SECONDS, abs=0.1)
    for modality, share in summary.coverage.items():
        assert 0.5 < share < 0.72
        assert np.mean(found[f"{modality}_mask"]) == pytest.approx(share, abs=0.06)
        assert not found[modality][~found[f"{modality}_mask"]].any()
    assert any("picture is lost from" in note for note in summary.notes)
    assert any("audio is lost from" in note for note in summary.notes) == (
        "audio" in summary.readers
    )
    if "audio" in summary.readers:
        assert frozen_or_silent(found) <= 3  # half a window may hold repetitions


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "mute.mkv"])
def test_the_same_files_are_whole_without_the_damage(
    moving: Callable[[str], Path], name: str
) -> None:
    found = extract_features(moving(name), toy())
    assert found.summary.status == "done"
    assert min(found.summary.coverage.values()) > 0.999
    assert not [note for note in found.summary.notes if "lost" in note]


@pytest.mark.parametrize("name", NAMES)
def test_every_honest_file_is_whole(zoo: Zoo, name: str) -> None:
    """Late and early streams, edit lists, variable and low rates, whatever the container."""
    summary = extract_features(zoo[name].path, toy()).summary
    assert summary.status == "done", summary.notes
    assert not [note for note in summary.notes if "lost" in note or "ends at" in note]


def test_masks_do_not_depend_on_who_is_read_first(
    moving: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of frames and the frames themselves come through two pipes and two threads."""
    path = tmp_path / "a.mp4"
    path.write_bytes(damaged(moving("a.mp4").read_bytes(), "zero"))
    at_once = extract_features(path, toy(), reader="ffmpeg")
    take = GapFinder.take

    def late(self: GapFinder, line: str) -> str:
        time.sleep(0.003)
        return take(self, line)

    monkeypatch.setattr(GapFinder, "take", late)
    slowly = extract_features(path, toy(), reader="ffmpeg")
    assert slowly.summary == at_once.summary
    for name in at_once.arrays:
        assert np.array_equal(slowly[name], at_once[name])


def screen(source: Path, path: Path) -> Path:
    """A screen recording: 13 s at a steady rate, so long that it looks constant, then still."""
    still = "select='not(between(t,13,18))'"
    run_ffmpeg("-i", source, "-vf", still, "-fps_mode", "vfr", *FAST, "-c:a", "copy", path)
    return path


@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
@pytest.mark.parametrize(
    ("source", "name"), [("a.mkv", "s.mkv"), ("a.mp4", "s.mp4"), ("mute.mp4", "mute.mp4")]
)
def test_a_still_stretch_of_a_screen_recording_is_whole(
    moving: Callable[[str], Path], tmp_path: Path, source: str, name: str, reader: str
) -> None:
    path = screen(moving(source), tmp_path / name)
    found = extract_features(path, toy(), reader=reader)
    assert found.summary.status == "done", found.summary.notes
    assert found["vision_mask"].all()
    assert found.summary.coverage["vision"] > 0.99


@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
def test_slides_that_stand_for_long_are_whole(tmp_path: Path, reader: str) -> None:
    plan = Plan(
        "slides.mp4", picture=(0.0, 20.0), sound=(0.0, 20.0), event=12.0, fps=Fraction(1, 4)
    )
    found = extract_features(plan.make(tmp_path).path, toy(), reader=reader)
    assert found.summary.status == "done", found.summary.notes
    assert found["vision_mask"].all()


def without(source: Path, path: Path, *, picture: bool, sound: bool) -> Path:
    """A copy in which some streams lack the frames from second 6 to 14, without any damage."""
    keep = "'not(between(t,6,14))'"
    filters = ("-vf", f"select={keep}") if picture else ()
    filters += ("-af", f"aselect={keep}") if sound else ()
    run_ffmpeg("-i", source, *filters, "-fps_mode", "vfr", *FAST, "-c:a", "aac", path)
    return path


def test_sound_that_pauses_while_the_picture_goes_on_is_silence(
    moving: Callable[[str], Path], tmp_path: Path
) -> None:
    path = without(moving("a.mkv"), tmp_path / "muted.mkv", picture=False, sound=True)
    found = extract_features(path, toy())
    assert found.summary.status == "done", found.summary.notes
    assert found["audio_mask"].all()


@pytest.mark.parametrize("reader", ["auto", "ffmpeg"])
def test_what_picture_and_sound_lack_together_is_lost_though_nobody_complains(
    moving: Callable[[str], Path], tmp_path: Path, reader: str
) -> None:
    path = without(moving("a.mkv"), tmp_path / "dropped.mkv", picture=True, sound=True)
    found = extract_features(path, toy(), reader=reader)
    assert found.summary.status == "partial"
    assert found.summary.notes == (
        "picture is lost from 6.0 to 14.0 s",
        "audio is lost from 6.0 to 14.0 s",
    )
    assert found.summary.coverage["vision"] == pytest.approx(0.6, abs=0.01)
    # Steps whose windows hold half a second or more of what is there.
    assert np.flatnonzero(~found["vision_mask"]).tolist() == list(range(23, 55))


def test_decord_tells_of_frames_that_are_missing(
    moving: Callable[[str], Path], tmp_path: Path
) -> None:
    info = probe(screen(moving("a.mkv"), tmp_path / "screen.mkv"))
    for reader in ("decord", "ffmpeg"):
        with open_video(info, fps=Fraction(16), size=(64, 48), reader=reader) as video:
            assert sum(len(block.frames) for block in video) == pytest.approx(20 * 16, abs=1)
        (gap,) = video.gaps
        assert (gap.start, gap.end) == pytest.approx((13.0, 18.0), abs=0.05)
        assert not gap.damaged


def test_a_reader_of_whole_sound_knows_no_gaps(zoo: Zoo) -> None:
    for name in ("constant.mp4", "audio_from_2s.mkv", "vp9_opus.webm", "plain.ts", "theora.ogv"):
        with open_audio(probe(zoo[name].path)) as reader:
            list(reader)
        assert reader.gaps == ()


def tell(finder: GapFinder, *lines: object, form: str = "[Eval @ 0x7f] [info] {:f}") -> None:
    for line in lines:
        finder.take(form.format(line) if isinstance(line, float) else str(line))


@pytest.mark.parametrize("form", ["[Eval @ 0x7f] [info] {:f}", "[info] {:f}"])
def test_seconds_are_read_as_every_version_prints_them(form: str) -> None:
    """The longer form is that of ffmpeg 8.0 on, the shorter one that of 5.1 to 7.1."""
    finder = GapFinder(start=0.0, usual=0.04)
    tell(finder, 0.0, 0.04, "[info] frame=  125 fps=0.0 q=-0.0 time=00:00:05.03", 2.0, form=form)
    assert finder.gaps == (Gap(pytest.approx(0.08), 2.0, damaged=False),)


def test_a_gap_next_to_a_complaint_is_damage() -> None:
    finder = GapFinder(start=0.0, usual=0.04)
    tell(finder, 0.0, 0.04, "[h264 @ 0x1] [error] no frame!", 0.5)
    assert finder.gaps == (Gap(pytest.approx(0.08), 0.5, damaged=True),)


def test_the_same_gap_long_after_a_complaint_is_none() -> None:
    finder = GapFinder(start=0.0, usual=0.04)
    tell(finder, "[h264 @ 0x1] [error] no frame!", *(n * 0.04 for n in range(100)), 4.4)
    assert finder.gaps == ()


def test_a_long_gap_without_complaint_is_told_as_such() -> None:
    finder = GapFinder(start=0.0, usual=0.04)
    tell(finder, 0.0, "[out#0] [info] nothing of interest", 2.0)
    assert finder.gaps == (Gap(0.04, 2.0, damaged=False),)


def test_a_gap_whose_frames_come_too_late_is_damage() -> None:
    finder = GapFinder(start=0.0, usual=0.04)
    tell(finder, 0.0, 2.0)
    assert finder.gaps == (Gap(0.04, 2.0, damaged=False),)
    tell(finder, 0.04, 0.08, 2.04)
    assert finder.gaps == (Gap(0.04, 2.0, damaged=True),)


def test_a_gap_in_a_file_without_order_is_damage_from_the_outset() -> None:
    finder = GapFinder(start=0.0, usual=0.04, disorder=True)
    tell(finder, 0.0, 0.5, 2.0)
    assert finder.gaps == (Gap(0.54, 2.0, damaged=True),)


def changing(folder: Path, *, size: str, channels: int, rate: int) -> Path:
    """A broadcast whose picture is of another size, or its sound of another form, from 4 s on."""
    whole = folder / "changing.ts"
    parts = []
    for number, form in enumerate([("96x72", 1, 44_100), (size, channels, rate)]):
        part = folder / f"part{number}.ts"
        picture = ("-f", "lavfi", "-i", f"testsrc2=s=192x144:r=25:d=4,scale=s={form[0]}")
        sound = ("-f", "lavfi", "-i", f"sine={440 + 440 * number}:d=4")
        codec = "aac" if rate == 44_100 else "mp2"  # of AAC, libavformat keeps to the first rate
        voice = ("-c:a", codec, "-ac", str(form[1]), "-ar", str(form[2]))
        run_ffmpeg(*picture, *sound, *FAST, *voice, "-output_ts_offset", str(4 * number), part)
        parts.append(part.read_bytes())
    whole.write_bytes(b"".join(parts))
    return whole


@pytest.mark.parametrize(
    ("size", "channels", "rate"),
    [("128x96", 1, 44_100), ("96x72", 2, 44_100), ("96x72", 1, 48_000)],
)
def test_a_stream_that_changes_its_form_stays_on_the_clock(
    tmp_path: Path, size: str, channels: int, rate: int
) -> None:
    """ffmpeg builds its filters anew then, and these begin at second 0 again."""
    info = probe(changing(tmp_path, size=size, channels=channels, rate=rate))
    with open_audio(info) as reader:
        sound = np.concatenate(list(reader))
    assert len(sound) / 16_000 == pytest.approx(8.0, abs=0.1)
    assert np.abs(sound[: 7 * 16_000]).reshape(-1, 1600).max(axis=1).min() > 0.01  # no silence
    for second, hertz in ((3.0, 440), (5.0, 880)):  # crossings of zero, upwards
        piece = sound[int(second * 16_000) :][:8_000]
        crossings = int(((piece[:-1] < 0) & (piece[1:] >= 0)).sum())
        assert crossings == pytest.approx(hertz / 2, abs=2)
    with open_video(info, fps=Fraction(16), size=(96, 72)) as video:
        frames = np.concatenate([block.frames for block in video])
    assert len(frames) / 16 == pytest.approx(8.0, abs=0.1)
    # testsrc2 begins anew at second 4: the two halves show the same.
    distance = np.abs(frames[64:120].astype(float) - frames[:56]).mean(axis=(1, 2, 3))
    assert np.median(distance) < 10


def test_frames_of_sound_tell_their_own_length() -> None:
    finder = GapFinder(start=1.0, usual=None)
    tell(finder, 1.0, 0.5, 1.5, 0.5, 4.0, 0.5)
    assert finder.gaps == ()  # less than five of its frames
    tell(finder, 8.0, 0.5)
    assert finder.gaps == (Gap(4.5, 8.0, damaged=False),)


def test_frames_without_a_time_are_passed_over() -> None:
    finder = GapFinder(start=0.0, usual=0.04)
    tell(finder, 0.0, float("nan"), float("nan"), 0.12)
    assert finder.gaps == ()


def test_complaints_are_kept_for_the_user_and_nothing_else() -> None:
    finder = GapFinder(start=0.0, usual=0.04)
    assert finder.take("[in#0 @ 0x1] [error] Error opening input") == (
        "[in#0 @ 0x1] Error opening input"
    )
    assert finder.take("[Eval @ 0x7f] [info] 0.040000") == ""
    assert finder.take("[info] Stream mapping:") == ""


def heard(*gaps: Gap, start: float = 0.0, end: float = 60.0, steady: bool = True) -> Heard:
    return Heard(start, end, True, gaps, steady)


CALM = Gap(10.0, 20.0, damaged=False)


@pytest.mark.parametrize(
    ("stream", "other", "lost"),
    [
        (heard(Gap(1.0, 2.0, damaged=True)), heard(), ((1.0, 2.0),)),
        (heard(CALM), heard(), ()),
        (heard(CALM), heard(Gap(12.0, 30.0, damaged=False)), ((12.0, 20.0),)),
        (heard(CALM), heard(Gap(12.0, 30.0, damaged=True)), ((12.0, 20.0),)),
        (heard(CALM), heard(Gap(30.0, 40.0, damaged=True)), ()),
        (heard(CALM), None, ((10.0, 20.0),)),
        (heard(CALM, steady=False), None, ()),
        (heard(CALM), heard(end=9.0), ((10.0, 20.0),)),
        (heard(CALM, steady=False), heard(start=25.0), ()),
        (heard(Gap(1.0, 3.0, damaged=True), Gap(2.0, 4.0, damaged=True)), None, ((1.0, 4.0),)),
    ],
)
def test_a_gap_is_a_hole_by_damage_or_by_two_witnesses(
    stream: Heard, other: Heard | None, lost: tuple[tuple[float, float], ...]
) -> None:
    assert holes(stream, other) == lost


def test_lost_seconds_are_those_inside() -> None:
    first, last = np.array([0.0, 1.0, 5.0]), np.array([1.0, 4.0, 6.0])
    assert lost_seconds(first, last, [(0.5, 2.0), (3.5, 5.5)]).tolist() == [0.5, 1.5, 0.5]


def test_a_step_needs_half_a_window_of_what_is_there() -> None:
    grid = WindowGrid()
    stream = heard(start=0.25, end=10.0)
    mask = step_mask(grid, 0, 37, stream, [(0.5, 0.9)], 10.0)
    # 0.25 to 1 s is there but for 0.4 s of it; the second step has 0.6 s, and so on.
    assert mask.tolist() == [False] + [True] * 36
    later = step_mask(grid, 20, 10, stream, [(5.0, 6.0)], 10.0)
    assert later.tolist() == [k not in (19, 20, 21) for k in range(20, 30)]


def video(duration: float | None) -> VideoStream:
    return VideoStream(0, 2.0, duration, Fraction(25), False, "h264", 64, 48)


def test_coverage_counts_holes_and_the_early_end() -> None:
    check = check_span(video(10.0), 10.0, 16.0, ((4.0, 5.0), (11.0, 14.0)))
    assert check.coverage == pytest.approx(0.7)  # 1 s in the middle, 2 s at the end
    assert (check.complete, check.short) == (False, True)


def test_a_hole_in_a_stream_that_promises_nothing_counts_against_its_end() -> None:
    check = check_span(video(None), 12.0, 16.0, ((4.0, 5.0),))
    assert check.coverage == pytest.approx(0.9)
    assert (check.complete, check.short) == (False, False)


@pytest.mark.parametrize(("missing", "complete"), [(0.11, True), (0.13, False)])
def test_a_few_packets_of_sound_are_not_missed(missing: float, complete: bool) -> None:
    stream = AudioStream(1, 0.0, 4.0, 44_100, 1, "mp3")
    assert check_span(stream, 4.0 - missing, 16.0, ()).complete == complete


def test_a_frame_of_the_grid_is_not_missed_and_two_are() -> None:
    assert check_span(video(2.0), 3.94, 16.0, ()).complete
    assert not check_span(video(2.0), 3.9, 16.0, ()).complete


def test_notes_name_a_hole_or_how_many_there_are() -> None:
    assert hole_note("picture", ()) == ""
    assert hole_note("audio", [(1.0, 2.5)]) == "audio is lost from 1.0 to 2.5 s"
    assert hole_note("audio", [(1.0, 2.0), (5.0, 7.0)]) == (
        "audio is lost for 3.0 s in 2 places, first at 1.0 s"
    )

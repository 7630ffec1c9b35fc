"""Every writer's files, read back with parsers that know nothing of the writer."""

import csv
import html
import io
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UsageError
from pipeline.core.events import AGREEMENT, Curves, Detections, Event, sort_events
from pipeline.formats import FORMATS, write, write_folder
from pipeline.formats.write import output_names

AWKWARD = 'a, "b"\n--> <i>&amp; é犬\tz'
EVENTS = (
    Event(0.0, 5.25, "dog barking", 0.91),
    Event(1.5, 3.0, "dog barking", 0.4),
    Event(2.0, 2.0, AWKWARD, 0.3333333),
    Event(3599.9996, 36000.5, "playing cello", 0.5),
)


def detections(
    events: Sequence[Event] = EVENTS, video: str = "clips/köter, 1.mp4", notes: Sequence[str] = ()
) -> Detections:
    return Detections(video, 36001.0, sort_events(events), "test", tuple(notes))


def text_of(format: str, *entries: Detections) -> str:
    stream = io.StringIO()
    write(entries, format, stream)
    return stream.getvalue()


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def read_cues(text: str) -> list[tuple[float, float, str]]:
    """Cues of SubRip or WebVTT as players read them: blank lines part, the first arrow counts."""
    cues = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.split("\n")
        timed = [number for number, line in enumerate(lines) if " --> " in line]
        if timed:
            start, end = lines[timed[0]].split(" --> ")
            cues.append((seconds(start), seconds(end), "\n".join(lines[timed[0] + 1 :])))
    return cues


def test_json_returns_every_event_with_its_notes() -> None:
    value = json.loads(text_of("json", detections(notes=["no sound"]), detections((), "b.mp4")))
    assert [video["video"] for video in value["videos"]] == ["clips/köter, 1.mp4", "b.mp4"]
    first, second = value["videos"]
    assert first["notes"] == ["no sound"]
    read = [Event(e["start"], e["end"], e["label"], e["score"]) for e in first["events"]]
    assert [e.label for e in read] == [e.label for e in sort_events(EVENTS)]
    assert read[0] == EVENTS[0]
    assert second["events"] == []


def test_csv_quotes_commas_and_newlines_and_keeps_a_fixed_number_of_decimals() -> None:
    text = text_of("csv", detections())
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["label"] for row in rows] == [event.label for event in sort_events(EVENTS)]
    assert rows[0] == {
        "video": "clips/köter, 1.mp4",
        "label": "dog barking",
        "start": "0.000",
        "end": "5.250",
        "score": "0.9100",
    }
    assert all(re.fullmatch(r"\d+\.\d{3}", row[key]) for row in rows for key in ("start", "end"))


def test_curves_are_written_with_their_seconds_a_column_each() -> None:
    values = np.float32([[0.25, 0.5], [1.0, 0.00012]])
    labels = ("dog, barking", AGREEMENT)
    found = replace(detections(), curves=Curves(np.array([0.5, 0.75]), labels, values))
    rows = list(csv.reader(io.StringIO(text_of("curves", found), newline="")))
    assert rows[0] == ["seconds", "dog, barking", AGREEMENT]
    assert rows[1:] == [["0.500", "0.2500", "0.5000"], ["0.750", "1.0000", "0.0001"]]
    assert text_of("curves", detections()) == "seconds\n", "a detector that keeps none"


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_subtitles_read_back_with_overlaps_hours_and_awkward_labels(format: str) -> None:
    cues = read_cues(text_of(format, detections()))
    assert [cue[0] for cue in cues] == [0.0, 1.5, 2.0, 3600.0]
    assert cues[3][:2] == (3600.0, 36000.5)
    assert all(end > start for start, end, _ in cues), "players drop cues without length"
    label = html.unescape(cues[2][2]) if format == "vtt" else cues[2][2]
    expected = " ".join(AWKWARD.split())
    assert label == (expected if format == "vtt" else expected.replace("-->", "->"))


def test_srt_numbers_its_cues_and_vtt_starts_with_its_signature() -> None:
    assert re.findall(r"(?m)^(\d+)\n\d\d:", text_of("srt", detections())) == ["1", "2", "3", "4"]
    assert text_of("vtt", detections()).startswith("WEBVTT\n\n")


@given(
    start=st.floats(0, 400_000),
    length=st.floats(0, 4000),
    label=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_no_label_or_time_breaks_a_subtitle_file(start: float, length: float, label: str) -> None:
    entry = Detections("v", start + length, (Event(start, start + length, label, 1.0),), "test")
    for format in ("srt", "vtt"):
        ((read_start, read_end, text),) = read_cues(text_of(format, entry))
        assert abs(read_start - start) <= 0.000501
        assert abs(read_end - max(start + length, start + 0.001)) <= 0.001001
        assert text.strip() and "-->" not in text


def test_audacity_labels_read_back_as_three_columns() -> None:
    rows = [line.split("\t") for line in text_of("audacity", detections()).splitlines()]
    assert rows[0] == ["0.000000", "5.250000", "dog barking"]
    assert all(len(row) == 3 for row in rows) and len(rows) == len(EVENTS)


def test_activitynet_results_hold_every_video_even_without_events() -> None:
    value = json.loads(text_of("activitynet", detections(), detections((), "b.mp4")))
    assert value["results"]["b.mp4"] == []
    first = value["results"]["clips/köter, 1.mp4"][0]
    assert first == {"label": "dog barking", "score": 0.91, "segment": [0.0, 5.25]}


def test_elan_tiers_hold_no_overlapping_annotations_and_every_reference_exists() -> None:
    root = ET.fromstring(text_of("elan", detections()))
    slots = {s.get("TIME_SLOT_ID"): int(s.get("TIME_VALUE", "")) for s in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    read = []
    for tier in root.iter("TIER"):
        spans = [
            (slots[a.get("TIME_SLOT_REF1")], slots[a.get("TIME_SLOT_REF2")])
            for a in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        assert all(end > start for start, end in spans)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        read += [(tier.get("TIER_ID"), *span) for span in spans]
    assert ("dog barking", 0, 5250) in read and ("dog barking (2)", 1500, 3000) in read
    assert len(read) == len(EVENTS)


def test_elan_survives_characters_that_xml_forbids() -> None:
    root = ET.fromstring(text_of("elan", detections([Event(0, 1, "a\x00b\x1bc]]>&<", 1.0)])))
    (tier,) = root.iter("TIER")
    assert tier.get("TIER_ID") == "a�b�c]]>&<"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_takes_a_video_without_events(format: str) -> None:
    text = text_of(format, detections(()))
    if format in ("json", "activitynet"):
        json.loads(text)
    elif format == "elan":
        assert not list(ET.fromstring(text).iter("TIER"))
    elif format in ("srt", "audacity"):
        assert text == ""


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_writes_a_file_of_valid_utf8_whatever_the_name(
    format: str, tmp_path: Path
) -> None:
    entry = detections(video="bad\udcff name.mp4")  # a byte that is no UTF-8
    target = tmp_path / f"out{FORMATS[format].suffix}"
    write([entry], format, target)
    target.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [target]


def test_json_keeps_the_odd_byte_of_a_file_name() -> None:
    value = json.loads(text_of("json", detections((), "bad\udcff.mp4")))
    assert value["videos"][0]["video"] == "bad\udcff.mp4"


def test_folder_gets_one_file_per_video_and_format_and_loses_none(tmp_path: Path) -> None:
    videos = ["a/dog.mp4", "b/dog.mp4", "b/dog.mkv", "c/Dog.mp4"]
    paths = write_folder([detections(video=v) for v in videos], ["srt", "json"], tmp_path / "new")
    assert len(set(paths)) == 8 and all(path.is_file() for path in paths)
    for video, path in zip(videos, paths[4:], strict=True):
        assert json.loads(path.read_text())["videos"][0]["video"] == video


def test_a_subtitle_file_that_came_with_the_film_survives(tmp_path: Path) -> None:
    (tmp_path / "dog.srt").write_text("from the studio")
    (path,) = write_folder([detections(video="dog.mp4")], ["srt"], tmp_path)
    assert path.name == "dog.events.srt"
    assert (tmp_path / "dog.srt").read_text() == "from the studio"


def test_file_names_are_plain_where_they_can_be_and_never_clash() -> None:
    assert output_names(["x/dog.mp4", "cat.mov"]) == ["dog", "cat"]
    names = output_names(["a/dog.mp4", "b/dog.mp4", "c/DOG.mp4", "dog.mp4"])
    assert names[0] == "dog" and len({name.casefold() for name in names}) == 4
    assert output_names([""]) == ["video"]


@pytest.mark.parametrize("format", [name for name, row in FORMATS.items() if not row.many])
def test_several_videos_in_one_subtitle_file_are_refused(format: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one video, not 2"):
        write([detections(), detections()], format, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_unknown_format_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'json'"):
        write([], "jsno", io.StringIO())


def test_a_folder_as_file_and_a_file_as_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write([detections()], "json", tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        write_folder([detections()], ["json"], tmp_path / "file")

"""Files of events back to events, and from one format to another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.core.errors import ConfigError, NothingMatchedError, UsageError
from pipeline.core.events import Detections, Event, sort_events
from pipeline.formats import READERS, read, write, write_folder

EVENTS = sort_events(
    [
        Event(0.5, 2.25, "dog barking", 0.875),
        Event(1.0, 3.0, "dog barking", 0.25),
        Event(2.0, 2.0, "man speaking, loudly", 0.5),
    ]
)
ONE = Detections("clips/dog.mp4", 4.5, EVENTS, "agreement (lite)", ("no fuss",))
TWO = Detections("b.mp4", 1.0, (), "agreement (lite)")
SUFFIX = {"json": ".json", "csv": ".csv", "elan": ".eaf", "activitynet": ".json"}


def saved(folder: Path, format: str, *entries: Detections) -> Path:
    path = folder / f"dog.events{SUFFIX.get(format, '.txt')}"
    write(entries, format, path)
    return path


def test_json_keeps_everything(tmp_path: Path) -> None:
    assert read(saved(tmp_path, "json", ONE, TWO)) == [ONE, TWO]


@pytest.mark.parametrize("format", [name for name in READERS if name != "json"])
def test_the_other_formats_keep_their_events(tmp_path: Path, format: str) -> None:
    (entry,) = read(saved(tmp_path, format, ONE))
    kept = [(e.start, e.end, e.label) for e in entry.events]
    # ELAN's annotations last a millisecond at least.
    shortest = 0.001 if format == "elan" else 0.0
    assert kept == [(e.start, max(e.end, e.start + shortest), e.label) for e in EVENTS]
    scores = [e.score for e in entry.events]
    if format == "audacity":
        assert scores == [1.0, 1.0, 1.0] and entry.video == "dog"
    else:
        assert scores == pytest.approx([e.score for e in EVENTS], abs=0.006)
        assert entry.video == "clips/dog.mp4"
    assert entry.duration == 3.0


def test_a_video_without_events_is_not_lost_where_the_format_can_say_it(tmp_path: Path) -> None:
    assert [entry.video for entry in read(saved(tmp_path, "activitynet", ONE, TWO))] == [
        "clips/dog.mp4",
        "b.mp4",
    ]


label = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).map(
    lambda text: " ".join(text.split()) or "x"
)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**7), st.integers(1, 10**6), label, st.integers(0, 100)),
        max_size=6,
    )
)
@pytest.mark.parametrize("format", ["json", "csv", "elan", "activitynet"])
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, format: str, rows: list[tuple[int, int, str, int]]
) -> None:
    """Milliseconds and hundredths survive every format, and no label breaks one."""
    events = sort_events(
        Event(a / 1000, (a + b) / 1000, name, score / 100) for a, b, name, score in rows
    )
    path = saved(tmp_path_factory.mktemp("f"), format, Detections("v.mp4", 1e4, events, "d"))
    found = [event for entry in read(path) for event in entry.events]
    assert [(e.label, e.score) for e in sorted(found)] == [
        (e.label, e.score) for e in sorted(events)
    ]
    assert [t for e in sorted(found) for t in (e.start, e.end)] == pytest.approx(
        [t for e in sorted(events) for t in (e.start, e.end)], abs=1e-6
    )


def test_annotations_of_people_are_read_as_they_mean_them(tmp_path: Path) -> None:
    path = tmp_path / "talk.eaf"
    path.write_text(
        '<ANNOTATION_DOCUMENT><HEADER/><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/>'
        '<TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="1500"/></TIME_ORDER><TIER TIER_ID="anna">'
        '<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="1" TIME_SLOT_REF1="a"'
        ' TIME_SLOT_REF2="b"><ANNOTATION_VALUE>laughs</ANNOTATION_VALUE>'
        "</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"
    )
    (entry,) = read(path)
    assert entry.video == "talk" and entry.events == (Event(0.0, 1.5, "laughs", 1.0),)


def test_an_annotation_file_of_the_field_is_read(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    rows = [{"segment": [1, 2], "label": "dog", "label_id": 3}]
    path.write_text(json.dumps({"database": {"v": {"duration": 9.5, "annotations": rows}}}))
    assert read(path)[0] == Detections(
        "v", 9.5, (Event(1.0, 2.0, "dog", 1.0),), read(path)[0].detector
    )


def test_columns_may_stand_in_any_order_and_scores_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("end,start,label\n2,1,dog\n")
    assert read(path)[0].events == (Event(1.0, 2.0, "dog", 1.0),) and read(path)[0].video == "mine"


def test_spectral_selections_of_audacity_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1.0\t2.0\tbird\n\\\t1000.0\t2000.0\n")
    assert read(path)[0].events == (Event(1.0, 2.0, "bird", 1.0),)


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><ANNOTATION_DOCUMENT/>'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", "[]", "is no json file"),
        ("a.json", '{"format": "x"}', "its format is 'x'"),
        ("a.json", '{"format": "davel-events", "version": 9}', "its version is 9"),
        ("a.json", '{"results": {"v": [{"label": "x"}]}}', "'segment' is missing"),
        ("a.json", '{"results": {"v": [{"label": "x", "segment": [2, 1]}]}}', "before its start"),
        ("a.csv", "a,b\n", "no column end, label, start"),
        ("a.csv", "label,start,end\nx,one,2\n", "line 2"),
        ("a.csv", "label,start,end\nx,nan,2\n", "not finite"),
        ("a.txt", "one two\n", "line 1 is no label"),
        ("a.eaf", "<a", "is no XML"),
        ("a.eaf", "<a/>", "its root is a"),
        ("a.eaf", LAUGHS, "declares entities"),
    ],
)
def test_other_files_are_refused_by_name(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("1\t2\tdog\n")
    with pytest.raises(UsageError, match="add --from"):
        read(tmp_path / "a.xyz")
    assert read(tmp_path / "a.xyz", "audacity")[0].events[0].label == "dog"
    with pytest.raises(UsageError, match="'srt' cannot be read"):
        read(tmp_path / "a.xyz", "srt")
    with pytest.raises(NothingMatchedError):
        read(tmp_path / "gone.csv")


def test_the_command_converts_one_file_a_folder_and_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path, "json", ONE, TWO)
    assert main(["convert", str(source), "--to", "csv,elan", "--out", str(tmp_path / "o")]) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "b.events.csv",
        "b.events.eaf",
        "dog.events.csv",
        "dog.events.eaf",
    ]
    results = tmp_path / "all.activitynet.json"
    assert main(["convert", str(source), "--to", "activitynet", "--out", str(results)]) == 0
    assert len(read(results)) == 2
    capsys.readouterr()
    words = ["convert", str(results), "--to", "csv", "--out", "-", "--min-score", "0.6"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "clips/dog.mp4,dog barking,0.500,2.250,0.8750"
    ]


def test_a_file_takes_one_format_and_one_video_where_the_format_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path, "json", ONE, TWO)
    assert main(["convert", str(source), "--to", "csv,srt", "--out", str(tmp_path / "a.srt")]) == 2
    assert "takes one format" in capsys.readouterr().err
    assert main(["convert", str(source), "--to", "srt", "--out", str(tmp_path / "a.srt")]) == 2
    assert "one video" in capsys.readouterr().err
    assert not (tmp_path / "a.srt").exists()


def test_curves_are_not_made_from_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path, "json", ONE)
    assert main(["convert", str(source), "--to", "curves", "--out", str(tmp_path / "o")]) == 2
    assert "hold no curves" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_a_folder_of_files_goes_there_and_back(tmp_path: Path) -> None:
    write_folder([ONE], ["elan"], tmp_path)
    (entry,) = read(tmp_path / "dog.events.eaf")
    assert len(entry.events) == 3

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.core.errors import NothingMatchedError, UsageError
from workflows.inputs import find_media


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with videos, sounds and other things; the current folder."""
    names = "a.mp4 B.MOV sub/a.mp4 sub/deep/c.webm sub/notes.txt sub/.hidden.mp4 .git/d.mp4 s.wav"
    for name in names.split():
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(*inputs: str | Path) -> list[str]:
    return [item.id for item in find_media(list(inputs))]


def test_a_folder_is_searched_recursively_for_videos(tree: Path) -> None:
    items = find_media(["videos"])
    assert [item.id for item in items] == ["B.MOV", "a.mp4", "sub/a.mp4", "sub/deep/c.webm"]
    assert all(item.path == Path("videos") / item.id for item in items)
    assert ids(tree / "videos") == ids("videos") == ids("videos/") == ids("./videos/sub/..")


def test_a_file_is_named_by_its_name_whatever_its_suffix(tree: Path) -> None:
    assert ids("videos/sub/notes.txt", tree / "videos" / "s.wav") == ["notes.txt", "s.wav"]


def test_files_of_one_name_get_their_paths(tree: Path) -> None:
    assert ids("videos/a.mp4", "videos/B.MOV", "videos/sub/a.mp4") == [
        "videos/a.mp4",
        "B.MOV",
        "videos/sub/a.mp4",
    ]
    absolute = ids(tree / "videos/a.mp4", tree / "videos/sub/a.mp4")
    assert all(not id.startswith("/") and id.endswith("a.mp4") for id in absolute)


def test_a_glob_is_relative_to_its_fixed_part(tree: Path) -> None:
    assert ids("videos/**/*.mp4") == ["a.mp4", "sub/a.mp4"]
    assert ids("videos/sub/*") == ["a.mp4"]  # no notes.txt
    assert ids("videos/*") == ["B.MOV", "a.mp4", "s.wav"]
    assert ids("videos/sub/*.txt") == ["notes.txt"]
    assert ids(str(tree / "videos" / "?.mp4")) == ["a.mp4"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tree: Path) -> None:
    (tree / "take[1]*.mp4").write_bytes(b"x")
    assert ids("take[1]*.mp4") == ["take[1]*.mp4"]


def test_a_file_given_twice_is_there_once(tree: Path) -> None:
    assert ids("videos/a.mp4", "./videos/a.mp4") == ["a.mp4"]
    assert ids("videos", "videos/sub/a.mp4") == ids("videos")
    assert ids("videos", "videos") == ids("videos")


def test_a_loop_of_links_ends(tree: Path) -> None:
    (tree / "videos" / "sub" / "loop").symlink_to(tree / "videos", target_is_directory=True)
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere" / "e.mkv").write_bytes(b"x")
    (tree / "videos" / "link").symlink_to(tree / "elsewhere", target_is_directory=True)
    assert ids("videos") == ["B.MOV", "a.mp4", "link/e.mkv", "sub/a.mp4", "sub/deep/c.webm"]


def test_two_folders_with_one_id_are_refused_with_both_paths(tree: Path) -> None:
    (tree / "other").mkdir()
    (tree / "other" / "a.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"'a.mp4'.*videos/a.mp4.*other/a.mp4.*folder above both"):
        find_media(["videos", "other"])
    assert ids("videos", "videos/sub") == ids("videos")


def test_a_list_has_a_path_per_line(tree: Path) -> None:
    (tree / "lists").mkdir()
    (tree / "videos" / "list.txt").write_text(
        f"﻿# comment\n\na.mp4\n  sub/a.mp4  \nvideos/B.MOV\n{tree}/videos/s.wav\n./gone.mp4\n",
        "utf-8",
    )
    items = find_media(["@videos/list.txt"])
    assert [item.id for item in items] == [
        "a.mp4",
        "sub/a.mp4",
        "videos/B.MOV",  # found from the current folder
        f"{tree}/videos/s.wav".lstrip("/"),
        "gone.mp4",
    ]
    assert [item.path.exists() for item in items] == [True] * 4 + [False]


def test_manifests_have_paths_and_may_have_ids(tree: Path) -> None:
    csv = tree / "m.csv"
    csv.write_text('path,label,id\nvideos/a.mp4,dog,first\n"videos/sub/a.mp4",cat,\n')
    assert ids(csv) == ["first", "videos/sub/a.mp4"]
    csv.write_text("path,id\nvideos/a.mp4,one\nvideos/a.mp4,two\nvideos/a.mp4,two\n")
    assert ids(csv) == ["one", "two"]
    jsonl = tree / "m.jsonl"
    rows = [{"path": "videos/a.mp4", "id": "ü/1"}, {"path": "videos/B.MOV"}]
    jsonl.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert ids(jsonl) == ["ü/1", "videos/B.MOV"]
    assert find_media([jsonl])[0].path == tree / "videos/a.mp4"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "file,id\na.mp4,1\n", "no column 'path'"),
        ("m.csv", "", "no column 'path'"),
        ("m.csv", "path,id\n,1\n", "line 2: no path"),
        ("m.csv", "path,id\nvideos/a.mp4,x\nvideos/B.MOV,x\n", "two files have the id 'x'"),
        ("m.csv", "path,id\nvideos/a.mp4,../x\n", "leads out of a folder"),
        ("m.jsonl", '{"path": "a.mp4"}\n{"path"\n', "line 2: no JSON"),
        ("m.jsonl", "[1]\n", "line 1: no object"),
        ("m.jsonl", '{"id": "x"}\n', "line 1: no path"),
        ("m.jsonl", '{"path": "videos/a.mp4", "id": [1]}\n', "is no text"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(
    tree: Path, name: str, text: str, message: str
) -> None:
    (tree / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        find_media([name])


def test_a_list_that_is_not_there_or_no_text_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"list gone.txt does not exist"):
        find_media(["@gone.txt"])
    (tree / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match=r"binary.csv cannot be read"):
        find_media(["binary.csv"])


def test_a_missing_file_among_others_is_kept_for_the_report(tree: Path) -> None:
    assert ids("videos/a.mp4", "gone.mp4") == ["a.mp4", "gone.mp4"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["gone.mp4"], r"gone.mp4 does not exist"),
        (["1.mp4", "2.mp4", "3.mp4", "4.mp4"], r"1.mp4, 2.mp4, 3.mp4 and 1 more do not exist"),
        (["empty"], r"no video file in empty"),
        (["videos/*.avi"], r"no video file in videos/\*.avi"),
        (["sounds"], r"no video file in sounds, but 2 sound files .*\*\.wav"),
    ],
)
def test_inputs_that_name_nothing_say_so(tree: Path, inputs: list[str], message: str) -> None:
    (tree / "empty").mkdir()
    (tree / "sounds").mkdir()
    for name in ("a.wav", "b.flac"):
        (tree / "sounds" / name).write_bytes(b"x")
    with pytest.raises(NothingMatchedError, match=message):
        find_media(inputs)


def test_names_that_are_no_utf8_get_an_id_that_is(tree: Path) -> None:
    try:
        Path(os.fsdecode(b"videos/\xff.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    assert "\\xff.mp4" in ids("videos")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_no_silence(tree: Path) -> None:
    (tree / "videos" / "sub").chmod(0)
    with pytest.raises(UsageError, match="sub cannot be read"):
        find_media(["videos"])
    (tree / "videos" / "sub").chmod(0o755)


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["a-b/1.mp4", "a/1.mp4", "a/b/2.mp4", "a.mp4", "a/b.mp4", "B.mp4", "a b/ü.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_media([tmp_path])
    assert [item.path for item in found] == sorted(tmp_path / name for name in names)


def test_a_line_of_a_list_ends_where_a_line_ends(tmp_path: Path) -> None:
    """Other characters that Python takes for ends of lines may stand in names."""
    for name in ("a\u2028b.mp4", "c\x0cd.mp4"):
        (tmp_path / name).touch()
    rows = tmp_path / "list.jsonl"
    rows.write_text('{"path": "a\u2028b.mp4"}\r\n\n{"path": "c\\fd.mp4"}\n', encoding="utf-8")
    assert [item.id for item in find_media([rows])] == ["a\u2028b.mp4", "c\x0cd.mp4"]
    lines = tmp_path / "list.txt"
    lines.write_text("a\u2028b.mp4\r\nc\x0cd.mp4\n", encoding="utf-8")
    assert [item.id for item in find_media([f"@{lines}"])] == ["a\u2028b.mp4", "c\x0cd.mp4"]


def test_a_file_in_a_folder_and_by_itself_is_there_once(tree: Path) -> None:
    assert ids("videos", "videos/a.mp4") == ids("videos")
    assert ids("videos/a.mp4", "videos").count("a.mp4") == 1

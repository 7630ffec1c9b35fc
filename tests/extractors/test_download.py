"""Downloads from a server that misbehaves: resumed, checked, and whole or not there at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from extractors.spec import WeightsFile
from extractors.weights.check import read_record
from fixtures.downloads import (
    BEGUN,
    HALF,
    HASHED,
    OTHER,
    SIZE,
    UNHASHED,
    WHOLE,
    Fetch,
    publish,
)
from fixtures.weights_server import (
    CONTENT,
    GIT_BLOB,
    NAME,
    SHA256,
    Server,
    answer,
    behave,
    break_off,
    claim,
    ignore_range,
    part,
    redirect,
)
from pipeline.core.errors import EnvironmentFault

# --- the good way ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        HASHED,
        replace(HASHED, bytes=0, sha256="", git_blob=GIT_BLOB),
        replace(HASHED, sha256=SHA256[:8]),
        UNHASHED,
    ],
    ids=["sha256", "git-blob", "beginning-of-a-hash", "no-hash"],
)
def test_a_file_comes_whole_and_with_a_record(
    weights: WeightsFile, server: Server, fetch: Fetch
) -> None:
    path = fetch(weights)
    assert path.read_bytes() == CONTENT
    assert fetch.names() == WHOLE
    record = read_record(path)
    assert record is not None
    assert (record.sha256, record.bytes) == (SHA256, SIZE)
    assert record.published is (weights != UNHASHED)
    assert len(server.asked) == 1


def test_what_is_there_is_not_fetched_again(server: Server, fetch: Fetch) -> None:
    assert fetch() == fetch()
    assert len(server.asked) == 1


def test_it_is_said_what_is_fetched_from_where(server: Server, fetch: Fetch) -> None:
    fetch()
    for word in (NAME, f"{SIZE:,} bytes", SHA256, "Apache-2.0", server.url):
        assert word in fetch.said[0]


def test_a_damaged_file_is_replaced(server: Server, fetch: Fetch) -> None:
    path = fetch()
    path.write_bytes(CONTENT[:-1])
    assert fetch().read_bytes() == CONTENT
    assert len(server.asked) == 2


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [HASHED, UNHASHED], ids=["hash", "no-hash"])
def test_a_broken_download_goes_on_where_it_stopped(
    weights: WeightsFile, server: Server, fetch: Fetch
) -> None:
    server.plan = [break_off(HALF), break_off(HALF + 1000)]
    assert fetch(weights).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert [headers.get("If-Range") for _, headers in server.asked] == [None, '"first"', '"first"']
    assert server.sent == SIZE
    assert fetch.names() == WHOLE


def test_progress_keeps_patience_up(server: Server, fetch: Fetch) -> None:
    """Each attempt brings something: a line that breaks thirty times is slow, not dead."""
    server.plan = [break_off(cut) for cut in range(10_000, SIZE, 10_000)]
    fetch(tries=2)
    assert len(server.asked) > 30
    assert set(fetch.slept) == {1.0}


def test_a_later_call_goes_on(server: Server, fetch: Fetch) -> None:
    server.plan = [break_off(HALF)]
    with pytest.raises(EnvironmentFault, match=r"ended .* bytes before the end.*is kept") as caught:
        fetch(tries=1)
    assert caught.value.exit_code == 3
    assert fetch.names() == BEGUN
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-"]


def test_bytes_that_were_not_made_safe_are_fetched_again(server: Server, fetch: Fetch) -> None:
    """After a power cut a file can be longer than what was written to it."""
    server.plan = [break_off(HALF)]
    with pytest.raises(EnvironmentFault):
        fetch(UNHASHED, tries=1)
    with (fetch.folder / f"{NAME}.part").open("ab") as handle:
        handle.write(bytes(5000))
    assert fetch(UNHASHED).read_bytes() == CONTENT
    assert server.ranges[1] == f"bytes={HALF}-"


def test_an_unreadable_note_starts_anew(server: Server, fetch: Fetch) -> None:
    server.plan = [break_off(HALF)]
    with pytest.raises(EnvironmentFault):
        fetch(tries=1)
    (fetch.folder / f"{NAME}.part.json").write_text("{")
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == ["", ""]


def test_a_server_without_ranges_sends_all_again(server: Server, fetch: Fetch) -> None:
    server.plan = [break_off(HALF), ignore_range]
    assert fetch().read_bytes() == CONTENT
    assert server.sent == HALF + SIZE


def test_a_server_that_always_breaks_at_the_same_byte_is_given_up(
    server: Server, fetch: Fetch
) -> None:
    def cut_without_ranges(handler: Any) -> None:
        handler.head(200, Content_Length=SIZE)
        handler.body(CONTENT[:HALF])

    server.plan = [cut_without_ranges] * 50
    with pytest.raises(EnvironmentFault, match="4 times in a row"):
        fetch()
    assert len(server.asked) == 4
    assert NAME not in fetch.names()


def test_less_than_was_asked_for_is_taken_and_the_rest_asked_for(
    server: Server, fetch: Fetch
) -> None:
    server.plan = [break_off(HALF), part(HALF, HALF + 999, SIZE)]
    assert fetch(UNHASHED).read_bytes() == CONTENT
    assert server.ranges[2] == f"bytes={HALF + 1000}-"


@pytest.mark.parametrize(
    "wrong",
    [
        part(HALF + 1, SIZE - 1, SIZE),
        part(0, SIZE - 1, SIZE),
        part(HALF, SIZE + 10, SIZE),
        answer(206, CONTENT[HALF:]),
    ],
    ids=["gap", "start", "beyond", "unnamed"],
)
def test_another_part_than_asked_for_is_refused(wrong: Any, server: Server, fetch: Fetch) -> None:
    server.plan = [break_off(HALF), wrong]
    with pytest.raises(EnvironmentFault, match=r"it (sends|does not say)"):
        fetch(UNHASHED)
    assert fetch.names() == BEGUN
    assert fetch(UNHASHED).read_bytes() == CONTENT
    assert server.ranges[2] == f"bytes={HALF}-"


def test_a_part_that_nobody_asked_for_is_refused(server: Server, fetch: Fetch) -> None:
    server.plan = [part(0, HALF, SIZE)]
    with pytest.raises(EnvironmentFault, match="206, which was not asked for"):
        fetch()


# --- the file changes between two attempts --------------------------------------------------------


def change(server: Server, *, etag: str) -> Any:
    """Break off, and serve another content from then on."""

    def run(handler: Any) -> None:
        behave(handler, cut=HALF)
        server.content, server.etag = OTHER, etag

    return run


def test_a_changed_file_is_fetched_from_its_start(server: Server, fetch: Fetch) -> None:
    server.plan = [change(server, etag='"second"')]
    assert fetch(UNHASHED).read_bytes() == OTHER


def test_a_changed_file_is_noticed_where_the_condition_is_not_heeded(
    server: Server, fetch: Fetch
) -> None:
    server.plan = [change(server, etag='"second"'), part(HALF, SIZE - 1, SIZE)]
    assert fetch(UNHASHED).read_bytes() == OTHER
    assert server.ranges == ["", f"bytes={HALF}-", ""]


def test_without_a_name_for_the_content_nothing_unchecked_is_gone_on_with(
    server: Server, fetch: Fetch
) -> None:
    server.etag = ""
    server.plan = [change(server, etag="")]
    assert fetch(UNHASHED).read_bytes() == OTHER
    assert server.ranges == ["", ""]


def test_a_weak_name_is_no_proof(server: Server, fetch: Fetch) -> None:
    server.etag = 'W/"same"'
    server.plan = [change(server, etag='W/"same"')]
    assert fetch(UNHASHED).read_bytes() == OTHER


def test_two_halves_of_different_files_are_found_by_the_hash(server: Server, fetch: Fetch) -> None:
    server.content, server.etag = OTHER, ""

    def cut_and_mend(handler: Any) -> None:
        behave(handler, cut=HALF)
        server.content = CONTENT

    server.plan = [cut_and_mend]
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-", ""]


def test_a_file_that_became_shorter_is_fetched_from_its_start(server: Server, fetch: Fetch) -> None:
    server.plan = [change(server, etag='"first"')]
    server_content = CONTENT[: HALF - 100]

    def shorten(handler: Any) -> None:
        server.content = server_content
        behave(handler)

    server.plan.append(shorten)
    small = replace(UNHASHED, about_bytes=0)
    assert fetch(small).read_bytes() == server_content


# --- lies -----------------------------------------------------------------------------------------


def test_a_length_that_is_too_long_does_not_stop_a_file_with_a_hash(
    server: Server, fetch: Fetch
) -> None:
    server.plan = [claim(SIZE + 100)]
    assert fetch(replace(HASHED, bytes=0)).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={SIZE}-"]


@pytest.mark.parametrize(
    "plan",
    [[claim(SIZE + 100)] * 50, [claim(SIZE + 100), behave] * 25],
    ids=["again", "no-such-part"],
)
def test_a_length_that_is_too_long_is_not_believed_without_a_hash(
    plan: list[Any], server: Server, fetch: Fetch
) -> None:
    server.plan = list(plan)
    with pytest.raises(EnvironmentFault, match="4 times in a row"):
        fetch(UNHASHED)
    assert NAME not in fetch.names()


@pytest.mark.parametrize("weights", [HASHED, UNHASHED], ids=["hash", "no-hash"])
def test_a_length_that_is_too_short_is_refused(
    weights: WeightsFile, server: Server, fetch: Fetch
) -> None:
    server.plan = [claim(HALF)] * 2
    with pytest.raises(EnvironmentFault, match=f"its file has {HALF:,} bytes"):
        fetch(weights)
    assert fetch.names() == set()
    with pytest.raises(EnvironmentFault, match="what it serves has SHA-256"):
        fetch(replace(HASHED, bytes=0))
    assert fetch.names() == set()


def test_an_unknown_length_needs_a_hash(server: Server, fetch: Fetch) -> None:
    def without_length(handler: Any) -> None:
        handler.head(200, Connection="close")
        handler.body(CONTENT)

    server.plan = [without_length, without_length]
    with pytest.raises(EnvironmentFault, match="does not say how long"):
        fetch(UNHASHED)
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("cut", [None, HALF], ids=["whole", "broken-off"])
def test_a_file_in_chunks_is_taken(cut: int | None, server: Server, fetch: Fetch) -> None:
    def in_chunks(handler: Any) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        for first in range(0, cut or SIZE, 1 << 16):
            block = CONTENT[first : first + (1 << 16)]
            handler.body(b"%x\r\n%b\r\n" % (len(block), block))
        if cut is None:
            handler.body(b"0\r\n\r\n")

    server.plan = [in_chunks]
    assert fetch(replace(HASHED, bytes=0)).read_bytes() == CONTENT
    assert len(server.asked) == (1 if cut is None else 2)


def test_wrong_bytes_are_refused_and_nothing_is_left(server: Server, fetch: Fetch) -> None:
    server.content = OTHER
    with pytest.raises(EnvironmentFault, match="what it serves has SHA-256") as caught:
        fetch()
    assert server.url in str(caught.value)
    assert fetch.names() == set()
    assert len(server.asked) == 1


def test_a_web_page_is_no_weights_file(server: Server, fetch: Fetch) -> None:
    server.plan = [answer(200, b"<html>log in</html>", Content_Type="text/html; charset=utf-8")]
    with pytest.raises(EnvironmentFault, match="a web page instead"):
        fetch(UNHASHED)
    assert fetch.names() == set()


def test_an_empty_file_is_refused(server: Server, fetch: Fetch) -> None:
    server.plan = [answer(200)]
    with pytest.raises(EnvironmentFault, match="its file is empty"):
        fetch(UNHASHED)


# --- answers that are no file ---------------------------------------------------------------------


def test_a_busy_server_is_asked_again_when_it_says(server: Server, fetch: Fetch) -> None:
    server.plan = [answer(503, Retry_After=7), answer(502), answer(429, Retry_After=10_000)]
    assert fetch().read_bytes() == CONTENT
    assert fetch.slept == [7.0, 2.0, 120.0]


def test_a_missing_file_is_not_asked_for_again(server: Server, fetch: Fetch) -> None:
    server.plan = [answer(404)]
    with pytest.raises(EnvironmentFault, match="answers 404"):
        fetch()
    assert len(server.asked) == 1
    assert fetch.slept == []
    assert fetch().read_bytes() == CONTENT  # the next run finds it


def test_a_server_that_is_not_there_is_given_up(
    server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, f"http://127.0.0.1:9/{NAME}")
    with pytest.raises(EnvironmentFault, match=r"no connection.*4 times in a row"):
        fetch()
    assert fetch.slept == [1.0, 2.0, 3.0]


# --- redirects ------------------------------------------------------------------------------------


def test_a_redirect_is_followed_with_its_range(server: Server, fetch: Fetch) -> None:
    server.plan = [break_off(HALF), redirect(f"{server.url}/elsewhere/{NAME}")]
    assert fetch(UNHASHED).read_bytes() == CONTENT
    assert [path for path, _ in server.asked][2] == f"/elsewhere/{NAME}"
    assert server.ranges[1:] == [f"bytes={HALF}-"] * 2


def test_redirects_in_a_circle_end(server: Server, fetch: Fetch) -> None:
    server.plan = [redirect(f"{server.url}/{NAME}")] * 100
    with pytest.raises(EnvironmentFault, match="redirect cannot be followed"):
        fetch()
    assert len(server.asked) < 15


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/net.pth",
        "data:,x",
        "http://192.0.2.1/net.pth",
        "http://127.0.0.1.example.org/net.pth",
    ],
)
def test_no_redirect_leads_to_another_scheme_or_an_open_line(
    target: str, server: Server, fetch: Fetch
) -> None:
    server.plan = [redirect(target)]
    with pytest.raises(EnvironmentFault, match=r"redirect cannot be followed|no https address"):
        fetch()
    assert len(server.asked) == 1
    assert fetch.slept == []
    assert fetch.names() == set()


def test_an_open_address_is_not_asked(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"http://192.0.2.1/{NAME}")
    with pytest.raises(EnvironmentFault, match=r"http://192\.0\.2\.1/net\.pth is no https"):
        fetch()

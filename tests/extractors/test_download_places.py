"""Downloads from several addresses and out of archives, onto bad disks, by several processes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from extractors.spec import WeightsFile
from extractors.weights.check import read_record, verify_weights
from extractors.weights.download import download_weights
from fixtures.downloads import (
    BEGUN,
    HALF,
    HASHED,
    OTHER,
    SIZE,
    UNHASHED,
    WHOLE,
    Fetch,
    Listener,
    publish,
)
from fixtures.weights_server import (
    CONTENT,
    NAME,
    SHA256,
    Server,
    answer,
    behave,
    break_off,
    serving,
)
from pipeline.core.atomic import TEMP_SUFFIX
from pipeline.core.errors import EnvironmentFault
from pipeline.core.locks import LockFile
from pipeline.core.partial import Appender, PartialFile

# --- several addresses ----------------------------------------------------------------------------


def test_a_mirror_comes_first(server: Server, fetch: Fetch) -> None:
    fetch(mirrors=(f"{server.url}/copies/",))
    assert [path for path, _ in server.asked] == [f"/copies/{NAME}"]


def test_behind_a_mirror_that_lies_comes_the_publisher(server: Server, fetch: Fetch) -> None:
    with serving(Server(content=OTHER)) as mirror:
        assert fetch(mirrors=(mirror.url,)).read_bytes() == CONTENT
        assert len(mirror.asked) == 1
    assert any("what it serves has SHA-256" in line for line in fetch.said) is False
    assert len(server.asked) == 1


def test_the_rest_may_come_from_elsewhere_where_a_hash_decides(
    server: Server, fetch: Fetch
) -> None:
    with serving(Server(etag='"another"', plan=[break_off(HALF), *[answer(404)] * 2])) as mirror:
        assert fetch(mirrors=(mirror.url,)).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-"]
    assert server.asked[0][1].get("If-Range") is None


@pytest.mark.parametrize(
    "weights", [UNHASHED, replace(HASHED, sha256=SHA256[:8])], ids=["no-hash", "few-digits"]
)
def test_a_file_without_a_full_hash_comes_from_its_publisher_only(
    weights: WeightsFile, server: Server, fetch: Fetch
) -> None:
    with serving(Server()) as mirror:
        fetch(weights, mirrors=(mirror.url,))
        assert mirror.asked == []
    assert any("no mirror is asked" in line for line in fetch.said)


@pytest.mark.parametrize(
    ("weights", "published"),
    [(UNHASHED, False), (replace(HASHED, sha256=SHA256[:8]), True)],
    ids=["no-hash", "few-digits"],
)
def test_with_the_hash_that_the_user_gives_a_file_comes_from_a_mirror(
    weights: WeightsFile, published: bool, server: Server, fetch: Fetch
) -> None:
    with serving(Server(content=OTHER)) as liar, serving(Server()) as mirror:
        path = fetch(weights, mirrors=(liar.url, mirror.url), sha256=SHA256)
        assert len(liar.asked) == len(mirror.asked) == 1
    assert path.read_bytes() == CONTENT
    assert server.asked == []
    record = read_record(path)
    assert record is not None
    assert (record.given, record.published, record.address) == (
        *(True, published),
        f"{mirror.url}/{NAME}",
    )
    path.write_bytes(OTHER)
    with pytest.raises(EnvironmentFault, match=r"has SHA-256"):
        verify_weights(path, weights)


def test_without_any_address_it_is_said_how_to_get_the_file_by_hand(fetch: Fetch) -> None:
    shared = replace(HASHED, source="https://example.org/s/share?link=1")
    with pytest.raises(EnvironmentFault, match=r"no address of the file itself.*call it net\.pth"):
        fetch(shared)


# --- a file without a published hash --------------------------------------------------------------


def test_the_hash_of_what_came_is_said_and_holds_from_then_on(server: Server, fetch: Fetch) -> None:
    path = fetch(UNHASHED)
    assert any(f"Nobody published a hash of it. Its SHA-256 is {SHA256}" in s for s in fetch.said)
    verify_weights(path, UNHASHED)
    os.utime(path)
    verify_weights(path, UNHASHED)
    path.write_bytes(OTHER)
    with pytest.raises(EnvironmentFault, match=f"where {SHA256} came from {server.url}"):
        verify_weights(path, UNHASHED)


# --- the disk -------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_asked(
    server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, SIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EnvironmentFault, match=f"needs {SIZE:,} bytes more") as caught:
        fetch()
    assert "PIPELINE_CACHE" in str(caught.value)
    assert server.asked == []


def test_a_disk_that_fills_up_keeps_what_came(
    server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(appender: Appender, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server.plan = [break_off(HALF)]
    with pytest.raises(EnvironmentFault):
        fetch(tries=1)
    with monkeypatch.context() as patch:
        patch.setattr(Appender, "write", full)
        with pytest.raises(EnvironmentFault, match=r"No space left.*goes on where it stopped"):
            fetch()
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-", f"bytes={HALF}-"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Fetch(locked / "cache")()


def test_a_file_where_a_folder_should_be_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(EnvironmentFault, match="PIPELINE_CACHE or --weights-dir"):
        Fetch(tmp_path / "cache")()


# --- archives -------------------------------------------------------------------------------------


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def archive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    publish(monkeypatch, f"{server.url}/models.zip", member=NAME)
    server.content = zipped(("models/other.pth", OTHER), (f"models/{NAME}", CONTENT))
    return server


@pytest.mark.parametrize("cut", [None, 700], ids=["at-once", "broken-off"])
def test_a_file_is_taken_out_of_its_archive(cut: int | None, archive: Server, fetch: Fetch) -> None:
    archive.plan = [] if cut is None else [break_off(cut)]
    assert fetch().read_bytes() == CONTENT
    assert fetch.names() == WHOLE
    assert archive.sent == len(archive.content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(("models/other.pth", OTHER)), "its archive holds no net.pth"),
        (zipped((NAME, CONTENT))[:-100], "its archive is damaged"),
        (zipped((NAME, OTHER)), "what it serves has SHA-256"),
        (zipped((NAME, CONTENT * 40)), "far too large"),
        (b"no archive", "its archive is damaged"),
    ],
    ids=["missing", "damaged", "other", "bomb", "no-archive"],
)
def test_a_bad_archive_is_refused_and_nothing_is_left(
    content: bytes, said: str, archive: Server, fetch: Fetch
) -> None:
    archive.content = content
    with pytest.raises(EnvironmentFault, match=said):
        fetch()
    assert fetch.names() == set()


def test_an_archive_put_together_from_two_is_fetched_again(archive: Server, fetch: Fetch) -> None:
    good, archive.etag = archive.content, ""
    archive.content = bytes(len(good))

    def cut_and_mend(handler: Any) -> None:
        behave(handler, cut=300)
        archive.content = good

    archive.plan = [cut_and_mend]
    assert fetch().read_bytes() == CONTENT


# --- other processes, and violent ends ------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from extractors.weights import addresses
from extractors.weights.download import download_weights
from extractors.spec import WeightsFile
url, folder, sha256 = sys.argv[1:]
addresses._ADDRESSES = {"net.pth": (addresses.Address(url + "/net.pth"),)}
weights = WeightsFile("net.pth", 0, sha256, "Apache-2.0", "nowhere")
print("ready", flush=True)
print(download_weights(weights, Path(folder), safe_every=4096))
"""


def start(server: Server, folder: Path, sha256: str = SHA256) -> subprocess.Popen[str]:
    """Another process that fetches the file; it is about to when this returns."""
    command = [sys.executable, "-c", SCRIPT, server.url, str(folder), sha256]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = b""
    while not said.endswith(b"\n"):  # not by readline: `communicate` loses what that read ahead
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"it ended after {said!r}"
        said += byte
    assert said == b"ready\n"
    return process


def stall_at(cut: int, seconds: float) -> Any:
    """Send the beginning, and the rest after a while."""

    def run(handler: Any) -> None:
        handler.head(200, Content_Length=SIZE)
        handler.body(CONTENT[:cut])
        time.sleep(seconds)
        handler.body(CONTENT[cut:])

    return run


def test_two_processes_fetch_a_file_once(server: Server, fetch: Fetch) -> None:
    server.plan = [stall_at(HALF, 1.0)]
    processes = [start(server, fetch.folder) for _ in range(2)]
    paths = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert paths == [str(fetch.folder / NAME)] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert len(server.asked) == 1
    assert fetch.names() == WHOLE


@pytest.mark.parametrize("sha256", [SHA256, ""], ids=["hash", "no-hash"])
def test_a_killed_download_leaves_no_file_and_is_gone_on_with(
    sha256: str, server: Server, fetch: Fetch
) -> None:
    server.plan = [stall_at(HALF, 20.0)]
    process = start(server, fetch.folder, sha256)
    journal = fetch.folder / f"{NAME}.part.json"
    limit = time.monotonic() + 30
    # Bytes come before the note of them, and only what is noted is gone on with.
    while not journal.exists() or json.loads(journal.read_text())["durable"] == 0:
        assert time.monotonic() < limit, "nothing came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (fetch.folder / NAME).exists()
    kept = json.loads(journal.read_text())["durable"]
    assert 0 < kept <= HALF
    # The note of what came may have been at its being written: it goes when it is an hour old.
    (fetch.folder / f".1.note{TEMP_SUFFIX}").write_text("half a no")
    for leftover in fetch.folder.glob(f".*{TEMP_SUFFIX}"):
        os.utime(leftover, (0, 0))
    assert fetch(replace(HASHED, sha256=sha256)).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={kept}-"]
    assert fetch.names() == WHOLE


def test_an_interrupt_keeps_what_came(server: Server, fetch: Fetch) -> None:
    class Impatient(Listener):
        def progress(self, what: str, done: int, total: int | None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_weights(HASHED, fetch.folder, watch=Impatient(fetch.folder / NAME))
    assert fetch.names() == BEGUN
    kept = PartialFile(fetch.folder / NAME).size
    assert kept > 0
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={kept}-"] if kept < SIZE else [""]


def test_where_nothing_can_be_locked_each_process_has_a_part_of_its_own(
    server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LockFile, "excludes", property(lambda lock: False))
    server.plan = [break_off(HALF)]
    with pytest.raises(EnvironmentFault):
        fetch(tries=1)
    assert fetch.names() == set()
    server.plan = [break_off(HALF)]
    assert fetch().read_bytes() == CONTENT
    assert fetch.names() == WHOLE


def test_locks_here_keep_others_out(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    with lock.hold("a name", wait=True):
        assert lock.excludes

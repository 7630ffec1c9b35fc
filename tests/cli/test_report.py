"""The HTML page: what is in it, and what a real browser makes of it."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.media.ffmpeg import ffmpeg_binary
from pipeline.core.events import AGREEMENT, Curves, Detections, Event
from pipeline.formats import write
from pipeline.report import render_page
from pipeline.report.payload import CURVE_POINTS, MAX_LANES, media_reference

EVIL = "</script><img src=x onerror=alert(1)>&amp;{{data}}"


class Page(html.parser.HTMLParser):
    """Tags, attributes and the data block of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: Any = None
        self._in_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_data = tag == "script" and dict(attrs).get("id") == "data"

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data = json.loads(data)
            self._in_data = False


def curves(labels: tuple[str, ...], steps: int = 12) -> Curves:
    values = np.linspace(0, 1, steps * len(labels), dtype=np.float32).reshape(steps, -1)
    return Curves(np.arange(steps) * 0.25 + 0.5, labels, values)


def result(video: str = "missing.mp4", label: str = "dog barking") -> Detections:
    events = (Event(0.5, 1.5, label, 0.9), Event(2.0, 3.0, "playing cello", 0.4))
    known = curves((label, "playing cello", "lions roaring"))
    return Detections(video, 4.0, events, "agreement (lite)", ("partial: sound ends",), known)


def test_the_page_refers_to_nothing_outside_itself_but_the_video() -> None:
    text = render_page([result()])
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed")
        assert not {"src", "href", "action"} & set(attributes), f"{tag} loads {attributes}"
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)


def test_names_and_labels_stay_text_whatever_they_hold() -> None:
    clean = [tag for tag, _ in Page(render_page([result()])).tags]
    page = Page(render_page([result(video=EVIL, label=EVIL)]))
    assert [tag for tag, _ in page.tags] == clean
    video = page.data["videos"][0]
    assert video["name"] == EVIL and video["lanes"][0]["label"] == EVIL


def test_events_lanes_and_curves_arrive_in_the_data_block() -> None:
    (video,) = Page(render_page([result()])).data["videos"]
    assert [lane["label"] for lane in video["lanes"]] == [
        "dog barking",
        "playing cello",
        "lions roaring",
    ]
    assert video["events"][0] == {"lane": 0, "start": 0.5, "end": 1.5, "score": 0.9}
    curve = video["lanes"][2]["curve"]
    assert (curve["first"], curve["step"], len(curve["values"])) == (0.5, 0.25, 12)
    assert video["notes"] == ["partial: sound ends"] and video["duration"] == 4.0


def test_a_long_curve_is_thinned_to_its_maxima_in_their_place() -> None:
    steps = 10 * CURVE_POINTS
    values = np.zeros((steps, 1), dtype=np.float32)
    values[7777] = 1.0
    long = Curves(np.arange(steps) * 0.25 + 0.5, ("x",), values)
    entry = Detections("v", steps * 0.25 + 0.75, (), "test", curves=long)
    curve = Page(render_page([entry])).data["videos"][0]["lanes"][0]["curve"]
    assert len(curve["values"]) == CURVE_POINTS and max(curve["values"]) == 100
    second = curve["first"] + curve["step"] * curve["values"].index(100)
    assert abs(second - (7777 * 0.25 + 0.5)) <= curve["step"] / 2


def test_the_video_is_found_from_where_the_page_lies(tmp_path: Path) -> None:
    clips, pages = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    video = clips / "a:b #1?%20é.mp4"
    video.write_bytes(b"")
    assert media_reference(str(video), clips) == "./a%3Ab%20%231%3F%2520%C3%A9.mp4"
    assert media_reference(str(video), pages).startswith("./../clips/a%3Ab")
    assert media_reference(str(video), None) == video.as_uri()
    assert media_reference("no/such/file.mp4", pages) == ""


def test_a_page_without_events_or_curves_is_a_page() -> None:
    (video,) = Page(render_page([Detections("v", 0.0, (), "test")])).data["videos"]
    assert video["lanes"] == [] and video["events"] == []


# Drives the page from a frame around it and leaves what it saw in its own body.
DRIVER = """<!doctype html><meta charset="utf-8"><body>
<iframe id="f" width="1000" height="900"></iframe>
<pre id="seen"></pre><script>
const frame = document.getElementById("f"), seen = {};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
frame.addEventListener("load", async () => {
  const page = frame.contentDocument, $ = (id) => page.getElementById(id);
  const player = $("player");
  for (let k = 0; k < 100 && !(player.readyState >= 1); k += 1) await wait(50);
  const key = (name) => page.body.dispatchEvent(
    new frame.contentWindow.KeyboardEvent("keydown", {key: name, bubbles: true}));
  seen.ready = player.readyState >= 1;
  seen.labels = [...page.querySelectorAll(".label")].map((node) => node.textContent);
  seen.bars = page.querySelectorAll(".lane button.event").length;
  seen.curves = page.querySelectorAll(".lane path").length;
  seen.images = page.querySelectorAll("img").length;
  page.querySelectorAll(".event")[1].click();
  await wait(200);
  seen.clicked = [player.currentTime, $("playhead").style.left, $("now").textContent];
  key("ArrowLeft"); await wait(100);
  seen.left = player.currentTime;
  key("p"); await wait(100);
  seen.previous = player.currentTime;
  const box = $("tracks").getBoundingClientRect();
  $("lanes").dispatchEvent(new frame.contentWindow.PointerEvent("pointerdown",
    {clientX: box.left + box.width * 0.75, clientY: box.top + 40, buttons: 1, bubbles: true}));
  await wait(100);
  seen.pointed = player.currentTime;
  $("least").value = 0.5; $("least").dispatchEvent(new frame.contentWindow.Event("input"));
  seen.filtered = [...page.querySelectorAll(".event")].filter((bar) => !bar.hidden).length;
  seen.slider = $("tracks").getAttribute("aria-valuetext");
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
frame.src = "PAGE";
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine")


def test_a_browser_plays_seeks_and_filters(browser: str, tmp_path: Path) -> None:
    video = tmp_path / "a <b> #1.mp4"
    source = ("-f", "lavfi", "-i", "testsrc=d=4:s=64x48:r=10", "-pix_fmt", "yuv420p")
    subprocess.run([ffmpeg_binary(), "-v", "error", *source, str(video)], check=True)
    write([result(video=str(video), label=EVIL)], "html", tmp_path / "page.html")
    (tmp_path / "driver.html").write_text(DRIVER.replace("PAGE", "page.html"), encoding="utf-8")
    flags = (
        "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-web-security "
        "--allow-file-access-from-files --virtual-time-budget=15000 --timeout=20000 --dump-dom"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = (tmp_path / "driver.html").as_uri()
    run = subprocess.run(
        [browser, *flags.split(), profile, page],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="seen">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert seen["ready"], "the browser could not read the video beside the page"
    assert seen["labels"] == [EVIL, "playing cello", "lions roaring"] and seen["images"] == 0
    assert seen["bars"] == 2 and seen["curves"] == 3
    assert seen["clicked"] == [2.0, "50%", "playing cello"]
    assert seen["left"] == 1.0 and seen["previous"] == 0.5
    assert seen["pointed"] == pytest.approx(3.0, abs=0.05)
    assert seen["filtered"] == 1 and seen["slider"].startswith("0:0")


def test_the_agreement_has_the_last_lane_however_many_classes_there_are() -> None:
    names = tuple(f"class {number}" for number in range(MAX_LANES + 10))
    events = tuple(Event(0.0, 1.0, name, 0.5) for name in names)
    entry = Detections("v", 4.0, events, "CLASP", curves=curves((*names, AGREEMENT)))
    (video,) = Page(render_page([entry])).data["videos"]
    lanes = [lane["label"] for lane in video["lanes"]]
    assert lanes == [*names[: MAX_LANES - 1], AGREEMENT] and video["hidden"] == 11
    values = video["lanes"][-1]["curve"]["values"]
    assert len(values) == 12 and values[-1] == 100 and max(values[:-1]) < 100

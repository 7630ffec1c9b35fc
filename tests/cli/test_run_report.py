"""The page of runs: charts in their places, names as text, nothing loaded, nothing invented."""

from __future__ import annotations

import base64
import html
import html.parser
import json
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.core.events import Event
from pipeline.report.axes import short, ticks
from pipeline.report.charts import Line, line_chart
from pipeline.report.heat import shrink
from pipeline.report.markup import join, tag
from pipeline.report.png import data_address, heat_png, palette
from pipeline.report.run_page import render_run_page
from pipeline.report.run_view import (
    RunsView,
    RunView,
    ScoreView,
    SimilarityView,
    VideoView,
    WindowView,
)
from pipeline.report.timeline import MAX_LANES, Track, pack, timeline

EVIL = "</svg></style><img src=x onerror=alert(1)>\"'&amp;{{data}}"


class Page(html.parser.HTMLParser):
    """Elements with attributes, and all text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def a_run(name: str, *, text: str = "") -> RunView:
    log = tuple(
        {"epoch": float(n), "loss": 4.0 / n, "lr": 1e-4, "sigma": 1.0 + n / 10, "temperature": 0.07}
        for n in (1, 2, 3)
    )
    scores = ScoreView((0.5, 0.9), (0.8, 0.4), 0.6, {text or "dog": 0.6}, {text or "dog": 7},
                       (0.3, 0.1), 12)  # fmt: skip
    window = WindowView("vision", "audio", "both", 1, 1, 8, 0.25, (6, 7, 8, 9, 10.5),
                        (-1, 0, 0.5, 1, 2), 40)  # fmt: skip
    return RunView(
        name=name,
        about="dynamic windows, LCC learnable",
        facts=(("command", text or "pipeline run"),),
        recipe=text or "data: {}",
        log=log,
        scores=scores,
        threshold=0.4,
        similarity=SimilarityView(np.array([0.1, 0.2]), 0.3, 0.5, (0.7, 0.125, 0.625, 0.05), 2),
        windows=(window, replace(window, asks="audio", answers="vision", head=2)),
    )


def a_video(id: str, runs: int, *, label: str = "dog") -> VideoView:
    matrix = np.linspace(-0.5, 1, 16, dtype=np.float32).reshape(4, 4)
    matrix[0] = np.nan
    event = Event(1.0, 2.0, label, 0.9)
    return VideoView(id, 4.0, (event,), ((event,),) * runs, (matrix,) * runs, (0.375, 3.375))


def a_view(runs: int = 2, *, text: str = "") -> RunsView:
    return RunsView(
        runs=tuple(a_run(text or f"run{n}", text=text) for n in range(runs)),
        videos=(a_video(text or "video", runs, label=text or "dog"),),
        differences=(("model.fusion", (text or "dynamic",) * runs),),
        measured=2,
        notes=(text,) if text else (),
    )


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    text = render_run_page(a_view())
    page = Page(text)
    for name, attributes in page.tags:
        assert name not in ("link", "iframe", "img", "object", "embed", "script")
        assert not {"src", "action", "style"} & set(attributes)
        assert not any(key.startswith("on") for key in attributes)
        if address := attributes.get("href"):
            assert address.startswith("#" if name == "a" else "data:image/png;base64,")
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    assert "script-src" not in policy
    assert not re.search(r"url\(|@import|https?://", text)


def test_links_lead_to_the_sections() -> None:
    page = Page(render_run_page(a_view()))
    targets = [a["href"] for a in page.all("a")]
    assert targets == [f"#{section['id']}" for section in page.all("section")]
    assert len(targets) == 6


def test_names_labels_and_recipes_stay_text_whatever_they_hold() -> None:
    clean, page = (Page(render_run_page(a_view(text=text))) for text in ("plain", EVIL))
    assert [name for name, _ in page.tags] == [name for name, _ in clean.tags]
    assert page.text.count(EVIL) >= 10


def test_a_name_that_is_no_unicode_is_still_a_page() -> None:
    text = render_run_page(a_view(text="bad\udcff name"))
    assert "bad\\udcff name" in text
    text.encode("utf-8")


def test_only_markup_escapes_escaping() -> None:
    inner = tag("b", "1 < 2")
    assert tag("p", inner, " & more", title='"x"') == (
        '<p title="&quot;x&quot;"><b>1 &lt; 2</b> &amp; more</p>'
    )
    assert join(["<i>", inner]) == "&lt;i&gt;<b>1 &lt; 2</b>"


def test_figures_of_the_runs_are_on_the_page() -> None:
    text = Page(render_run_page(a_view())).text
    for said in ("80.00", "40.00", "60.00", "0.1500", "8.00 (6.00 to 10.50)", "0.12 (\u22120.25",
                 "70.0 %", "12.5 %", "62.5 %", "5.0 %"):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": None}, "No run has scores yet"),
        ({"log": ()}, "No run has a training log"),
        ({"similarity": None}, "No run could be measured"),
        ({"similarity": SimilarityView(np.array([0.1]), 0.3, 0.5)}, "No video is long enough"),
        ({"windows": ()}, "No run has dynamic windows"),
    ],
)
def test_what_is_not_there_is_said(change: dict[str, object], said: str) -> None:
    run = replace(a_run("lone"), missing=("a part: a reason",), **change)  # type: ignore[arg-type]
    text = Page(render_run_page(RunsView((run,)))).text
    assert said in text
    assert "lone: a part: a reason" in text


def test_a_run_without_lcc_has_no_curve_of_zeros() -> None:
    rows = tuple({"epoch": float(n), "loss": 1.0, "correspondence": 0.0} for n in (1, 2))
    without = replace(a_run("without"), log=rows)
    assert "unweighted" not in render_run_page(RunsView((without,)))
    rows = tuple({**row, "temperature": 0.07} for row in rows)
    assert "unweighted" in render_run_page(RunsView((replace(without, log=rows),)))


def test_what_is_learned_beside_the_weights_has_a_curve_over_the_epochs() -> None:
    windows = {"window_size": 1.5, "window_offset": 0.25, "window_backwards": 0.125}
    rows = tuple(
        {"epoch": float(n), "sigma": n / 2, "temperature": n / 100}
        | {f"{name}_{level}": n * value for name, value in windows.items() for level in (1, 2)}
        for n in (1, 2, 3)
    )
    text = render_run_page(RunsView((replace(a_run("lone"), log=rows),)))
    for said in ("Deviation (sigma)", "Temperature (tau)"):
        assert said in text
    for level in (1, 2):
        for said, last in (
            (f"Mean window size on level {level}", "4.5"),
            (f"Mean distance of windows on level {level}", "0.75"),
            (f"Share of windows on level {level} that run backwards", "0.375"),
        ):
            assert said in text
            assert f"lone: last {last}" in text


def test_a_line_goes_through_its_points() -> None:
    chart = Page(line_chart("x", [Line("run", "r0", [(1, 0.0), (2, 5.0), (3, 10.0)])], zero=True))
    (line,) = chart.all("polyline")
    places = [tuple(map(float, pair.split(","))) for pair in (line["points"] or "").split()]
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.11)
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.11)
    assert places[0][1] > places[2][1]  # larger values stand higher


def test_a_single_epoch_is_a_dot_and_no_epoch_is_no_chart() -> None:
    assert len(Page(line_chart("x", [Line("run", "r0", [(1, 2.0)])])).all("circle")) == 1
    assert line_chart("x", [Line("run", "r0", [])]) == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_within_the_range_at_even_distances(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 12
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert low - slack <= found[0] and found[-1] <= low + width + slack
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (-1.5, "\u22121.5"), (12345, "12,345"), (1e-6, "1e\u22126")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def decoded(png: bytes) -> np.ndarray:
    """Palette indices of a PNG of ours, read chunk by chunk with their check sums."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (check,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert check == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 3)
    assert chunks[b"tRNS"][255] == 0 and set(chunks[b"tRNS"][:255]) == {255}
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_a_matrix_becomes_a_picture_with_a_hole_where_nothing_is() -> None:
    values = np.array([[0.0, 0.5, 1.0], [np.nan, -9.0, 9.0]], np.float32)
    png = heat_png(values, 0.0, 1.0)
    assert decoded(png).tolist() == [[0, 127, 254], [255, 0, 254]]
    address = data_address(png)
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == png


def test_colours_grow_lighter_with_the_value() -> None:
    brightness = palette().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(np.convolve(brightness, np.ones(8) / 8, "valid")) > 0)


def test_a_large_matrix_is_averaged_and_holes_do_not_count() -> None:
    values = np.ones((700, 500), np.float32)
    values[:3, :2] = np.nan
    values[3:6, :2] = np.array([[0, 0], [0, 0], [3, 3]])
    small = shrink(values, 256)
    assert small.shape == (234, 250)
    assert np.isnan(small[0, 0]) and small[1, 0] == 1.0
    assert np.all(small.ravel()[1:] == 1.0)


def test_bars_of_a_timeline_stand_where_their_events_are() -> None:
    events = [Event(0.0, 5.0, "dog", 1.0), Event(5.0, 10.0, "cat", 0.5)]
    page = Page(timeline("v", [Track("run", "r0", events)], duration=10.0, colours={}))
    first, second = (a for a in page.all("rect") if a.get("height") == "18")
    assert float(first["width"] or 0) == pytest.approx(float(second["width"] or 0), abs=0.02)
    end = float(first["x"] or 0) + float(first["width"] or 0)
    assert end == pytest.approx(float(second["x"] or 0), abs=0.02)
    assert first["y"] == second["y"]
    assert float(first["fill-opacity"] or 0) > float(second["fill-opacity"] or 0)


def test_events_that_overlap_lie_below_each_other() -> None:
    events = [Event(0, 5, "a", 1), Event(4, 6, "b", 1), Event(5, 7, "c", 1), Event(4.5, 9, "d", 1)]
    assert [[e.label for e in lane] for lane in pack(events)] == [["a", "c"], ["b"], ["d"]]


def test_events_beyond_the_rows_of_a_track_are_counted() -> None:
    events = [Event(0, 5, "a", n / 100) for n in range(MAX_LANES + 4)]
    page = Page(timeline("v", [Track("run", "r0", events)], duration=5.0, colours={}))
    assert "and 4 more events" in page.text
    assert "not known" in timeline("v", [Track("x", "", None)], duration=5.0, colours={})


def a_folder(folder: Path, *, annotations: str = "gone.json") -> Path:
    """A run that has a recipe and a log of an earlier version, and nothing else."""
    folder.mkdir()
    data = {"features": "gone", "annotations": annotations}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": data, "output": {"folder": "."}}))
    (folder / "log.csv").write_text("epoch,loss,lr,sigma\n1.0,2.0,0.001,1.0\n2.0,1.0,0.001,1.5\n")
    return folder


def test_the_command_writes_the_page_and_prints_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_folder(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr()
    assert re.search(r"^run +- +- +1\.500( +-){5}$", printed.out, re.MULTILINE)
    assert "there is no metrics.json" in printed.out and "gone.json" in printed.out
    assert str(run / "report.html") in printed.err
    assert "No run has scores yet" in (run / "report.html").read_text(encoding="utf-8")


def test_runs_to_compare_with_may_be_named_together_or_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = str(tmp_path / "gone.json")
    runs = [str(a_folder(tmp_path / name, annotations=same)) for name in "abcd"]
    command = ["report", runs[0], "--against", runs[1], runs[2], "--against", runs[3]]
    assert main(command) == 0
    assert re.findall(r"^(\w) +-", capsys.readouterr().out, re.MULTILINE) == list("abcd")


def test_the_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = a_folder(tmp_path / "run"), tmp_path / "deep" / "page.html"
    assert main(["report", str(run), "--json", "--out", str(page)]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["runs"]
    assert (shown["sigma"], shown["mean_of_std"], shown["epochs"]) == (1.5, None, 2)
    assert page.exists()


def test_the_json_says_which_sound_is_nearest_as_the_table_does() -> None:
    run = a_run("lone")
    assert run.to_json()["nearest_sound"] == {
        "moment": 0.7, "position": 0.125, "content": 0.625, "chance": 0.05, "videos": 2,
    }  # fmt: skip
    assert replace(run, similarity=None).to_json()["nearest_sound"] is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--against", "nothing"], "no folder of a run"),
        (["--videos", "-1"], "--videos -1 is below 0"),
        (["--out", "."], "is a folder"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(["report", str(a_folder(tmp_path / "run")), *more]) == 2
    assert said in capsys.readouterr().err


# Reads what the browser made of the page, from a frame around it.
DRIVER = """<!doctype html><meta charset="utf-8"><body>
<iframe id="f" width="1200" height="900"></iframe><pre id="seen"></pre><script>
const frame = document.getElementById("f");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, all = (query) => [...page.querySelectorAll(query)];
  const style = (node) => frame.contentWindow.getComputedStyle(node);
  const boxes = all("figure svg").map((node) => node.getBoundingClientRect());
  document.getElementById("seen").textContent = JSON.stringify({
    charts: boxes.length,
    flat: boxes.filter((box) => !(box.width > 100 && box.height > 60)).length,
    wide: page.documentElement.scrollWidth,
    strokes: [...new Set(all("#curves .line").map((node) => style(node).stroke))].length,
    fills: all("#curves .line").filter((node) => style(node).fill !== "none").length,
    images: all("image").map((node) => node.getBoundingClientRect().width > 50),
    injected: all("img").length,
  });
});
frame.src = "page.html";
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine")


def test_a_browser_draws_every_chart_without_breaking_the_policy(
    browser: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(render_run_page(a_view(text=EVIL)), encoding="utf-8")
    (tmp_path / "driver.html").write_text(DRIVER, encoding="utf-8")
    flags = (
        "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-web-security "
        "--allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=10000 "
        "--timeout=20000 --dump-dom --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    run = subprocess.run(
        [browser, *flags.split(), profile, (tmp_path / "driver.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="seen">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert "Content Security Policy" not in run.stderr, run.stderr[-2000:]
    assert seen["charts"] >= 10 and seen["flat"] == 0
    assert seen["wide"] <= 1200
    assert seen["strokes"] == 2 and seen["fills"] == 0
    assert len(seen["images"]) == 3 and all(seen["images"])  # two matrices and their scale
    assert seen["injected"] == 0

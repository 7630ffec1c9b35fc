"""The benchmark of the backbones' nets: what it feeds them, what it counts, what it says."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extractors.audio.onepeace import OnePeaceAudioEncoder
from extractors.audio.vggish import VGGishEncoder, VGGishNet
from extractors.grids import OWN_GRID
from extractors.i3d_vggish_spec import vggish_spec
from extractors.joint import DEVICE_ROWS
from extractors.onepeace.spec import ONEPEACE_AUDIO, ONEPEACE_VIDEO, RELEASED_SIZE
from extractors.vision.i3d import I3DStream
from extractors.vision.i3d_net import LEAST_FRAMES, SIDE
from extractors.vision.onepeace import OnePeaceVideoEncoder
from extractors.vision.raft import SMALLEST_SIDE
from extractors.vision.raft_flow import FlowEstimator, quantise
from extractors.windows import WindowGrid
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault, UsageError
from workflows.bench import backbones as bench
from workflows.bench import matrix_rate
from workflows.bench.backbone_nets import (
    TINY_SIZE,
    BackboneCase,
    backbone_cases,
    moving_pictures,
    sounds,
)
from workflows.bench.backbone_report import BackboneReport, BackboneRow
from workflows.bench.backbones import BackboneTask, likeness, measure_backbones
from workflows.bench.matrix_rate import (
    MatrixRate,
    arithmetic_of_extraction,
    check_float32,
    time_passes,
)
from workflows.bench.record import read_record

CPU = torch.device("cpu")
FLOAT32 = torch.float32
NAMES = ["i3d-rgb", "raft", "vggish", "onepeace-video", "onepeace-audio"]
TINY = BackboneTask(CPU, windows=3, seconds=0.0, tiny=True)


@pytest.fixture(scope="module")
def report() -> BackboneReport:
    """The quick nets in all precisions."""
    return measure_backbones(replace(TINY, only=("onepeace-video", "onepeace-audio"), batch=2))


# --- what the nets are fed with -------------------------------------------------------------------


def net_of(case: BackboneCase) -> nn.Module:
    return case.make(CPU)


def answer(case: BackboneCase, net: nn.Module, rows: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = net(*case.prepare(rows, FLOAT32))
        return result


def test_onepeace_sees_what_its_encoders_show_it() -> None:
    cases = backbone_cases(tiny=True)
    video, audio = cases["onepeace-video"], cases["onepeace-audio"]
    net, rows = net_of(video), video.draw(2)
    pictures = OnePeaceVideoEncoder(
        net,  # type: ignore[arg-type]
        ONEPEACE_VIDEO,
        side=TINY_SIZE.image_side,
        device=CPU,
        threads=1,
    )
    found = torch.from_numpy(pictures.embed(rows.numpy()).embeddings)
    torch.testing.assert_close(found, answer(video, net, rows))
    net, rows = net_of(audio), audio.draw(2)
    sound = OnePeaceAudioEncoder(net, ONEPEACE_AUDIO, samples=16_000, device=CPU, threads=1)  # type: ignore[arg-type]
    found = torch.from_numpy(sound.embed(rows.numpy()).embeddings)
    torch.testing.assert_close(found, answer(audio, net, rows))


def test_vggish_i3d_and_raft_see_what_their_encoders_show_them() -> None:
    cases = backbone_cases(tiny=True)
    case = cases["vggish"]
    net, rows = net_of(case), case.draw(2)
    encoder = VGGishEncoder(net, vggish_spec(OWN_GRID), grid=OWN_GRID, device=CPU, threads=1)  # type: ignore[arg-type]
    found = torch.from_numpy(encoder.embed_patches(rows.numpy()).embeddings)
    torch.testing.assert_close(found, answer(case, net, rows), rtol=1e-4, atol=1e-4)

    case = cases["i3d-rgb"]
    net, rows = net_of(case), case.draw(1)
    grid = WindowGrid(window=LEAST_FRAMES)
    stream = I3DStream(net, grid=grid, device=CPU, threads=1)  # type: ignore[arg-type]
    found = torch.from_numpy(stream.windows(rows.numpy()))
    torch.testing.assert_close(found, answer(case, net, rows), rtol=1e-4, atol=1e-4)

    case = cases["raft"]
    net, rows = net_of(case), case.draw(1)
    flow = FlowEstimator(net, device=CPU, crop=SMALLEST_SIDE, threads=1)  # type: ignore[arg-type]
    found = torch.from_numpy(flow(rows.numpy())[:, 0])
    torch.testing.assert_close(found, quantise(answer(case, net, rows)), rtol=0, atol=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_as_large_as_in_extraction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def runner(forward: object, **options: Any) -> object:
        asked.append(options)
        return forward

    for module in ("vision.i3d", "vision.raft_flow", "vision.onepeace", "audio.onepeace"):
        monkeypatch.setattr(f"extractors.{module}.Runner", runner)
    monkeypatch.setattr("extractors.audio.vggish.Runner", runner)
    case = backbone_cases(tiny=True)[name]
    with torch.device("meta"):
        net: Any = VGGishNet() if name == "vggish" else case.net()
    meta = torch.device("meta")
    make: dict[str, Callable[[], object]] = {
        "i3d-rgb": lambda: I3DStream(net, grid=WindowGrid(), device=meta),
        "raft": lambda: FlowEstimator(net, device=CPU),
        "vggish": lambda: VGGishEncoder(net, vggish_spec(OWN_GRID), grid=OWN_GRID, device=meta),
        "onepeace-video": lambda: OnePeaceVideoEncoder(net, ONEPEACE_VIDEO, side=64, device=CPU),
        "onepeace-audio": lambda: OnePeaceAudioEncoder(
            net, ONEPEACE_AUDIO, samples=16_000, device=CPU
        ),
    }
    make[name]()
    (options,) = asked
    assert case.rows["cpu"] == options["cpu_chunk"]
    assert case.rows["cuda"] == min(options["device_chunk"], DEVICE_ROWS)


def test_the_released_nets_see_whole_windows_of_the_grid() -> None:
    cases = backbone_cases()
    assert list(cases) == NAMES
    shapes = {name: tuple(case.draw(1).shape) for name, case in cases.items()}
    assert shapes == {
        "i3d-rgb": (1, 16, SIDE, SIDE, 3),
        "raft": (1, 2, 256, 455, 3),
        "vggish": (1, 96, 64),
        "onepeace-video": (1, 16, 256, 256, 3),
        "onepeace-audio": (1, 16_000),
    }


def test_windows_differ_and_are_the_same_every_time() -> None:
    pictures, sound = moving_pictures(4, 3, 32, 48), sounds(4, 4000)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures, moving_pictures(4, 3, 32, 48))
    assert torch.equal(sound, sounds(4, 4000))
    for rows in (pictures.double().flatten(1), sound.double()):
        centred = rows - rows.mean(dim=1, keepdim=True)
        for a, b in combinations(centred, 2):
            assert torch.cosine_similarity(a, b, dim=0).abs() < 0.8
    assert (pictures[:, 0] != pictures[:, 1]).double().mean() > 0.9  # they move, too


@pytest.mark.parametrize("name", ["vggish", "onepeace-video", "onepeace-audio"])
def test_random_nets_tell_windows_apart_and_are_the_same_every_time(name: str) -> None:
    case = backbone_cases(tiny=True)[name]
    rows = case.draw(4)
    first, again = (answer(case, case.make(CPU), rows) for _ in range(2))
    assert torch.equal(first, again)
    assert first.isfinite().all()
    for a, b in combinations(first, 2):
        assert torch.cosine_similarity(a, b, dim=0) < 0.99


# --- what is counted ------------------------------------------------------------------------------


def test_operations_of_vggish_are_those_of_its_layers() -> None:
    convolutions = [
        (96 * 64, 1, 64),
        (48 * 32, 64, 128),
        (24 * 16, 128, 256),
        (24 * 16, 256, 256),
        (12 * 8, 256, 512),
        (12 * 8, 512, 512),
    ]
    dense = 6 * 4 * 512 * 4096 + 4096 * 4096 + 4096 * 128
    macs = sum(places * 9 * inputs * outputs for places, inputs, outputs in convolutions) + dense
    assert backbone_cases()["vggish"].flops() == 2 * macs


def test_operations_of_onepeace_video_are_those_of_its_layers() -> None:
    size = RELEASED_SIZE
    patches = (size.image_side // 16) ** 2
    tokens, dim, narrow = 1 + patches, size.dim, size.patch_channels
    attention = 4 * dim * dim
    layer = (
        2 * attention
        + 2 * (tokens + size.frames) * dim  # logits and sums, within pictures and across
        + 3 * dim * size.ffn
        + 3 * 2 * dim * size.adapter
    )
    patch = 16 * 48 * narrow + 4 * (4 * narrow) * narrow + 4 * narrow * dim
    macs = size.frames * (patches * patch + size.layers * tokens * layer)
    assert backbone_cases()["onepeace-video"].flops() == 2 * macs


def test_float32_agrees_with_itself_and_less_bits_agree_less(report: BackboneReport) -> None:
    rows = {(row.name, row.precision): row for row in report.rows}
    for name in ("onepeace-video", "onepeace-audio"):
        full, brain, half = (rows[name, precision] for precision in ("fp32", "bf16", "fp16"))
        for row in (full, brain, half):
            assert row.cosine is not None
            assert row.centred is not None
            assert row.cosine > row.centred - 1e-12 > 0.9
        # Row by row and two at once are other sums.
        assert full.centred == pytest.approx(1, abs=1e-6)
        assert brain.centred < half.centred < 1 - 1e-7  # type: ignore[operator]


def test_the_share_is_operations_over_the_measured_product(report: BackboneReport) -> None:
    rates = {rate.precision: rate.rate for rate in report.rates}
    assert len(report.rows) == 6
    for row in report.rows:
        assert row.rate is not None and row.rate > 0
        assert row.batch == 2
        assert row.peak > 1e7
        expected = row.flops * row.rate / (rates[row.precision] or 0)
        assert row.share == pytest.approx(expected)
        assert row.flops == backbone_cases(tiny=True)[row.name].flops()


def test_the_kernel_of_attention_is_named(report: BackboneReport) -> None:
    for row in report.rows:
        assert any(note.startswith("attention by ") for note in row.notes), row


def test_what_all_windows_share_does_not_hide_their_distance() -> None:
    exact = torch.tensor([[100.0, 1.0], [100.0, -1.0]], dtype=torch.float64)
    plain, centred = likeness(exact.flip(0), exact) or (0, 0)
    assert plain > 0.999
    assert centred == pytest.approx(-1)
    assert likeness(exact, exact) == pytest.approx((1, 1))
    assert likeness(exact * torch.inf, exact) is None


def test_a_rate_counts_rows_and_not_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "time_passes", lambda step, **options: 0.5)
    found = measure_backbones(
        replace(TINY, only=("onepeace-audio",), precisions=("fp32",), batch=6)
    )
    assert found.rows[0].rate == 12


def test_passes_on_a_gpu_are_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0, 14.0])  # milliseconds; the first pass is an outlier

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(clock)

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    passes: list[int] = []
    device = torch.device("cuda")
    taken = time_passes(lambda: passes.append(len(waited)), device=device, seconds=0.0)
    assert taken == pytest.approx(2e-3)
    assert passes == [1, 2, 2, 2]  # one by the clock to know how many fit, then three in a row
    assert len(waited) == 3


# --- what does not work ---------------------------------------------------------------------------


class Doubling(nn.Linear):
    """A net that can be told to fail."""

    limit = 10**9  # rows that fit into memory

    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit and not x.is_meta:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 9 GiB")
        if x.dtype == torch.bfloat16:
            raise NotImplementedError('"doubling" not implemented for BFloat16\nat line 7')
        if x.dtype == torch.float16:
            return super().forward(x.float().to(self.weight)) * 1e6
        return super().forward(x)


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> type[Doubling]:
    """The only net there is."""

    class Fresh(Doubling):
        pass

    case = BackboneCase(
        "doubling",
        "a matrix",
        "window",
        {"cpu": 16, "cuda": 16},
        Fresh,
        lambda count: torch.randn(count, 8, generator=torch.Generator().manual_seed(0)),
        lambda rows, dtype: (rows.to(dtype),),
    )
    monkeypatch.setattr(bench, "backbone_cases", lambda **options: {"doubling": case})
    return Fresh


@pytest.mark.usefixtures("doubling")
def test_a_net_that_lacks_a_precision_keeps_its_row_with_the_reason() -> None:
    report = measure_backbones(TINY)
    full, brain, half = report.rows
    assert full.rate is not None
    assert brain.rate is None
    assert brain.reason == '"doubling" not implemented for BFloat16'
    assert half.rate is not None
    assert half.cosine is None
    assert half.notes == ("some values are not finite",)
    assert 'does not run: "doubling" not implemented' in report.format_table()
    runs = {f.name: f.value for f in report.figures() if f.name.endswith("runs")}
    assert runs == {
        "doubling, fp32, runs": 1,
        "doubling, bf16, runs": 0,
        "doubling, fp16, runs": 1,
    }


def test_a_batch_that_does_not_fit_is_halved_until_it_does(doubling: type[Doubling]) -> None:
    doubling.limit = 3
    (row,) = measure_backbones(replace(TINY, precisions=("fp32",))).rows
    assert row.batch == 2
    assert row.rate is not None
    assert row.notes == ("a batch of 16 did not fit into memory, 2 did",)


def test_a_net_that_never_fits_says_so(doubling: type[Doubling]) -> None:
    doubling.limit = 0
    (row,) = measure_backbones(replace(TINY, precisions=("fp32",))).rows
    assert (row.batch, row.rate) == (1, None)
    assert row.reason.startswith("out of memory")
    assert any("nothing to compare with" in note for note in row.notes)


def test_a_failed_net_is_gone_before_the_next_one_is_made(
    doubling: type[Doubling], monkeypatch: pytest.MonkeyPatch
) -> None:
    doubling.limit = 3
    alive: list[int] = []
    nets: list[weakref.ref[nn.Module]] = []
    make = BackboneCase.make

    def watched(case: BackboneCase, device: torch.device, **options: int) -> nn.Module:
        alive.append(sum(ref() is not None for ref in nets))
        net = make(case, device, **options)
        nets.append(weakref.ref(net))
        return net

    gc.disable()  # what is left to it may be there for long
    try:
        monkeypatch.setattr(BackboneCase, "make", watched)
        monkeypatch.setattr(gc, "collect", lambda: 0)
        measure_backbones(replace(TINY, precisions=("fp32",)))
    finally:
        gc.enable()
    assert alive == [0] * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ("i3d",)}, "unknown backbone 'i3d'"),
        ({"precisions": ("fp8",)}, "unknown precision 'fp8'"),
        ({"precisions": ()}, "no precision"),
        ({"batch": 0}, "a batch of 0 rows"),
        ({"windows": 1}, "1 different windows"),
        ({"device": torch.device("meta")}, "cannot time the device meta"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(TINY, **changes)


def test_float32_that_is_coarser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < check_float32(CPU) < 5e-6
    product = torch.Tensor.__matmul__

    def like_tf32(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype != FLOAT32:
            return product(a, b)
        return product(*((x.view(torch.int32) & ~0x1FFF).view(FLOAT32) for x in (a, b)))

    monkeypatch.setattr(torch.Tensor, "__matmul__", like_tf32)
    with pytest.raises(EnvironmentFault, match="that is TF32") as fault:
        check_float32(CPU)
    assert "NVIDIA_TF32_OVERRIDE" in str(fault.value.hint)


def test_the_settings_of_the_process_come_back() -> None:
    before = torch.get_float32_matmul_precision()
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision("high")
    try:
        with arithmetic_of_extraction(autotune=True):
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.cudnn.benchmark
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == flags
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_product_that_does_not_run_leaves_the_share_out(
    monkeypatch: pytest.MonkeyPatch, doubling: type[Doubling]
) -> None:
    def refuse(*args: object) -> float:
        raise RuntimeError("no product here")

    monkeypatch.setattr(matrix_rate, "_rate", refuse)
    report = measure_backbones(replace(TINY, precisions=("fp32",)))
    assert report.rates == (MatrixRate("fp32", None, reason="no product here"),)
    assert report.rows[0].share is None
    assert "no product here" in report.format_table()
    assert not any("share" in figure.name for figure in report.figures())


# --- what it says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "has_target", "words"),
    [
        (0.45, True, "reached (45.0 %)"),
        (0.4499, True, "not reached (45.0 %)"),
        (0.2, True, "not reached (20.0 %)"),
        (None, True, "not measured"),
        (0.9, False, "not judged here"),
    ],
)
def test_the_target_is_judged(share: float | None, has_target: bool, words: str) -> None:
    rate = None if share is None else 100 * share
    row = BackboneRow("onepeace-video", "bf16", 4, flops=10**12, rate=rate, matrix_rate=1e14)
    other = replace(row, precision="fp16", rate=99.0)
    report = BackboneReport("", "", "", (), (other, row), has_target=has_target)
    verdict = report.format_target().split(": ", 1)[1]
    assert verdict == words or verdict.endswith(words)
    assert verdict.startswith("not reached") == words.startswith("not reached")


def test_every_line_is_told_as_soon_as_it_is_known() -> None:
    told: list[str] = []
    task = replace(TINY, only=("onepeace-audio",), precisions=("fp32", "bf16"))
    report = measure_backbones(task, tell=told.append)
    assert told == [report.format_head(), *(row.format_line() for row in report.rows)]


def test_the_command_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "backbones.json"
    words = "bench backbones --device cpu --tiny --only onepeace-audio --precision fp32 --windows 2"
    assert main([*words.split(), "--seconds", "0", "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert "onepeace-audio" in printed.out
    assert "not judged here" in printed.out
    assert "onepeace-audio" in printed.err  # as it went
    record = read_record(path)
    figures = {figure.name: figure for figure in record.figures}
    assert figures["onepeace-audio, fp32, cosine to fp32"].value == pytest.approx(1, abs=1e-6)
    assert figures["onepeace-audio, fp32, rate"].unit == "windows/s"
    share = figures["onepeace-audio, fp32, share of the matrix rate"].value
    rate = figures["onepeace-audio, fp32, rate"].value
    flops = figures["onepeace-audio, fp32, operations"].value * 1e9
    product = figures["matrix product, fp32"].value * 1e12
    assert share == pytest.approx(flops * rate / product)
    assert json.loads(path.read_text())["task"]["only"] == ["onepeace-audio"]


def test_the_command_refuses_a_name_that_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "backbones", "--device", "cpu", "--only", "i3d-flow"]) == 2
    assert "i3d-rgb" in capsys.readouterr().err

"""Speed of the backbones' nets in float32, bfloat16 and float16, and how near they stay to float32.

Measured is a net of released size with random weights (`workflows.bench.backbone_nets`) on inputs
that already lie on the device: what is done to them there is part of it, reading, scaling and
copying them is not (`workflows.bench.speed`). Operations are counted by definition, and their rate
is held against what the same device reaches in a plain product of matrices in the same precision.

Half precision is measured, not offered, for three of the five: extraction with I3D, RAFT and VGGish
runs in float32, and here weights and inputs are simply cast. What to expect of that:

* RAFT keeps places in pixels of its maps, up to 57, and looks up correlations there. bfloat16 has 8
  bits for a place: beyond 32 it moves in steps of a quarter of such a pixel, two of the picture.
* The flow that I3D sees is rounded to steps of 0.157 pixels: any error of RAFT moves some values by
  a whole step.
* ONE-PEACE in half precision is a backbone of its own name (``onepeace-bf16``), computed as here.

Figures of RAFT are for pairs of neighbouring frames. On windows of 16 frames every 4 frames, a
window has 4 pairs that no window before it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from extractors.out_of_memory import is_out_of_memory, release
from pipeline.core.errors import UsageError
from workflows.bench.backbone_nets import BackboneCase, backbone_cases
from workflows.bench.backbone_report import BackboneReport, BackboneRow
from workflows.bench.machine import machine_line
from workflows.bench.matrix_rate import (
    TYPES,
    arithmetic_of_extraction,
    check_float32,
    first_line,
    measure_matrix_rate,
    time_passes,
)
from workflows.bench.stopwatch import load_line, peak_bytes

WARM_UP = 2  # passes on a GPU: kernels are loaded or tried, memory is reserved
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True, slots=True)
class BackboneTask:
    """What is measured, and how.

    Attributes:
        device: Where.
        only: Names of `workflows.bench.backbone_nets.backbone_cases`; all when empty.
        precisions: Keys of `workflows.bench.matrix_rate.TYPES`.
        batch: Rows at once; None takes as many as extraction does.
        windows: Different rows, over which embeddings are compared; a batch repeats them.
        seconds: To spend on each timing.
        tiny: Small nets and inputs.
        autotune: cuDNN tries its kernels instead of taking those that always give the same bits.
        channels_last: Weights of all convolutional nets lie with the channels last, not only those
            where extraction has them so.
    """

    device: torch.device
    only: tuple[str, ...] = ()
    precisions: tuple[str, ...] = tuple(TYPES)
    batch: int | None = None
    windows: int = 8
    seconds: float = 3.0
    tiny: bool = False
    autotune: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.device.type not in ("cpu", "cuda"):
            raise UsageError(
                f"this benchmark cannot time the device {self.device}", hint="use cpu or cuda"
            )
        _refuse_unknown("backbone", self.only, backbone_cases())
        _refuse_unknown("precision", self.precisions, TYPES)
        if not self.precisions:
            raise UsageError("no precision is given", hint=f"take some of {', '.join(TYPES)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"a batch of {self.batch} rows", hint="take 1 or more")
        if self.windows < 2:
            raise UsageError(
                f"{self.windows} different windows cannot be told apart", hint="take 2 or more"
            )


def measure_backbones(
    task: BackboneTask, *, tell: Callable[[str], None] = lambda line: None
) -> BackboneReport:
    """Measure every asked net in every asked precision.

    A net that does not run in a precision keeps its row, with the reason. Where memory does not
    suffice, the batch is halved until it does.

    Args:
        task: What to measure.
        tell: Gets each line of the table as soon as it is known: a run may be cut short.

    Raises:
        EnvironmentFault: float32 is not float32 on this device.
    """
    cases = backbone_cases(tiny=task.tiny)
    device = task.device
    with arithmetic_of_extraction(autotune=task.autotune):
        error = check_float32(device)
        rates = {
            precision: measure_matrix_rate(
                precision, device=device, seconds=task.seconds / 3, tiny=task.tiny
            )
            for precision in task.precisions
        }
        report = BackboneReport(
            f"{machine_line()}, {load_line()}",
            _device_line(device),
            _settings_line(task, error),
            tuple(rates.values()),
            (),
            has_target=device.type == "cuda" and not task.tiny,
        )
        tell(report.format_head())
        rows: list[BackboneRow] = []
        for name in task.only or cases:
            for row in _measure_case(cases[name], task):
                rows.append(row.against(rates[row.precision]))
                tell(rows[-1].format_line())
    return report.with_rows(rows)


class Kernels(TorchDispatchMode):
    """Notes which operators of attention a net calls; a plain product is none.

    Attributes:
        attention: Their names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operator as if nobody looked."""
        name = str(func)
        if "attention" in name:
            kernel = name.removeprefix("aten.").removesuffix(".default")
            self.attention.add(kernel.removeprefix("_scaled_dot_product_"))
        return func(*args, **(kwargs or {}))


def embeddings_of(
    case: BackboneCase, net: nn.Module, rows: Tensor, *, dtype: torch.dtype, batch: int
) -> Tensor:
    """What a net answers to each row: (N, values) float64 on the CPU."""
    answers = [
        net(*case.prepare(part, dtype)).double().flatten(1).cpu() for part in rows.split(batch)
    ]
    return torch.cat(answers)


def likeness(found: Tensor, exact: Tensor) -> tuple[float, float] | None:
    """Cosine of the worst window, plain and without what all windows have in common.

    Random nets answer half alike to everything. What is common, the mean of ``exact``, hides in the
    plain cosine how far apart two windows still are.

    Args:
        found: (N, values) in some precision, N of 2 or more.
        exact: Those in float32.

    Returns:
        Both, or None where a value is not finite.
    """
    if not (found.isfinite().all() and exact.isfinite().all()):
        return None
    common = exact.mean(dim=0)
    plain = F.cosine_similarity(found, exact)
    centred = F.cosine_similarity(found - common, exact - common)
    return float(plain.min()), float(centred.min())


def _measure_case(case: BackboneCase, task: BackboneTask) -> list[BackboneRow]:
    drawn = case.draw(task.windows)
    flops = case.flops()
    exact, reason = _exact(case, drawn, task)
    rows = []
    for precision in task.precisions:
        row, batch = None, task.batch or case.rows["cpu" if task.device.type == "cpu" else "cuda"]
        asked = batch
        while row is None:
            row = _try(case, precision, batch, drawn, exact, task)
            batch = max(1, batch // 2)
        notes = list(row.notes)
        if row.batch < asked:
            notes.append(f"a batch of {asked} did not fit into memory, {row.batch} did")
        if exact is None:
            notes.append(f"nothing to compare with, float32 does not run: {reason}")
        rows.append(row.with_facts(title=case.title, unit=case.unit, flops=flops, notes=notes))
    return rows


def _exact(case: BackboneCase, drawn: Tensor, task: BackboneTask) -> tuple[Tensor | None, str]:
    """Embeddings in float32, row by row; or why there are none."""
    try:
        net = _place(case, task)
        rows = drawn.to(task.device)
        return embeddings_of(case, net, rows, dtype=torch.float32, batch=1), ""
    except RuntimeError as error:
        return None, first_line(error)
    finally:
        release(task.device)


def _try(
    case: BackboneCase,
    precision: str,
    batch: int,
    drawn: Tensor,
    exact: Tensor | None,
    task: BackboneTask,
) -> BackboneRow | None:
    """One measurement; None where memory did not suffice and a smaller batch is left."""
    try:
        return _measure(case, precision, batch, drawn, exact, task)
    except RuntimeError as error:
        if batch > 1 and is_out_of_memory(error):
            return None
        return BackboneRow(case.name, precision, batch, reason=first_line(error))
    finally:
        release(task.device)  # behind the handler, which keeps the failed net alive


def _measure(
    case: BackboneCase,
    precision: str,
    batch: int,
    drawn: Tensor,
    exact: Tensor | None,
    task: BackboneTask,
) -> BackboneRow:
    device, dtype = task.device, TYPES[precision]
    net = _place(case, task).to(dtype)
    rows = drawn.to(device)
    repeated = rows.repeat(-(-batch // len(rows)), *[1] * (rows.ndim - 1))[:batch].contiguous()

    def step() -> Tensor:
        answer: Tensor = net(*case.prepare(repeated, dtype))
        return answer

    for _ in range(WARM_UP if device.type == "cuda" else 1):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = time_passes(step, device=device, seconds=task.seconds)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
    found = embeddings_of(case, net, rows, dtype=dtype, batch=batch)
    alike = likeness(found, exact) if exact is not None else None
    notes = [] if found.isfinite().all() else ["some values are not finite"]
    kernels = _attention_kernels(case, net, rows[:1], dtype)
    if kernels:
        notes.append(f"attention by {', '.join(sorted(kernels))}")
    return BackboneRow(
        case.name,
        precision,
        batch,
        rate=batch / seconds,
        peak=peak,
        cosine=alike[0] if alike else None,
        centred=alike[1] if alike else None,
        notes=tuple(notes),
    )


def _place(case: BackboneCase, task: BackboneTask) -> nn.Module:
    """The net in float32 on the device, its weights in the order that was asked for."""
    net = case.make(task.device)
    wanted = task.channels_last or task.device.type in case.channels_last
    if case.directions and wanted:
        net = net.to(memory_format=FORMATS[case.directions])  # type: ignore[call-overload]
    return net


def _attention_kernels(
    case: BackboneCase, net: nn.Module, row: Tensor, dtype: torch.dtype
) -> set[str]:
    if case.directions:
        return set()
    # Out of inference mode, where attention would come as one operator that hides its kernel.
    with torch.inference_mode(False), torch.no_grad(), Kernels() as seen:
        net(*case.prepare(row.clone(), dtype))
    return seen.attention


def _device_line(device: torch.device) -> str:
    if device.type != "cuda":
        return f"on the {device.type.upper()}; memory is the peak of the process so far"
    facts = torch.cuda.get_device_properties(device)
    return (
        f"on {facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}; memory is what tensors took at once"
    )


def _settings_line(task: BackboneTask, error: float) -> str:
    kernels = "the fastest that it finds" if task.autotune else "those that repeat their bits"
    half = torch.backends.cuda.matmul
    reduced = [
        name
        for name, allowed in (
            ("bf16", half.allow_bf16_reduced_precision_reduction),
            ("fp16", half.allow_fp16_reduced_precision_reduction),
        )
        if allowed
    ]
    return (
        f"no TF32: products in fp32 have an error of {error:.0e}; cuDNN takes {kernels}; partial "
        f"sums in half precision allowed for {' and '.join(reduced) or 'none'}; "
        f"{task.windows} different windows, {task.seconds:g} s a timing"
    )


def _refuse_unknown(what: str, asked: Sequence[str], known: Mapping[str, object]) -> None:
    for name in asked:
        if name not in known:
            raise UsageError(
                f"unknown {what} {name!r} for this benchmark", hint=f"take {', '.join(known)}"
            )

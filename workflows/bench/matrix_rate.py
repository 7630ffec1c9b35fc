"""How fast a device multiplies matrices, and whether its float32 is float32.

The rate is the ceiling for nets: what a library's plain product of two square matrices of random
values reaches on this very device, not what a datasheet promises.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import EnvironmentFault

# As `pipeline ... --precision` names them.
TYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
SIDES = MappingProxyType({"cuda": (4096, 8192, 16384), "cpu": (512, 1024)})
TINY_SIDES = (128, 256)
LEAST_PASSES, MOST_PASSES = 3, 2000
# Of one product: float32 has about 1e-6, the 10 bits of TF32 give 3e-4.
LARGEST_ERROR = 5e-5


@dataclass(frozen=True, slots=True)
class MatrixRate:
    """The fastest product in one precision.

    Attributes:
        precision: A key of `TYPES`.
        rate: Floating-point operations a second, 2 for a multiply-add; None where none ran.
        side: Rows and columns of those matrices.
        reason: Why none ran, else empty.
    """

    precision: str
    rate: float | None
    side: int = 0
    reason: str = ""


@contextmanager
def arithmetic_of_extraction(*, autotune: bool = False) -> Iterator[None]:
    """Settings under which extractors run nets, see `extractors.runner.Runner`.

    float32 is float32 in products and in convolutions, and cuDNN takes only kernels that give the
    same bits every time.

    Args:
        autotune: Let cuDNN try its kernels and take the fastest, whichever it is.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=autotune, deterministic=not autotune, allow_tf32=False
            ),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_float32(device: torch.device) -> float:
    """Error of a product and of a convolution in float32, relative to float64.

    Environment variables can have TF32 used whatever a program asks for.

    Returns:
        The larger error.

    Raises:
        EnvironmentFault: The arithmetic is coarser than float32.
    """
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(512, 512, device=device, generator=generator) for _ in "ab")
    maps = torch.randn(2, 64, 32, 32, device=device, generator=generator)
    kernel = torch.randn(64, 64, 3, 3, device=device, generator=generator)
    error = max(
        _difference(a @ b, a.double() @ b.double()),
        _difference(F.conv2d(maps, kernel), F.conv2d(maps.double(), kernel.double())),
    )
    if error > LARGEST_ERROR:
        raise EnvironmentFault(
            f"products in float32 have a relative error of {error:.1e} on {device}, above "
            f"{LARGEST_ERROR:.0e}: that is TF32",
            hint="unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        )
    return error


def measure_matrix_rate(
    precision: str, *, device: torch.device, seconds: float, tiny: bool = False
) -> MatrixRate:
    """Time products of square matrices of a few sizes; the fastest counts.

    Args:
        precision: A key of `TYPES`.
        device: Where to multiply.
        seconds: To spend on each size.
        tiny: Take small matrices, for a look at whether everything runs.
    """
    sides = TINY_SIDES if tiny else SIDES["cpu" if device.type == "cpu" else "cuda"]
    best, reason = MatrixRate(precision, None), ""
    for side in sides:
        try:
            rate = _rate(side, TYPES[precision], device, seconds)
        except RuntimeError as error:  # a type that the device lacks, or too little memory
            reason = first_line(error)
            continue
        if best.rate is None or rate > best.rate:
            best = MatrixRate(precision, rate, side)
    return best if best.rate is not None else MatrixRate(precision, None, reason=reason)


def time_passes(step: Callable[[], object], *, device: torch.device, seconds: float) -> float:
    """Seconds of one pass: the median of as many as fit into a time, but 3 on a GPU.

    On a GPU the passes stand in its queue behind each other, as in extraction, and the times are
    those of its own events. Warming up is the caller's.
    """
    if device.type != "cuda":
        return _time_by_clock(step, device, seconds)
    first = _time_by_clock(step, device, 0.0)
    passes = min(max(round(seconds / max(first, 1e-6)), LEAST_PASSES), MOST_PASSES)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(passes + 1)]
    with torch.cuda.device(device):
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize(device)
    spans = [start.elapsed_time(end) / 1000 for start, end in pairwise(events)]
    return statistics.median(spans)


def first_line(error: BaseException) -> str:
    """What an error of torch says, without the trace that may follow."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _time_by_clock(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    times: list[float] = []
    while not times or sum(times) < seconds:
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(side: int, dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    # Random values: on zeros a device may draw less power and run faster.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in "ab")
    product = torch.empty(side, side, device=device, dtype=dtype)
    for _ in range(LEAST_PASSES if device.type == "cuda" else 1):
        torch.mm(a, b, out=product)
    taken = time_passes(lambda: torch.mm(a, b, out=product), device=device, seconds=seconds)
    return 2 * side**3 / taken


def _difference(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())

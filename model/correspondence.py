"""Local correspondence (LCC): picture and sound of one moment, and of near ones, belong together.

Shapes: B videos, T steps, N valid steps of the batch, C channels, E = C / 2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.embedding import own_lengths
from model.layers import zero_biases

VARIANTS = ("diagonal", "softened", "fixed", "learnable")
TARGETS = ("raw", "normalised")
SCOPES = ("video", "batch")
DIRECTIONS = ("mean", "sum")
UNITS = ("steps", "video")
LEAST_SIGMA = 0.3  # steps; below it the Gaussian falls between the steps
FEW_STEPS = 1024  # of a batch, whose 4 MB of logits are kept for the gradient
TEMPERATURES = (0.001, 0.5)  # ALBEF's limits


class Correspondence(nn.Module):
    """Soft-target contrastive loss between the two streams (LoCo, Eqs 2-5; reconstructed).

    The target of a pair of steps of one video is a Gaussian of their distance to the diagonal,
    |i - j| / sqrt(2); pairs of different videos have target 0. Padded steps enter neither rows
    nor columns.

    As the targets are nonzero within a video only, the cross-entropy
    sum_j y_ij (lse_i - l_ij) needs all N × N logits for the log-sum-exp alone, and that is taken in
    blocks whose logits are made again for the gradient, but where they are few.

    Args:
        channels: C of the streams.
        variant: ``diagonal`` one-hot, ``softened`` label smoothing, ``fixed`` or ``learnable``
            deviation of the Gaussian.
        sigma: Initial deviation.
        max_steps: Longest video; the deviation stays within [least_sigma, max_steps / 8] steps.
        targets: ``raw`` or ``normalised`` (rows that sum to 1). Raw rows sum to about sqrt(2), less
            at the ends of a video.
        smoothing: Mass that ``softened`` takes from the diagonal.
        scope: Where ``softened`` spreads it: over the other steps of the ``video`` or of the
            whole ``batch``.
        directions: ``mean`` or ``sum`` of picture to sound and sound to picture.
        temperature: Initial temperature; clamped to [0.001, 0.5].
        sigma_unit: Of deviation and distance: ``steps``, or ``video``, shares of the video's own
            length, so that long videos get wider targets. Raw rows then sum to sqrt(2) times that
            length, so that ``normalised`` ones suit it better. Limits are divided by ``max_steps``.
        least_sigma: Smallest deviation, in steps.
        block: Rows of logits that exist at once.
    """

    def __init__(
        self,
        channels: int,
        *,
        variant: str = "learnable",
        sigma: float = 1.0,
        max_steps: int = 256,
        targets: str = "raw",
        smoothing: float = 0.1,
        scope: str = "video",
        directions: str = "mean",
        temperature: float = 0.07,
        sigma_unit: str = "steps",
        least_sigma: float = LEAST_SIGMA,
        block: int = 4096,
    ) -> None:
        super().__init__()
        for value, known in (
            (variant, VARIANTS),
            (targets, TARGETS),
            (scope, SCOPES),
            (directions, DIRECTIONS),
            (sigma_unit, UNITS),
        ):
            if value not in known:
                raise ValueError(f"unknown choice {value!r} for LCC: use one of {known}")
        self.variant, self.targets = variant, targets
        self.smoothing, self.scope = smoothing, scope
        self.directions, self.block = directions, block
        self.sigma_unit = sigma_unit
        unit = 1 if sigma_unit == "steps" else max_steps
        self.log_sigma_limits = (
            math.log(least_sigma / unit),
            math.log(max(least_sigma, max_steps / 8) / unit),
        )
        self.project = nn.ModuleDict(
            {name: nn.Linear(channels, channels // 2) for name in ("vision", "audio")}
        )
        zero_biases(self.project)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)), variant == "learnable")
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def sigma(self) -> Tensor:
        """Deviation in its unit."""
        return self.log_sigma.clamp(*self.log_sigma_limits).exp()

    @torch.no_grad()
    def _clamp(self) -> None:
        """Move the parameters themselves: a clamp in the graph would hold them at the limit."""
        self.log_sigma.clamp_(*self.log_sigma_limits)
        self.temperature.clamp_(*TEMPERATURES)

    def forward(self, vision: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T) streams and the (B, T) mask of steps that both have; a scalar loss."""
        if self.training:
            self._clamp()
        count = mask.sum()
        if not count:
            return (vision.sum() + audio.sum()) * 0.0
        v = F.normalize(self.project["vision"](vision.transpose(1, 2)).float(), dim=-1)
        a = F.normalize(self.project["audio"](audio.transpose(1, 2)).float(), dim=-1)
        v, a = v * mask[..., None], a * mask[..., None]
        with torch.autocast(v.device.type, enabled=False):
            v = v / self.temperature  # here, where it is N × E values and not N × N
            inside = v @ a.transpose(1, 2)  # (B, T, T)
            # Distance is symmetric: row i has the same targets in both directions.
            target, mass = self._targets(mask)
            rows, columns = v[mask], a[mask]
            sums = self._log_sums(rows, columns)
            attracted = (target * inside).sum(2)[mask], (target * inside.mT).sum(2)[mask]
            if self.variant == "softened" and self.scope == "batch":
                share = self.smoothing / max(1, len(rows) - 1)
                others = rows @ columns.sum(0), columns @ rows.sum(0)
                attracted = attracted[0] + share * others[0], attracted[1] + share * others[1]
            # Cross-entropy of each row: to sound, then to picture.
            losses = [(mass * sums[way] - attracted[way]).mean() for way in (0, 1)]
        total = losses[0] + losses[1]
        return total / 2 if self.directions == "mean" else total

    def _log_sums(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Log-sum-exp of the logits, the products of all with all: of each row, of each column.

        Args:
            rows: (N, E), one of the two divided by the temperature.
            columns: (N, E).

        Returns:
            (N,) twice.
        """
        if len(rows) <= min(self.block, FEW_STEPS):
            logits = rows @ columns.T
            return logits.logsumexp(1), logits.logsumexp(0)
        return self._in_blocks(rows, columns), self._in_blocks(columns, rows)

    def _in_blocks(self, rows: Tensor, columns: Tensor) -> Tensor:
        return torch.cat(
            [
                checkpoint(_log_sum, part, columns, use_reentrant=False)
                for part in rows.split(self.block)
            ]
        )

    def _targets(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Targets within each video (B, T, T), and the mass of each valid row (N,)."""
        pair = mask[:, :, None] & mask[:, None, :]
        eye = torch.eye(mask.shape[1], device=mask.device)
        if self.variant == "diagonal":
            target = eye * pair
        elif self.variant == "softened":
            target = self._softened(eye, pair, mask)
        else:
            place = torch.arange(mask.shape[1], device=mask.device)
            distance = (place[:, None] - place).abs() / math.sqrt(2)
            if self.sigma_unit == "video":
                distance = distance / own_lengths(mask).clamp(min=1)[:, None, None]
            sigma = self.sigma()
            gauss = torch.exp(-(distance**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            target = gauss * pair
            if self.targets == "normalised":
                target = target / target.sum(2, keepdim=True).clamp(min=1e-12)
        mass = target.sum(2)[mask]
        if self.variant == "softened" and self.scope == "batch":
            mass = torch.ones_like(mass)
        return target, mass

    def _softened(self, eye: Tensor, pair: Tensor, mask: Tensor) -> Tensor:
        if self.scope == "batch":  # what every pair gets is added where the whole batch is seen
            share = self.smoothing / max(1, int(mask.sum()) - 1)
            return eye * pair * (1 - self.smoothing - share)
        others = (mask.sum(1) - 1).clamp(min=1)[:, None, None]
        return pair * torch.where(eye > 0, 1 - self.smoothing, self.smoothing / others)


def _log_sum(rows: Tensor, columns: Tensor) -> Tensor:
    """Log-sum-exp over the logits of each row; (N', E) and (N, E) in, (N',) out."""
    return (rows @ columns.T).logsumexp(1)

"""A network over a video of any length: pieces as the features come, and their answers joined.

A piece is looked at as soon as one step beyond it is known, then its front is forgotten, so memory
does not grow with the video. What is guaranteed, with O the steps that neighbouring pieces share:

- An event shorter than O is whole in one piece at least, and so is any other that does not fill a
  stretch that two pieces share. The piece in whose half of that stretch the middle of a detection
  lies answers for it, with some room on either side of the border: two pieces that see the middle
  a little apart would otherwise both leave it to the other. What both report is suppressed as
  within a piece.
- An event that fills a whole shared stretch is whole in neither piece. The two detections become
  one, from the start that the first saw to the end that the second saw; over as many pieces as it
  fills.

Without overlap an event across a border is cut in two.

Shapes: T steps, n steps of a block, K classes, M detections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from model.arithmetic import full_float32
from model.decoding import DecodingSettings, Detected, candidates, piece_hop, suppress
from model.loco import LoCo, Prediction
from model.pieces import Pieces
from model.softnms import interval_iou

SLACK = 1 / 8  # of the shared stretch: how exactly an event must fill it, and twice the room
SAME_EVENT = 0.5  # two parts of one event: the weaker score over the stronger one, at least

Watch = Callable[[int, Prediction], None]


@dataclass(slots=True)
class Piece:
    """Detections of one piece.

    Attributes:
        start: Its first step.
        end: Step after its last one.
        found: Its detections on the CPU; places in steps of the sequence, in double precision.
    """

    start: int
    end: int
    found: Detected


class SequenceDetector:
    """Detections of one video whose features come block by block.

    The result does not depend on how the features are cut into blocks.

    Args:
        model: In eval mode.
        settings: Of decoding.
        watch: Is handed the first step of each piece and what the network says of it.
    """

    def __init__(
        self, model: LoCo, *, settings: DecodingSettings | None = None, watch: Watch | None = None
    ) -> None:
        self._model = model
        self._settings = settings or DecodingSettings()
        self._watch = watch
        hop = piece_hop(self._settings, alignment=model.alignment)
        self._buffer = Pieces(chunk=self._settings.chunk, hop=hop, look=self._look)
        self._pieces: list[Piece] = []

    @torch.inference_mode()
    def add(self, vision: Tensor, audio: Tensor, vision_mask: Tensor, audio_mask: Tensor) -> None:
        """Take the next consecutive steps.

        Args:
            vision: (Cv, n); on any device, the pieces are moved to the model's.
            audio: (Ca, n).
            vision_mask: (n,).
            audio_mask: (n,).
        """
        self._buffer.add(vision, audio, vision_mask, audio_mask)

    @torch.inference_mode()
    def finish(self) -> Detected:
        """Detections of the whole sequence on the CPU, their places in double precision.

        Raises:
            ValueError: The sequence has no step.
        """
        self._buffer.finish()
        return join_pieces(self._pieces, self._settings)

    @full_float32()
    def _look(self, start: int, inputs: tuple[Tensor, ...]) -> None:
        """Detections of one piece."""
        device = next(self._model.parameters()).device
        prediction = self._model(*(x.to(device)[None] for x in inputs))
        if self._watch is not None:
            self._watch(start, prediction)
        found = suppress(candidates(prediction, 0, self._settings), self._settings)
        # In float32 places would be 1/32 step apart after 20 hours of the default grid.
        places = found.segments.cpu().double() + start
        found = Detected(places, found.scores.cpu(), found.labels.cpu())
        self._pieces.append(Piece(start, start + inputs[0].shape[-1], found))


def join_pieces(pieces: Sequence[Piece], settings: DecodingSettings) -> Detected:
    """Detections of the whole sequence, best first.

    Args:
        pieces: In order, at least one; each but the last reaches into the next. Left as they are.
        settings: Of decoding.
    """
    neighbours = zip(pieces, [None, *pieces[:-1]], [*pieces[1:], None], strict=True)
    pieces = [Piece(piece.start, piece.end, _own(piece, *two)) for piece, *two in neighbours]
    for one, two in reversed(list(pairwise(pieces))):
        _connect(one, two)
    for one, two in pairwise(pieces):
        _suppress_across(one, two, settings)
    parts = [(piece.found.segments, piece.found.scores, piece.found.labels) for piece in pieces]
    found = Detected(*(torch.cat(part) for part in zip(*parts, strict=True)))
    return _take(found, found.scores.argsort(descending=True, stable=True))


def _own(piece: Piece, before: Piece | None, after: Piece | None) -> Detected:
    """What a piece answers for: detections whose middle is in its half of what it shares."""
    segments = piece.found.segments
    # Past its own borders a piece knows nothing.
    middle = segments.clamp(piece.start, piece.end).mean(-1)
    length = segments[:, 1] - segments[:, 0]
    mine = torch.ones_like(middle, dtype=torch.bool)
    if before is not None:
        mine &= middle > _border(before, piece) - _room(before, piece, length)
    if after is not None:
        mine &= middle < _border(piece, after) + _room(piece, after, length)
    return _take(piece.found, mine)


def _border(one: Piece, two: Piece) -> float:
    """Middle of what two pieces share."""
    return (two.start + one.end) / 2


def _room(one: Piece, two: Piece, length: Tensor) -> Tensor:
    """How far beyond the border a piece still answers for detections of some lengths (M,).

    So little that what fills no shared stretch, but reaches out of the piece, is not among them;
    and less than half of what a piece answers for, so that only neighbours report the same.
    """
    most = min((one.end - two.start) * SLACK / 2, (two.start - one.start) / 4)
    return (length * SLACK).clamp(max=most)


def _connect(one: Piece, two: Piece) -> None:
    """Make one detection of the two parts of an event that fills what two pieces share."""
    low, high = two.start, one.end
    fills = [_fills(piece.found, low, high) for piece in (one, two)]
    kept = [torch.ones_like(mask) for mask in fills]
    segments, scores = one.found.segments.clone(), one.found.scores.clone()
    for label in one.found.labels[fills[0]].unique().tolist():
        head = fills[0] & (one.found.labels == label)
        tail = fills[1] & (two.found.labels == label)
        if not tail.any():
            continue
        first, second = _best(one.found, head), _best(two.found, tail)
        weak, strong = sorted((float(scores[first]), float(two.found.scores[second])))
        if weak < SAME_EVENT * strong:
            continue
        kept[0][head], kept[1][tail] = False, False
        kept[0][first] = True
        segments[first, 1] = two.found.segments[second, 1]
        scores[first] = strong
    one.found = _take(Detected(segments, scores, one.found.labels), kept[0])
    two.found = _take(two.found, kept[1])


def _fills(found: Detected, low: int, high: int) -> Tensor:
    """(M,) whether a detection fills the steps from ``low`` to ``high``, which are some."""
    slack = SLACK * (high - low)
    starts, ends = found.segments.unbind(-1)
    return (starts <= low + slack) & (ends >= high - slack) & (high > low)


def _best(found: Detected, among: Tensor) -> int:
    """Index of the best detection of those that ``among`` (M,) names."""
    return int(torch.where(among, found.scores, -1.0).argmax())


def _suppress_across(one: Piece, two: Piece, settings: DecodingSettings) -> None:
    """Soft-NMS between two pieces, each of which has gone through its own."""
    iou = interval_iou(one.found.segments[:, None], two.found.segments[None])
    iou = iou * (one.found.labels[:, None] == two.found.labels[None])
    weaker = one.found.scores[:, None] < two.found.scores[None]
    for piece, overlap in ((one, (iou * weaker).T), (two, iou * ~weaker)):
        worst = torch.cat([overlap, overlap.new_zeros(1, overlap.shape[1])]).amax(0)
        scores = piece.found.scores * torch.exp(-(worst**2) / settings.sigma)
        found = Detected(piece.found.segments, scores, piece.found.labels)
        piece.found = _take(found, (scores >= settings.min_score) | (worst == 0))


def _take(found: Detected, index: Tensor) -> Detected:
    return Detected(found.segments[index], found.scores[index], found.labels[index])

"""Where weights can be fetched, beyond what their descriptions say.

A description's ``source`` goes into the digest of features, so it never changes; addresses do. An
address is only where one looks: what comes from it is compared with the published hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import quote, urlsplit

from extractors.spec import WeightsFile

SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Address:
    """One place to fetch a file from.

    Attributes:
        url: What is asked for.
        member: File name inside the zip archive that comes; "" where the file itself comes.
        official: Whether those who published the file name this address.
    """

    url: str
    member: str = ""
    official: bool = True


_DEEPMIND = "https://github.com/google-deepmind/kinetics-i3d/raw/master/data/checkpoints"

# By file name, where the source is not itself the address of the file.
_ADDRESSES: Mapping[str, tuple[Address, ...]] = MappingProxyType(
    {
        # Both checkpoints of TensorFlow have the same names there, in folders of their own.
        **{
            f"kinetics-i3d-{kind}.ckpt.{part}": (
                Address(f"{_DEEPMIND}/{kind}_imagenet/model.ckpt.{part}"),
            )
            for kind in ("rgb", "flow")
            for part in ("data-00000-of-00001", "index")
        },
        # Its publishers name the same host with http; nothing is fetched without a secure line.
        "one-peace.pt": (
            Address("https://one-peace-shanghai.oss-accelerate.aliyuncs.com/one-peace.pt"),
        ),
        # RAFT's own archive, then the copy that the public extractor of I3D keeps beside its code.
        "raft-sintel.pth": (
            Address(
                "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
                member="raft-sintel.pth",
            ),
            Address(
                "https://github.com/v-iashin/video_features/raw/master/models/raft/checkpoints/"
                "raft-sintel.pth",
                official=False,
            ),
        ),
    }
)


def has_full_hash(weights: WeightsFile) -> bool:
    """Whether a hash is known that nobody can match with another file."""
    return len(weights.sha256) == SHA256_DIGITS or bool(weights.git_blob)


def addresses_of(weights: WeightsFile, *, mirrors: Sequence[str] = ()) -> tuple[Address, ...]:
    """Where a file can be fetched, in the order in which to try.

    A file without a full hash is fetched from official addresses only: whatever else came could
    not be told from the right one.

    Args:
        weights: The file; with the hash that the user gave, where one was given.
        mirrors: Addresses of folders that hold copies; they come first.
    """
    known = _ADDRESSES.get(weights.file, ())
    if not known and _is_address_of(weights.source, weights.file):
        known = (Address(weights.source),)
    copies = (
        Address(f"{folder.rstrip('/')}/{quote(weights.file)}", official=False) for folder in mirrors
    )
    return tuple(place for place in (*copies, *known) if place.official or has_full_hash(weights))


def _is_address_of(source: str, file: str) -> bool:
    """Whether a source is the secure address of the file itself, not of a page about it."""
    parts = urlsplit(source)
    return parts.scheme == "https" and PurePosixPath(parts.path).name == file

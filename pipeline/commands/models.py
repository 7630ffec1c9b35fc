"""List, fetch and verify the weights of the backbones.

models                     every weights file: size, licence, where it is, who needs it
models fetch NAME ...      have these files, or those of these backbones, on this machine; goes on
                           where an earlier download broke off
models verify [NAME ...]   read them and compare them with what is published

Files are looked for in --weights-dir, in installed packages and in the cache (PIPELINE_CACHE), and
fetched into the cache, or into --weights-dir. A copy of the files can be served to machines without
internet: --mirror (or PIPELINE_MIRRORS) names the https address of its folder. What comes is
compared with the published hash; a file of which none is published comes from its publisher only,
or from a mirror with --sha256, which is written down beside the file and verified from then on.

Branches of ONE-PEACE's checkpoints are converted when they are first loaded; the converted files
are listed and verified, too, and are enough without the checkpoint, which is then fetched only
under its own name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import EnvironmentFault, PipelineError, UsageError

if TYPE_CHECKING:
    from extractors.catalogue import CatalogueEntry
    from extractors.spec import WeightsFile

NAME_HELP = "a backbone or a file of the list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    _add_common(parser, weights_dir=None, as_json=False)
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT")
    fetching = kinds.add_parser("fetch", help="have weights on this machine")
    fetching.add_argument("names", nargs="+", metavar="NAME", help=NAME_HELP)
    fetching.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="address of a folder of copies, tried first; repeat for several",
    )
    fetching.add_argument(
        "--sha256",
        default="",
        metavar="HASH",
        help="what the one file that is named must have, in full; lets a mirror serve a file of "
        "which no full hash is published",
    )
    fetching.add_argument(
        "--offline",
        action="store_true",
        help="only check or copy what is on this machine (or PIPELINE_OFFLINE=1)",
    )
    verifying = kinds.add_parser("verify", help="compare files with what is published")
    verifying.add_argument("names", nargs="*", metavar="NAME", help=NAME_HELP)
    for kind in (fetching, verifying):
        # Without defaults of its own, so that what stands before WHAT holds too.
        _add_common(kind, weights_dir=argparse.SUPPRESS, as_json=argparse.SUPPRESS)


def _add_common(parser: argparse.ArgumentParser, *, weights_dir: Any, as_json: Any) -> None:
    parser.add_argument(
        "--weights-dir",
        type=Path,
        default=weights_dir,
        help="folder that is looked into first, or fetched into",
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="one JSON array")


def execute(args: argparse.Namespace) -> int:
    """Do one of the things."""
    from extractors.catalogue import find_entries

    run = {None: _list, "fetch": _fetch, "verify": _verify}[args.kind]
    return run(args, find_entries(getattr(args, "names", ()), conversions=True))


def _list(args: argparse.Namespace, entries: Sequence[CatalogueEntry]) -> int:
    from extractors.naming import HOW_TO_CHOOSE, plain_names
    from extractors.weights.find import cache_folder, locate_weights

    places = [
        (entry, place)
        for entry in entries
        if (place := locate_weights(entry.weights, weights_dir=args.weights_dir)) is not None
        or not entry.conversion
    ]
    if args.json:
        rows = [
            {
                **entry.to_json(),
                "where": None if place is None else place[0],
                "path": None if place is None else str(place[1]),
            }
            for entry, place in places
        ]
        print(json.dumps(rows, indent=2))
        return 0
    table = [
        (
            entry.weights.file,
            _size(entry.weights, place and place[1]),
            entry.weights.licence,
            "missing" if place is None else place[0],
            ", ".join(plain_names(entry.backbones)) or "(an option)",
        )
        for entry, place in places
    ]
    print(_aligned([("file", "size", "licence", "where", "backbones"), *table]))
    print(HOW_TO_CHOOSE)
    print(f"cache: {cache_folder()}")
    return 0


def _fetch(args: argparse.Namespace, entries: Sequence[CatalogueEntry]) -> int:
    from extractors.onepeace.conversions import usable_conversion
    from extractors.weights.find import fetch_weights
    from extractors.weights.network import network

    _refuse_mirrors(args.mirror)
    entries = _published(args, entries)
    _refuse_hash(args.sha256, entries)

    def fetch(entry: CatalogueEntry) -> tuple[str, Path]:
        weights = entry.weights
        if weights.file not in args.names:
            converted = usable_conversion(entry.loaded, weights_dir=args.weights_dir)
            if converted is not None:
                return "not needed, what is loaded of it is converted already", converted
        path = fetch_weights(
            weights, weights_dir=args.weights_dir, copies=args.mirror, sha256=args.sha256
        )
        return "there", path

    with network(offline=args.offline or None):
        return _each(args, entries, fetch)


def _refuse_mirrors(mirrors: Sequence[str]) -> None:
    """Raise UsageError where a mirror has no secure address."""
    from extractors.weights.transfer import TransferRefusedError, refuse_open_line

    for mirror in mirrors:
        try:
            refuse_open_line(mirror)
        except TransferRefusedError as error:
            raise UsageError(f"--mirror {error}", hint="name the folder as https://...") from error


def _refuse_hash(sha256: str, entries: Sequence[CatalogueEntry]) -> None:
    """Raise UsageError where a hash that is given cannot be that of what is named."""
    from extractors.weights.check import expecting

    if sha256 and len(entries) > 1:
        files = ", ".join(entry.weights.file for entry in entries)
        raise UsageError(f"--sha256 is the hash of one file, not of {files}", hint="name one file")
    for entry in entries:
        expecting(entry.weights, sha256)


def _published(
    args: argparse.Namespace, entries: Sequence[CatalogueEntry]
) -> Sequence[CatalogueEntry]:
    """The files that can be fetched at all; one of the others must not be named."""
    for entry in entries:
        if entry.conversion and entry.weights.file in args.names:
            raise UsageError(
                f"{entry.weights.file} is not published anywhere: it is {entry.weights.source}",
                hint="fetch that; the first run that needs the other converts it",
            )
    return [entry for entry in entries if not entry.conversion]


def _verify(args: argparse.Namespace, entries: Sequence[CatalogueEntry]) -> int:
    from extractors.onepeace.conversions import are_converted
    from extractors.weights.find import locate_weights

    places = {
        entry.weights.file: locate_weights(entry.weights, weights_dir=args.weights_dir)
        for entry in entries
    }

    def is_asked(entry: CatalogueEntry) -> bool:
        """Nobody needs all files; of a backbone, what was converted is enough."""
        if places[entry.weights.file] is not None or entry.weights.file in args.names:
            return True
        converted = are_converted(entry.loaded, weights_dir=args.weights_dir)
        return bool(args.names) and not entry.conversion and not converted

    def verify(entry: CatalogueEntry) -> tuple[str, Path]:
        place = places[entry.weights.file]
        if place is None:
            hint = f"pipeline models fetch {entry.weights.file}"
            raise EnvironmentFault(
                f"{entry.weights.file} is not on this machine",
                hint=f"it is {entry.weights.source}" if entry.conversion else hint,
            )
        return _verdict(entry, place[1]), place[1]

    return _each(args, [entry for entry in entries if is_asked(entry)], verify)


def _verdict(entry: CatalogueEntry, path: Path) -> str:
    """What can be said of a file that is not a wrong one.

    Raises:
        EnvironmentFault: It is a wrong one.
    """
    from extractors.onepeace.conversions import verify_conversion
    from extractors.weights.check import describe_hash, read_record, verify_all

    if entry.conversion:
        return verify_conversion(path)
    weights = entry.weights
    found = verify_all(path, weights)
    record = read_record(path)
    given = "" if record is None or not record.given else f"SHA-256 {found}, as it was given"
    if weights.sha256 or weights.git_blob:
        return f"ok ({describe_hash(weights)}{f'; {given}' if given else ''})"
    if given:
        return f"ok ({given} when it was fetched; no hash is published)"
    since = "no record of its download" if record is None else f"as it came from {record.address}"
    return f"unknown (no hash is published; SHA-256 {found}, {since})"


def _each(args: argparse.Namespace, entries: Sequence[CatalogueEntry], do: Any) -> int:
    """Do something with each file; one that fails is reported, and the others still done."""
    rows: list[dict[str, str | None]] = []
    failed = 0
    for entry in entries:
        row: dict[str, str | None] = {"file": entry.weights.file, "error": None}
        try:
            verdict, path = do(entry)
            row |= {"verdict": verdict, "path": str(path)}
        except PipelineError as error:
            failed += 1
            row |= {"verdict": "failed", "path": None, "error": str(error)}
            if not args.json:
                print(f"pipeline: {error}", file=sys.stderr)
        else:
            if not args.json:
                print(f"{entry.weights.file}: {verdict}: {path}")
        rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=2))
    if failed == len(rows) and failed:
        return EnvironmentFault.exit_code
    return 1 if failed else 0


def _size(weights: WeightsFile, path: Path | None) -> str:
    """Size as published, else of what is here; in the units of downloads: 1 MB is 1,000,000 bytes.

    With ~ before it, it is an estimate.
    """
    here = path.stat().st_size if path is not None and path.exists() else 0
    count = weights.bytes or here or weights.about_bytes
    if not count:
        return "unknown"
    scale, unit = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{'' if weights.bytes or here else '~'}{count / scale:.1f} {unit}"


def _aligned(table: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)

"""Look after feature stores, and convert feature files of the field into them and back.

import FOLDER --layout L --out STORE   a folder of npy or npz files into a store; continues
export STORE --layout L --out FOLDER   the way back
show STORE [ID ...]                    what a store holds
verify STORE                           read everything and name what is damaged
repair STORE                           take damaged videos out; they must be made again
layouts                                the layouts that are known

A place of files is a path below FOLDER with {id} in it, for npz files with the key behind a colon:
--vision rgb/{id}.npy --vision flow/{id}.npy --audio {id}.npz:vggish. Features of no known release
(--layout npy or npz) need a grid: --fps, --window and --stride.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extractors.layouts.table import FoundVideos, Layout
    from extractors.spec import BackboneSpec
    from extractors.storage.store import FeatureStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    importing = kinds.add_parser("import", help="feature files into a store")
    importing.add_argument("folder", type=Path, metavar="FOLDER")
    importing.add_argument("--out", required=True, type=Path, help="folder of the store")
    add_layout_arguments(importing, required=True)
    importing.add_argument(
        "--annotations", type=Path, help="annotation file whose durations the lengths must fit"
    )
    importing.add_argument(
        "--cut-to-shorter",
        action="store_true",
        help="cut picture and sound to the shorter, as the public loaders do; by default both are "
        "kept, with masks",
    )
    importing.add_argument(
        "--mask-missing",
        action="store_true",
        help="take videos without picture or without sound, masked; by default they fail",
    )
    importing.add_argument(
        "--overwrite", action="store_true", help="import again what is in the store unchanged"
    )
    exporting = kinds.add_parser("export", help="a store into feature files")
    exporting.add_argument("store", type=Path, metavar="STORE")
    exporting.add_argument("--out", required=True, type=Path, help="folder of the files")
    _add_places(exporting, required=True)
    exporting.add_argument("--overwrite", action="store_true", help="replace files that differ")
    showing = kinds.add_parser("show", help="what a store holds")
    showing.add_argument("store", type=Path, metavar="STORE")
    showing.add_argument("ids", nargs="*", metavar="ID", help="videos to show one by one")
    for name, words in (("verify", "name what is damaged"), ("repair", "take out what is damaged")):
        kinds.add_parser(name, help=words).add_argument("store", type=Path, metavar="STORE")
    kinds.add_parser("layouts", help="the layouts that are known")
    for kind in kinds.choices.values():
        kind.add_argument("--json", action="store_true", help="the result as JSON")


def add_layout_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Arguments that say what lies where in a folder of feature files."""
    _add_places(parser, required=required)
    parser.add_argument(
        "--fps", type=_fraction, help="picture samples a second, as 25 or 30000/1001"
    )
    parser.add_argument("--window", type=int, help="picture samples of one step")
    parser.add_argument("--stride", type=int, help="picture samples from step to step")
    parser.add_argument("--name", default="features", help="what to call features of your own")
    parser.add_argument(
        "--length-slack",
        type=float,
        metavar="SECONDS",
        help="by how much a length may miss the duration; default: 1, for ActivityNet 2",
    )


def _add_places(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--layout", required=required, metavar="NAME", help="see layouts")
    for modality, what in (("vision", "picture"), ("audio", "sound")):
        parser.add_argument(
            f"--{modality}",
            action="append",
            default=[],
            metavar="PLACE",
            help=f"where the {what} arrays are, if not where the layout says; repeat for several",
        )


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; write 25 or 30000/1001") from None


def execute(args: argparse.Namespace) -> int:
    """Do one of the things."""
    run = {
        "import": _import,
        "export": _export,
        "show": _show,
        "verify": _verify,
        "repair": _repair,
        "layouts": _layouts,
    }[args.kind]
    return run(args)


def chosen_videos(args: argparse.Namespace, folder: Path) -> tuple[FoundVideos, BackboneSpec]:
    """The feature files of a folder, by the arguments of `add_layout_arguments`.

    Raises:
        UsageError: The arguments do not fit together.
        NothingMatchedError: There are no such files.
    """
    from extractors.imported import plain_grid
    from extractors.layouts.importing import with_widths
    from extractors.layouts.table import find_layout, find_videos
    from pipeline.core.errors import UsageError

    layout = find_layout(args.layout, vision=args.vision, audio=args.audio, slack=args.length_slack)
    given = {"--fps": args.fps, "--window": args.window, "--stride": args.stride}
    missing = [name for name, value in given.items() if value is None]
    if layout.spec is not None and len(missing) < len(given):
        raise UsageError(
            f"the layout {layout.name!r} has a grid of its own",
            hint="leave --fps, --window and --stride out, or take --layout npy or npz",
        )
    if layout.spec is None and missing:
        raise UsageError(
            f"the layout {layout.name!r} does not say when its steps are: {', '.join(missing)} "
            "missing",
            hint="for example --fps 16 --window 16 --stride 4",
        )
    found = find_videos(folder, layout)
    if layout.spec is not None:
        return found, layout.spec
    return with_widths(found, args.name, plain_grid(args.fps, args.window, args.stride))


def _import(args: argparse.Namespace) -> int:
    from extractors.layouts.importing import import_features
    from extractors.layouts.video import VideoReader
    from workflows.progress import Progress

    found, spec = chosen_videos(args, args.folder)
    reader = VideoReader(
        found,
        spec,
        lengths="shorter" if args.cut_to_shorter else "keep",
        missing="mask" if args.mask_missing else "error",
    )
    durations = None if args.annotations is None else _durations(args.annotations, found)
    with Progress(len(found.videos), what="importing") as bar:
        report = import_features(
            reader, args.out, durations=durations, overwrite=args.overwrite, progress=bar.advance
        )
    print(json.dumps(report.to_json(), indent=2) if args.json else report.format_table())
    return report.exit_code


def _durations(path: Path, found: FoundVideos) -> dict[str, float]:
    from pipeline.core.errors import NothingMatchedError
    from workflows.annotations import load_annotations
    from workflows.matching import match_ids

    videos = load_annotations(path, bad_rows="drop", segments="ignore").videos
    matched, _ = match_ids(found.videos, videos)
    if not matched:
        raise NothingMatchedError(
            f"none of the {len(found.videos)} videos in {found.folder} is in {path}",
            hint="ids must agree; a common prefix can stand in the place, as in v_{id}_rgb.npy",
        )
    durations = {id: videos[name].duration for id, name in matched.items()}
    return {id: seconds for id, seconds in durations.items() if seconds is not None}


def _export(args: argparse.Namespace) -> int:
    from extractors.layouts.exporting import export_features
    from extractors.layouts.table import find_layout
    from extractors.storage.store import FeatureStore
    from workflows.progress import Progress

    layout = find_layout(args.layout, vision=args.vision, audio=args.audio)
    store = FeatureStore.open(args.store)
    with Progress(len(store), what="exporting") as bar:
        report = export_features(
            store, layout, args.out, overwrite=args.overwrite, progress=bar.advance
        )
    print(json.dumps(report.to_json(), indent=2) if args.json else report.format_table())
    return report.exit_code


def _show(args: argparse.Namespace) -> int:
    from extractors.storage.store import FeatureStore

    store = FeatureStore.open(args.store)
    if args.ids:
        records = [store.record(id) for id in args.ids]
        if args.json:
            print(json.dumps([record.to_json() for record in records], indent=2))
        else:
            for record in records:
                print(render_video(record.id, record.summary.to_json()))
        return 0
    shown = describe(store)
    print(json.dumps(shown, indent=2) if args.json else render(shown))
    return 0


def describe(store: FeatureStore) -> dict[str, Any]:
    """What a store holds, as plain values; all records are read, no features."""
    from extractors.shapes import row_bytes

    summaries = [store.summary(id) for id in store.ids()]
    failed = store.ledger.latest("failed", "quarantined")
    steps = sum(entry.steps for entry in summaries)
    return {
        "path": str(store.path),
        "backbone": store.spec.to_json(),
        "digest": store.digest,
        "videos": len(summaries),
        "partial": sum(entry.status == "partial" for entry in summaries),
        "without_vision": sum("vision" not in entry.coverage for entry in summaries),
        "without_audio": sum("audio" not in entry.coverage for entry in summaries),
        "steps": steps,
        "seconds": sum(entry.duration for entry in summaries),
        "bytes": steps * row_bytes(store.spec),
        "failed": [
            {"id": id, "reason": failed[id].reason} for id in sorted(failed) if id not in store
        ],
    }


def render(shown: dict[str, Any]) -> str:
    """The same for people."""
    backbone, grid = shown["backbone"], shown["backbone"]["grid"]
    vision, audio = backbone["vision"], backbone["audio"]
    missing = [
        f"{shown[key]} {words}"
        for key, words in (
            ("partial", "partial"),
            ("without_vision", "without picture"),
            ("without_audio", "without sound"),
        )
        if shown[key]
    ]
    lines = [
        f"{shown['path']}",
        f"  backbone   {backbone['name']} (digest {shown['digest']})",
        f"  picture    {vision['name']}, {vision['dim']} values",
        f"  sound      {audio['name']}, {audio['dim']} values",
        f"  grid       {grid['fps']} fps, window {grid['window']}, stride {grid['stride']}",
        "  videos     " + ", ".join([f"{shown['videos']:,}", *missing]),
        f"  length     {shown['seconds'] / 3600:.2f} h, {shown['steps']:,} steps, "
        f"{shown['bytes'] / 1e6:,.1f} MB",
    ]
    failed = shown["failed"]
    lines += [f"  failed     {row['id']}: {row['reason']}" for row in failed[:20]]
    if len(failed) > 20:
        lines.append(f"  failed     ... and {len(failed) - 20} more (--json names all)")
    return "\n".join(lines)


def render_video(id: str, summary: dict[str, Any]) -> str:
    """One video of a store for people."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in summary["coverage"].items())
    lines = [
        f"{id}  {summary['duration']:.2f} s, {summary['steps']} steps, {summary['status']}",
        f"  covered    {shares or 'nothing'}",
    ]
    return "\n".join([*lines, *(f"  note       {note}" for note in summary["notes"])])


def _verify(args: argparse.Namespace) -> int:
    from extractors.storage.store import FeatureStore

    damages = list(FeatureStore.open(args.store).verify())
    if args.json:
        rows = [
            {"path": str(d.path), "ids": list(d.ids), "reason": d.reason, "readable": d.readable}
            for d in damages
        ]
        print(json.dumps(rows, indent=2))
        return int(bool(damages))
    for damage in damages:
        word = "damaged " if damage.readable else "no word "
        print(f"{word} {damage.path} ({_some(damage.ids)}): {damage.reason}")
    if any(damage.readable for damage in damages):
        print(f"pipeline features repair {args.store} takes them out")
    elif not damages:
        print(f"{args.store}: everything is as it was written")
    return int(bool(damages))


def _repair(args: argparse.Namespace) -> int:
    from extractors.storage.store import FeatureStore

    lost = FeatureStore.open(args.store).repair()
    if args.json:
        print(json.dumps({"lost": lost}, indent=2))
    elif lost:
        print(f"{len(lost)} videos are gone; extract or import them again: {_some(lost)}")
    else:
        print(f"{args.store}: nothing is lost")
    return int(bool(lost))


def _layouts(args: argparse.Namespace) -> int:
    from extractors.layouts.table import LAYOUTS

    if args.json:
        print(json.dumps([_row(layout) for layout in LAYOUTS.values()], indent=2))
    else:
        for layout in LAYOUTS.values():
            places = "\n".join(f"    {part.modality:<7} {part.place}" for part in layout.parts)
            print(f"{layout.name}\n  {layout.about}\n{places}")
    return 0


def _row(layout: Layout) -> dict[str, Any]:
    return {
        "name": layout.name,
        "about": layout.about,
        "slack_seconds": layout.slack,
        "parts": [
            {"modality": part.modality, "place": part.place, "width": part.dim}
            for part in layout.parts
        ],
    }


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more if names else "unknown videos"

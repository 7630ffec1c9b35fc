"""Check annotations, and features against them; every mistake is named.

unav100 ANNOTATIONS    the file of UnAV-100, compared with the real numbers and classes
check ANNOTATIONS      any file in the style of ActivityNet, or a CSV of file,label[,label...]

With --features a feature store, or a folder of feature files and its --layout, is checked too: is
there every video, in both modalities, of the length that its duration gives, without NaN.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.features import add_layout_arguments, chosen_videos

if TYPE_CHECKING:
    from workflows.annotations import Annotations, VideoLabels
    from workflows.feature_check import FeatureReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    for name, words in (
        ("unav100", "the annotations of UnAV-100, and features of it"),
        ("check", "annotations of any data set, and features of it"),
    ):
        kind = kinds.add_parser(name, help=words)
        kind.add_argument("annotations", type=Path, metavar="ANNOTATIONS")
        kind.add_argument("--features", type=Path, help="a feature store, or a folder of files")
        add_layout_arguments(kind, required=False)
        kind.add_argument("--subset", help="look for the features of this subset only")
        kind.add_argument(
            "--headers", action="store_true", help="look at shapes and lengths, not at values"
        )
        kind.add_argument("--json", action="store_true", help="the report as JSON")


def execute(args: argparse.Namespace) -> int:
    """Check, print what was found, and return 1 where something is wrong."""
    from workflows.data_check import check_annotations
    from workflows.unav100 import check_unav100
    from workflows.weak.list_check import check_label_list

    check = {"unav100": check_unav100, "check": check_annotations}[args.kind]
    is_list = args.kind == "check" and args.annotations.suffix.lower() == ".csv"
    report, labels = check_label_list(args.annotations) if is_list else check(args.annotations)
    features = None if args.features is None else _features(args, labels)
    if args.json:
        value = {
            "annotations": report.to_json(),
            "features": None if features is None else features.to_json(),
        }
        print(json.dumps(value, indent=2))
    else:
        print(report.format_table())
        if features is not None:
            print(features.format_table())
    return max(report.exit_code, 0 if features is None else features.exit_code)


def _features(args: argparse.Namespace, labels: Annotations) -> FeatureReport:
    from extractors.layouts.video import VideoReader
    from extractors.storage.store import FeatureStore
    from pipeline.core.errors import UsageError
    from workflows.feature_check import check_files, check_store
    from workflows.progress import Progress

    videos: dict[str, VideoLabels] = dict(labels.videos)
    if args.subset is not None:
        videos = labels.subset(args.subset)
    with Progress(len(videos), what="checking") as bar:
        if (args.features / "store.json").exists():
            return check_store(
                FeatureStore.open(args.features),
                videos,
                slack=args.length_slack,
                values=not args.headers,
                progress=bar.advance,
            )
        if args.layout is None:
            raise UsageError(
                f"{args.features} is no feature store",
                hint="say with --layout what files it holds; pipeline features layouts lists them",
            )
        found, spec = chosen_videos(args, args.features)
        return check_files(
            VideoReader(found, spec), videos, values=not args.headers, progress=bar.advance
        )

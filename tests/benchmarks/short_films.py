"""Films of the demo that are cut so short that their labels say something.

Usage: python tests/benchmarks/short_films.py OUT [--films 48] [--seconds 6.6]

A training film of `pipeline demo` has 20 s and most of the four classes in it, so that its label
hardly tells it from the others. Here the training films are shorter and more; each has two classes,
one, or none. The test films are the demo's own. OUT gets ``videos/`` and ``annotations.json``; then

    pipeline extract OUT/videos --out OUT/features
    pipeline study --config workflows/recipes/studies/clasp_demo.yaml \\
        --set data.annotations=OUT/annotations.json --set data.features=OUT/features --out OUT/study

measures what the parts of CLASP are worth on them (docs/clasp.md).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from pipeline.core.atomic import write_json
from workflows.demo.data import DemoSize, describe_events, encode_film, write_films


def main() -> None:
    """Write the films and what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--films", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=6.6)
    args = parser.parse_args()
    size = DemoSize(
        train=args.films, validation=0, test=0, long_seconds=0, clip_seconds=args.seconds
    )
    short = [replace(film, name=f"short_{film.name}") for film in write_films(1, size)]
    tests = [film for film in write_films(0, DemoSize()) if film.subset == "test"]
    videos = args.out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for film in (*short, *tests):
        encode_film(film, videos / f"{film.name}.mp4")
    write_json(args.out / "annotations.json", describe_events([*short, *tests]))
    classes = [len({label for _, _, label in film.events()}) for film in short]
    print(f"{len(short)} films with {sum(classes) / len(classes):.1f} classes each")


if __name__ == "__main__":
    main()

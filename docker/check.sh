#!/bin/bash
# Carry out a Dockerfile's steps in a clean Debian root, and use what they installed. No Docker
# needed; root, debootstrap and a package mirror are.
#
#   docker/check.sh [DOCKERFILE]          default: docker/cpu.Dockerfile
#
# Environment:
#   DOCKER_CHECK_DIR    where the root is made (default: a temporary folder, removed at the end)
#   DOCKER_CHECK_BIND   paths of this machine to show read-only inside, for example a CA bundle, a
#                       pip.conf or a folder of wheels; pip's own variables (PIP_*) are handed on
#   DOCKER_CHECK_BASE   a root made before by debootstrap, copied instead of made again
#   DEBIAN_MIRROR       default: http://deb.debian.org/debian
#   TORCH_INDEX_URL     handed to the Dockerfile as its build argument
set -euo pipefail

if [[ ${DOCKER_CHECK_INSIDE:-} != yes ]]; then
    [[ $(id -u) == 0 ]] || { echo "docker/check.sh: needs root, for chroot and mounts" >&2; exit 3; }
    # A mount namespace of our own: whatever happens, no mount outlives this script.
    DOCKER_CHECK_INSIDE=yes exec unshare --mount --propagation private "$0" "$@"
fi

context=$(cd "$(dirname "$0")/.." && pwd)
file=${1:-$context/docker/cpu.Dockerfile}
folder=${DOCKER_CHECK_DIR:-$(mktemp -d)}
root=$folder/root
steps=(python3 "$context/docker/steps.py" "$file" --context "$context"
    --build-arg "TORCH_INDEX_URL=${TORCH_INDEX_URL:-}")

clean_up() {
    local code=$?
    umount --recursive --lazy "$root" 2>/dev/null || true
    rm -rf --one-file-system "$root"
    [[ -n ${DOCKER_CHECK_DIR:-} ]] || rm -rf --one-file-system "$folder"
    exit "$code"
}
trap clean_up EXIT

# The base image: a Debian of the release that FROM names, with its Python where the image has it.
base=$("${steps[@]}" | awk '$2 == "FROM" {print $3}')
[[ $base =~ ^python:([0-9]+\.[0-9]+)[0-9.]*-slim-([a-z]+)$ ]] || {
    echo "docker/check.sh: cannot make the base image $base" >&2
    exit 2
}
python=${BASH_REMATCH[1]} release=${BASH_REMATCH[2]}
rm -rf --one-file-system "$root"
mkdir -p "$root"
if [[ -n ${DOCKER_CHECK_BASE:-} ]]; then
    cp -a "$DOCKER_CHECK_BASE/." "$root"
else
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$release" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
fi
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
for path in /etc/resolv.conf ${DOCKER_CHECK_BIND:-}; do
    [[ -e $path ]] || continue
    if [[ -d $path ]]; then mkdir -p "$root$path"; else mkdir -p "$(dirname "$root$path")"; touch "$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
found=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $found == "$python" ]] || {
    echo "docker/check.sh: $release has Python $found, the base image $base has $python" >&2
    exit 2
}
chroot "$root" python3 -m venv /usr/local

"${steps[@]}" --build "$root"

enter=("${steps[@]}" --enter "$root" --)
echo "=== the default command: doctor" >&2
"${enter[@]}"
echo "=== a clip made inside, and the events in it" >&2
chroot --userspec=1000:1000 "$root" /usr/local/bin/python -c '
from pathlib import Path
from workflows.bench.speed import make_test_video
make_test_video(Path("/data/clip.mp4"), seconds=4)'
"${enter[@]}" detect /data/clip.mp4 --format json --out - |
    python3 -c 'import json, sys; print(len(json.load(sys.stdin)["videos"]), "video answered")'
[[ ! -e $root/root/.cache/pip ]] || { echo "pip left its cache in the image" >&2; exit 1; }
size=$(du -scxm "$root"/{usr,home,data,opt/pipeline} | tail -1 | cut -f1)
echo "=== $size MB, every step of $file done" >&2

#!/usr/bin/env bash
# Writes what is uploaded to Grand Challenge:
#   model.tar.gz           the weights, unpacked by the platform at /opt/ml/model (the same bytes on every run)
#   segsync-isles.tar.gz   the image, built for it (a GPU unless --cpu is given)
#   ./export.sh [--cpu | --gpu] [--api exec | invoke] [-- further arguments of `docker build`]
# Exit status 0: both are written; 3: no Docker engine answers, the model alone is written.
set -euo pipefail
cd "$(dirname "$0")"

image=segsync-isles
runtime=gpu
api='exec'
build_arguments=()
while (($#)); do
  case $1 in
    --cpu | --gpu) runtime=${1#--} ;;
    --api) api=${2:?exec or invoke}; shift ;;
    --) build_arguments=("${@:2}"); break ;;
    *) echo "usage: ./export.sh [--cpu | --gpu] [--api exec | invoke] [-- docker build arguments]" >&2; exit 2 ;;
  esac
  shift
done

# Size, sha256 and name of an archive; written under a temporary name first, so that a killed run leaves no half file.
finish() {
  mv "$1.part" "$1"
  printf '%s  %s bytes  sha256 %s\n' "$1" "$(stat --format %s "$1")" "$(sha256sum "$1" | cut -d ' ' -f 1)"
}

tar --create --directory weights --format gnu --sort name --owner 0 --group 0 --numeric-owner --mtime @0 \
  --mode 'u=rwX,go=rX' . | gzip --no-name -9 >model.tar.gz.part
finish model.tar.gz

if ! docker version >/dev/null 2>&1; then
  echo "no Docker engine answers here: $image.tar.gz was not written" >&2
  exit 3
fi
version=$(sed -nE 's/^__version__ = "(.*)"/\1/p' app/segsync/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
docker build --platform linux/amd64 --tag "$image" --build-arg RUNTIME="$runtime" --build-arg API="$api" \
  --build-arg VERSION="$version" --build-arg REVISION="$revision" ${build_arguments[@]+"${build_arguments[@]}"} .
compress=gzip
if command -v pigz >/dev/null; then compress=pigz; fi
docker save "$image" | "$compress" --fast >"$image.tar.gz.part"
finish "$image.tar.gz"

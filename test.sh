#!/usr/bin/env bash
# Smoke run: segments the bundled stroke case and compares the mask with the expected one.
#   ./test.sh [--cpu | --gpu] [-- further arguments of `docker build`]
# With a Docker engine: builds the image (for a GPU where nvidia-smi sees one) and runs it as Grand Challenge does.
# Without one: runs the same entrypoint in a virtual environment of its own, .venv; Python 3.11 or later is all it needs.
# Mask, report and preview are written under test/output. The platform's own run writes no report, so that it takes a
# second one. Exit status 0: the mask is the expected one.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=test/platform.sh
source test/platform.sh

image=segsync-isles
runtime=cpu
if nvidia-smi -L >/dev/null 2>&1; then runtime=gpu; fi
build_arguments=()
while (($#)); do
  case $1 in
    --cpu | --gpu) runtime=${1#--} ;;
    --) build_arguments=("${@:2}"); break ;;
    *) echo "usage: ./test.sh [--cpu | --gpu] [-- docker build arguments]" >&2; exit 2 ;;
  esac
  shift
done
TIMEFORMAT='time: %1R s'

in_container() {
  echo "building the image $image ($runtime)"
  docker build --platform linux/amd64 --tag "$image" --build-arg RUNTIME="$runtime" \
    ${build_arguments[@]+"${build_arguments[@]}"} .
  if [[ $runtime == gpu ]]; then platform_flags+=(--gpus all); fi

  echo "running it as the platform does"
  time platform_exec "$image" test/input test/output
  docker run --rm --platform linux/amd64 --network none --entrypoint python --volume "$PWD/test:/test:ro" "$image" \
    /test/compare_masks.py /test/output /test/expected

  echo "running it once more, with the report"
  platform_exec "$image" test/input test/output predict --input /input --output /output/report --report --quiet
}

in_environment() {
  echo "no Docker engine answers here: running the same entrypoint in .venv"
  if [[ ! -e .venv/.runtime || requirements/runtime-cpu.lock -nt .venv/.runtime ]]; then
    local python
    for python in python3.11 python3 python3.12 python3.13 none; do
      if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
    done
    if [[ $python == none ]]; then
      echo "Python 3.11 or later with venv is needed (Debian and Ubuntu: the package python3-venv)" >&2
      exit 1
    fi
    echo "installing the runtime"
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --require-hashes --requirement requirements/runtime-cpu.lock
    .venv/bin/python -m pip install --quiet --require-hashes --requirement requirements/build.lock
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
    touch .venv/.runtime
  fi
  time .venv/bin/python -m segsync run --input test/input --output test/output
  .venv/bin/python test/compare_masks.py test/output test/expected

  echo "running it once more, with the report"
  .venv/bin/python -m segsync predict --input test/input --output test/output/report --report --quiet
}

rm -rf test/output
if docker version >/dev/null 2>&1; then in_container; else in_environment; fi
echo "mask: test/output/images; report and preview: test/output/report"

# shellcheck shell=bash
# Runs an image as Grand Challenge runs an algorithm. Sourced by test.sh and .ci/container-test.
#
# The flags are the platform's own: no network, no capabilities, no new privileges, 128 processes, swap off. A read-only
# root makes its promise ("only /output, /tmp and /opt/ml/model are writable") strict; 8 GB is half of its smallest
# machine. /output is an anonymous volume and is copied out afterwards, so that the image's own user can write there
# whatever the ids on this machine are.
platform_flags=(
  --platform linux/amd64 --init
  --network none --cap-drop ALL --security-opt no-new-privileges --pids-limit 128
  --read-only --tmpfs /tmp --volume /output
  --memory 8g --memory-swap 8g
)

# platform_create IMAGE INPUT [ARGUMENT...]: a container that is ready to start; prints its id.
platform_create() {
  local image=$1 input
  input=$(cd "$2" && pwd)
  docker create "${platform_flags[@]}" --volume "$input:/input:ro" "$image" "${@:3}"
}

# platform_exec IMAGE INPUT OUTPUT [ARGUMENT...]: one case, one process. What it wrote lies in OUTPUT, its exit status
# is returned. Without arguments this is exactly what the platform does.
platform_exec() (
  id=$(platform_create "$1" "$2" "${@:4}") || exit
  trap 'docker rm --force --volumes "$id" >/dev/null' EXIT
  status=0
  docker start --attach "$id" || status=$?
  mkdir -p "$3"
  docker cp "$id:/output/." "$3" || exit
  exit "$status"
)

# platform_invoke IMAGE INPUT OUTPUT CLIENT: an image that serves HTTP. The Python file CLIENT is run inside the
# container, the only place from where a server without a network can be reached.
platform_invoke() (
  id=$(platform_create "$1" "$2") || exit
  trap 'docker rm --force --volumes "$id" >/dev/null' EXIT
  docker start "$id" >/dev/null || exit
  status=0
  docker exec --interactive "$id" python - <"$4" || status=$?
  docker logs "$id"
  mkdir -p "$3"
  docker cp "$id:/output/." "$3" || exit
  exit "$status"
)

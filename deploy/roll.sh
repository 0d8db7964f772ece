#!/usr/bin/env bash
# Replaces the replicas of Compose's profile `replicas`, one after another, by such of the image and the settings as they
# are now; no request fails: `docker compose --profile replicas build service-replica && deploy/roll.sh`.
# A new one starts and becomes healthy; then an old one gets no more requests, answers those that it has, and ends.
# If a new one does not become healthy, it is removed, and the others stay.
#   READY_S   seconds in which a new one has to become healthy; 180 by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compose() { docker compose --profile replicas "$@"; }
replicas() { compose ps --quiet service-replica; }
addresses() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$1"; }  # addresses CONTAINER

ask() { compose exec -T balancer bash -c 'exec 3<>/dev/tcp/127.0.0.1/9999 && echo "$0" >&3 && cat <&3' "$1" </dev/null; }

servers() {  # servers ADDRESSES [STATE]: the balancer's names of a replica, for HTTP and gRPC, if they are in that state
  ask 'show servers state' | awk -v all=" $1" -v state="${2:-.}" 'index(all, " " $5 " ") && $6 ~ state {print $2 "/" $4}'
}

within() {  # within SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1))
  until "${@:2}"; do
    ((SECONDS < end)) || return 1
    sleep 0.3
  done
}

is_ready() {  # is_ready CONTAINER: healthy, and up (2) in both of the balancer's backends
  [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]] && [[ $(servers "$(addresses "$1")" 2 | wc -l) == 2 ]]
}

is_forgotten() { [[ -z $(servers "$1") ]]; }  # is_forgotten ADDRESSES: by the balancer

drained=
set_state() { for server in $drained; do ask "set server $server state $1" >/dev/null; done; }
trap 'set_state ready' EXIT  # or whoever came to that place later would get no requests

mapfile -t old < <(replicas)
if ! ((${#old[@]})); then
  echo "roll: no replica runs: docker compose --profile replicas up" >&2
  exit 1
fi
for container in "${old[@]}"; do
  before=$(replicas)
  compose --progress quiet up --detach --no-deps --no-recreate --scale "service-replica=$((${#old[@]} + 1))" service-replica
  new=$(replicas | grep --invert-match --fixed-strings "$before")
  if ! within "${READY_S:-180}" is_ready "$new"; then
    docker logs --tail 20 "$new" >&2
    docker stop "$new" >/dev/null
    docker rm "$new" >/dev/null
    echo "roll: the new replica with this log did not become ready, and is removed" >&2
    exit 1
  fi
  left=$(addresses "$container")
  drained=$(servers "$left")
  set_state drain
  docker stop "$container" >/dev/null
  docker rm "$container" >/dev/null
  within 10 is_forgotten "$left" || true
  set_state ready
  drained=
  echo "roll: ${new:0:12} has taken the place of ${container:0:12}"
done

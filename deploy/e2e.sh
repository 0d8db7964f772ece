#!/usr/bin/env bash
# The whole stack, built, started, used and looked at from outside (`make e2e`); ends non-zero when a check fails.
# Needs a Docker engine with Compose: the one that `docker info` finds, or else one that a script brings up.
#   DOCKER_ENGINE   that script: `up` starts an engine, `env` prints the exports that point docker at it
#   IMAGE           image to classify; where it is missing a small one is made
#   PORT, PROMETHEUS_PORT, GRAFANA_PORT   where to listen; by default beside a stack that may be running already
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export COMPOSE_PROJECT_NAME=lccl-e2e
export PORT=${PORT:-18000} PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090} GRAFANA_PORT=${GRAFANA_PORT:-13000}
export LCCL_MAX_IMAGES=63  # a setting that is not the default
failed=0

need_engine() {
  docker info >/dev/null 2>&1 && return
  local script=${DOCKER_ENGINE:-../shared/tools/docker-engine}
  if [[ ! -x $script ]]; then
    echo "e2e: a Docker engine is needed: start one, or name in DOCKER_ENGINE a script that does" >&2
    exit 1
  fi
  eval "$("$script" env)"
  docker info >/dev/null 2>&1 || "$script" up >&2
}

check() {  # check WHAT COMMAND...
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then echo "ok   $what"; else echo "FAIL $what"; failed=1; fi
}

inside() { docker compose exec -T "$@" </dev/null; }  # inside SERVICE COMMAND...

same_inside() {  # same_inside FILE PATH: Grafana sees the repository's file
  inside grafana cat "$2" | cmp --silent - "$1"
}

hardened() {  # hardened CONTAINER: read-only root, no capability, no way to gain one
  [[ $(docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}' "$1") \
    == "true [ALL] [no-new-privileges:true]" ]]
}

restarts() {  # restarts CONTAINER: after it was killed from outside, and serves again
  local pid before
  before=$(docker inspect --format '{{.RestartCount}}' "$1")
  pid=$(docker inspect --format '{{.State.Pid}}' "$1")
  docker run --rm --user 0 --privileged --pid host --entrypoint sh "$(docker inspect --format '{{.Image}}' "$1")" \
    -c "kill -KILL $pid"
  for _ in $(seq 120); do
    [[ $(docker inspect --format '{{.RestartCount}} {{.State.Health.Status}}' "$1") == "$((before + 1)) healthy" ]] && return
    sleep 0.5
  done
  return 1
}

classifies() { curl --fail --silent --data-binary @docs/example.png -H 'Content-Type: image/png' "$@" "localhost:$PORT/v1/classify"; }

with_keys() {  # with_keys FOLDER: the service starts anew with the keys in it, made as the documentation says
  (umask 022 && inside service python -m lccl.service.auth.keys alice >"$1/keys.toml" 2>"$1/key")
  chmod 755 "$1"
  KEYS=$1 docker compose -f docker-compose.yml -f deploy/keys.yml up --detach --wait --wait-timeout 120 service
}

asks_for_keys() {  # asks_for_keys FOLDER: refused without a key, answered with it
  ! classifies && classifies -H "Authorization: Bearer $(grep -o 'lccl_[A-Za-z0-9_-]*' "$1/key")"
}

revokes() {  # revokes FOLDER: a key that is taken out of the file is no longer answered, without a restart
  local key
  key=$(grep -o 'lccl_[A-Za-z0-9_-]*' "$1/key")
  : >"$1/keys.toml.new"
  (umask 022 && inside service python -m lccl.service.auth.keys bob >"$1/keys.toml.new" 2>/dev/null)
  cat "$1/keys.toml.new" >"$1/keys.toml"
  for _ in $(seq 40); do
    classifies -H "Authorization: Bearer $key" || return 0
    sleep 0.25
  done
  return 1
}

run_alone() { docker run --detach --volume "$PWD/models:/models:ro" "$@"; }  # run_alone OPTIONS IMAGE: without Compose

becomes_healthy() {  # becomes_healthy CONTAINER
  for _ in $(seq 120); do
    [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]] && return
    sleep 0.5
  done
  return 1
}

says() { docker logs "$1" 2>&1 | grep --quiet "$2"; }  # says CONTAINER PATTERN

ends_while_it_loads() {  # ends_while_it_loads IMAGE: process 1 ends by itself on SIGTERM, long before it is ready
  local container
  container=$(run_alone "$1")
  sleep 1
  docker kill --signal TERM "$container"
  [[ $(timeout 20 docker wait "$container") == 0 ]]
  local ended=$?
  docker rm --force "$container"
  return "$ended"
}

stops() {  # stops CONTAINER: by itself on SIGTERM, before it is killed
  docker compose stop service
  [[ $(docker inspect --format '{{.State.ExitCode}}' "$1") =~ ^(0|143)$ ]]
}

finish() {
  local status=$?
  trap - EXIT
  if ((status)); then docker compose logs --no-color --tail 100 service || true; fi
  docker compose down --volumes --timeout 10 >/dev/null 2>&1 || true
  exit "$status"
}

need_engine
trap finish EXIT
docker compose build --quiet
if ! docker compose --progress quiet up --detach --wait --wait-timeout 300; then
  echo "FAIL service, Prometheus and Grafana come up healthy"
  exit 1
fi
echo "ok   service, Prometheus and Grafana come up healthy"

python3 deploy/check_stack.py --service "http://127.0.0.1:$PORT" --prometheus "http://127.0.0.1:$PROMETHEUS_PORT" \
  --image "${IMAGE:-docs/example.png}" || failed=1

for file in provisioning/datasources/prometheus.yml provisioning/dashboards/lccl.yml \
  dashboards/{overview,trade-off,resources}.json; do
  check "Grafana has $file" same_inside "deploy/grafana/$file" "/etc/grafana/$file"
done
container=$(docker compose ps --quiet service)
check "the service runs as user 10001" test "$(inside service id -u)" = 10001
check "the service has no compiler" inside service sh -c '! command -v g++ && ! command -v cmake'
check "the service has no offline tools and no test packages" inside service python -c \
  'import importlib.util as u; assert not any(map(u.find_spec, ("lccl.train", "lccl.cli", "typer", "rich", "pytest", "sympy")))'
check "settings come from the shell, and those not set there are not set" inside service sh -c \
  'test "$LCCL_MAX_IMAGES" = 63 && test -z "${LCCL_API_KEY+set}"'
check "models are those of the folder, read-only" test "/models false" = \
  "$(docker inspect --format '{{range .Mounts}}{{.Destination}} {{.RW}}{{end}}' "$container")"
check "the native engine runs" inside service python -c 'import lccl.engines.cpu._native as n; assert n.instruction_sets()'
check "the service cannot write to its image" inside service sh -c '! touch /opt/lccl/probe'
for name in service prometheus grafana; do
  check "$name: read-only root, no capabilities, no new privileges" hardened "$(docker compose ps --quiet $name)"
done
image=$(docker inspect --format '{{.Image}}' "$container")
echo "ok   the image has $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB"
check "a killed service is started again and becomes healthy" restarts "$container"
check "it classifies again" classifies
check "the gpu profile is valid" docker compose --profile gpu config --quiet
keys=$(mktemp -d)
check "it starts with a file of keys" with_keys "$keys"
check "it asks for a key, and takes one of the file" asks_for_keys "$keys"
check "it forgets a key that is taken out of the file" revokes "$keys"
rm -r "$keys"
container=$(docker compose ps --quiet service)
check "the service stops on SIGTERM" stops "$container"
check "a container ends on SIGTERM while it loads" ends_while_it_loads "$image"
alone=$(run_alone --user 23456 --read-only --cpus 0.5 --env http_proxy=http://127.0.0.1:9 --env LCCL_PORT=tcp://10.0.0.1:8000 "$image")
check "it is healthy as any user, beside a proxy and variables of Kubernetes" becomes_healthy "$alone"
check "its threads follow the quota of half a core" says "$alone" 'cores to compute on: 1'
check "probes may ask with HEAD" docker exec "$alone" python -c \
  'import http.client as h; c = h.HTTPConnection("127.0.0.1", 8000); c.request("HEAD", "/health/ready"); assert c.getresponse().status == 200'
docker rm --force "$alone" >/dev/null
exit "$failed"

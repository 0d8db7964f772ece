#!/usr/bin/env bash
# The whole stack, built, started, used and looked at from outside (`make e2e`); ends non-zero when a check fails.
# Needs a Docker engine with Compose: the one that `docker info` finds, or else one that a script brings up.
#   DOCKER_ENGINE   that script: `up` starts an engine, `env` prints the exports that point docker at it
#   IMAGE           image to classify; where it is missing a small one is made
#   PORT, BALANCER_PORT, BALANCER_GRPC_PORT, PROMETHEUS_PORT, GRAFANA_PORT   where to listen; by default beside a stack
#                   that may be running already
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export COMPOSE_PROJECT_NAME=lccl-e2e
export PORT=${PORT:-18000} BALANCER_PORT=${BALANCER_PORT:-18002} BALANCER_GRPC_PORT=${BALANCER_GRPC_PORT:-19002}
export PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090} GRAFANA_PORT=${GRAFANA_PORT:-13000}
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

has_balancer() { docker compose --profile replicas pull --quiet --policy missing balancer store >/dev/null 2>&1; }

key() { grep -o 'lccl_[A-Za-z0-9_-]*' "$keys/$1"; }  # key NAME

makes_keys() {  # one without a limit, and one with few requests
  (umask 022 && docker run --rm "$image" python -m lccl.service.auth.keys load >"$keys/keys.toml" 2>"$keys/load" &&
    docker run --rm "$image" python -m lccl.service.auth.keys rated --rate 20/hour >>"$keys/keys.toml" 2>"$keys/rated")
  chmod 755 "$keys"
}

each_replica() { for container in $(docker compose --profile replicas ps --quiet service-replica); do "$@" "$container" || return 1; done; }

has_setting() { docker inspect --format '{{.Config.Env}}' "$2" | grep --quiet "$1"; }  # has_setting NAME=VALUE CONTAINER

prometheus_finds() {  # prometheus_finds NUMBER: as many servers are up, and none is down
  for _ in $(seq 60); do
    curl --silent --get --data-urlencode 'query=count(up{job="lccl"} == 1) unless on() (up{job="lccl"} == 0)' \
      "localhost:$PROMETHEUS_PORT/api/v1/query" | grep --quiet "\"$1\"" && return
    sleep 0.5
  done
  return 1
}

answered() {  # answered NUMBER: how many of as many requests with the rated key the balancer's replicas answer
  for _ in $(seq "$1"); do
    curl --silent --output /dev/null --write-out '%{http_code}\n' -H "X-API-Key: $(key rated)" "localhost:$BALANCER_PORT/v1/models"
  done | grep --count 200
}

rated() { [[ $(answered 30) == 20 ]]; }
still_rated() { [[ $(answered 2) == 0 ]]; }

answers_over_grpc() {
  inside service-replica python -c 'import grpc; from grpc_health.v1 import health_pb2 as h, health_pb2_grpc as g
assert g.HealthStub(grpc.insecure_channel("balancer:9000")).Check(h.HealthCheckRequest(), timeout=10).status == 1'
}

under_load() {  # under_load FAILURES WHAT COMMAND...: meanwhile every answer is right, and no more requests fail
  local load what=$2 told=0
  python3 deploy/check_load.py --service "http://127.0.0.1:$BALANCER_PORT" --image "${IMAGE:-docs/example.png}" \
    --key "$(key load)" --may-fail "$1" >"$keys/told" 2>&1 &
  load=$!
  sleep 2
  "${@:3}" >"$keys/log" 2>&1 || told=1
  kill -TERM "$load"
  wait "$load" || told=1
  if ((told)); then failed=1; fi
  echo "$( ((told)) && echo FAIL || echo 'ok  ') $what: $(cat "$keys/told")"
  if ((told)); then tail "$keys/log"; fi
}

replica_is_killed() {
  restarts "$(docker compose --profile replicas ps --quiet service-replica | head -1)"
}

bad_update_is_given_up() {  # as there is no such device, a new replica does not start
  local before
  before=$(docker compose --profile replicas ps --quiet service-replica)
  ! LCCL_DEVICE=cuda READY_S=8 deploy/roll.sh && [[ $(docker compose --profile replicas ps --quiet service-replica) == "$before" ]]
}

finish() {
  local status=$?
  trap - EXIT
  if ((status)); then docker compose logs --no-color --tail 100 service || true; fi
  docker compose --profile replicas down --volumes --timeout 10 >/dev/null 2>&1 || true
  exit "$status"
}

need_engine
trap finish EXIT
docker compose --profile replicas build --quiet service service-replica
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

if ! has_balancer; then
  echo "skip the profile replicas: its images cannot be had"
  exit "$failed"
fi
keys=$(mktemp -d)
makes_keys
export KEYS=$keys COMPOSE_FILE=docker-compose.yml:deploy/keys.yml REPLICAS=3
check "three replicas, their balancer and their store come up healthy" \
  docker compose --profile replicas --progress quiet up --detach --wait --wait-timeout 300 --scale service=0
for name in balancer store; do
  check "$name: read-only root, no capabilities, no new privileges" hardened "$(docker compose --profile replicas ps --quiet $name)"
done
check "the replicas: the same" each_replica hardened
check "Prometheus finds the three, and nothing else" prometheus_finds 3
check "nobody but the replicas reaches the store" inside balancer bash -c '! (exec 3<>/dev/tcp/store/6379)'
check "the balancer asks a replica over gRPC, too" answers_over_grpc
check "a key with 20 requests has 20 at all replicas together" rated
under_load 8 "one replica is killed, and starts again" replica_is_killed
under_load 0 "an update to what cannot start is given up" bad_update_is_given_up
under_load 0 "an update replaces one after the other" env LCCL_MAX_IMAGES=62 deploy/roll.sh
check "all of them have the new setting" each_replica has_setting LCCL_MAX_IMAGES=62
check "a key's requests are still counted" still_rated
check "Prometheus finds the new ones" prometheus_finds 3
rm -r "$keys"
exit "$failed"

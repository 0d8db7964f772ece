#!/usr/bin/env bash
# Runs the GPU tests, the tuner, the benchmarks and trainings on a machine with an NVIDIA GPU, and writes what they found.
#
#   bash benchmarks/on_gpu.sh OUT [STAGE ...]
#
# STAGE is one of these, in any order; without any the first four are run:
#   tests               the GPU engine's tests, compiled                          OUT/tests.json
#   tune                the fastest tile of each convolution                      OUT/tiles.json
#   kernels             single kernels beside cuDNN                               OUT/kernels.json
#   networks            whole networks beside torch.compile                       OUT/networks.json
#   train:ROW[@EPOCHS]  a row of benchmarks/paper/rows.py and its plain twin      OUT/train/*/*.json
#   sanitizer           a few tests under compute-sanitizer, where it is there; after `tests` it runs by itself
#
# OUT/summary.json has the machine and how each stage ended, OUT/stages.log all that they said. A stage that fails or
# runs out of time is noted, the others go on; the exit status is 0 if none did. Nothing needs to be installed but
# torch for CUDA, numpy, safetensors, pillow, pytest, hypothesis, typer and rich.
#
# From the environment:
#   PYTHON    the interpreter (python3)              COMMIT    the commit, for a copy that is no repository
#   DATA      data set to train on                   TRAIN     further options of `python -m benchmarks.paper`
#   TILES     a table that `tune` wrote before       DEVICE    cpu, to try the script without a GPU
#   JOBS      processes that run the tests, with pytest-xdist (just over half the cores)
#   TOTAL_S   seconds for all stages together        TESTS_S TUNE_S KERNELS_S NETWORKS_S TRAIN_S SANITIZER_S for one
#   TESTS     what pytest is to run                  SANITIZED the same under compute-sanitizer
#   CASES     networks to measure: resnet18-b256 …   LAYERS_OF networks whose layers `kernels` measures
set -u

if [ $# -lt 1 ]; then
  sed -n '2,/^set -u/{/^set -u/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
fi
OUT=$1
shift
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
TILES=$(realpath -m "${TILES:-$OUT/tiles.json}")
[ -z "${DATA:-}" ] || DATA=$(realpath -m "$DATA")
cd "$(dirname "$0")/.." || exit 2

PYTHON=${PYTHON:-python3}
LOG=$OUT/stages.log
BEGUN=$SECONDS
REPORT=$(mktemp)
trap 'rm -f "$REPORT"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(tests tune kernels networks)
for stage in "${stages[@]}"; do
  case $stage in
    tests | tune | kernels | networks | sanitizer) ;;
    train:?*) [ -n "${DATA:-}" ] || { echo "error: $stage needs images: set DATA to a data set" >&2; exit 2; } ;;
    *) echo "error: no stage $stage: use tests, tune, kernels, networks, sanitizer or train:ROW[@EPOCHS]" >&2; exit 2 ;;
  esac
done
if [[ " ${stages[*]} " == *" tests "* && " ${stages[*]} " != *" sanitizer "* ]]; then
  stages+=(sanitizer)
fi

# pytest's settings of this project want plugins that only its own environment has; -c takes none of them.
PYTEST=(-m pytest -c /dev/null --rootdir . --import-mode importlib -p no:cacheprovider)

run() { # NAME LIMIT: what the stage does
  local limit=$2 words=()
  [ ! -f "$TILES" ] || words=(--tiles "$TILES")
  case $1 in
    tests)
      # Compiling a thousand kernels is most of the work; with pytest-xdist processes share it.
      if "$PYTHON" -c "import sys, importlib.util as u; sys.exit(u.find_spec('xdist') is None)"; then
        JOBS=${JOBS:-$(($(nproc) / 2 + 1))}
      fi
      words=("${PYTEST[@]}" ${JOBS:+-n $JOBS} ${TESTS:-tests/lccl/cuda} -q -ra)
      rm -f "$REPORT"
      OMP_NUM_THREADS=2 timeout -k 10 "$limit" "$PYTHON" "${words[@]}" --junitxml "$REPORT"
      local status=$?
      "$PYTHON" -m benchmarks.gpu.summary tests "$OUT" "$REPORT" "python ${words[*]}" || [ $status -ne 0 ] || status=1
      return $status
      ;;
    sanitizer)
      command -v compute-sanitizer || { echo "compute-sanitizer is not here: nothing was checked"; return 127; }
      # The allocator keeps memory for itself, in which nothing is out of bounds.
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 10 "$limit" compute-sanitizer --tool memcheck --error-exitcode 9 \
        "$PYTHON" "${PYTEST[@]}" ${SANITIZED:-tests/lccl/cuda/test_convolutions.py -k residual} -q -x
      ;;
    tune)
      # The networks that are measured: resnet34's layers are resnet18's.
      timeout -k 10 "$limit" "$PYTHON" -c "from lccl.cli.main import app; app()" tune resnet18 wrn-28-10 \
        --out "$OUT/tiles.json"
      ;;
    kernels)
      timeout -k 10 "$limit" "$PYTHON" -m benchmarks.gpu kernels --out "$OUT" "${words[@]}" \
        ${LAYERS_OF:+--network $LAYERS_OF}
      ;;
    networks)
      # It ends by itself before its time is up: compiling a baseline cannot be interrupted.
      timeout -k 10 "$limit" "$PYTHON" -m benchmarks.gpu networks --out "$OUT" "${words[@]}" \
        --seconds $((limit * 3 / 4)) ${CASES:+--case $CASES}
      ;;
    train:*)
      local row=${1#train:}
      words=(${row%@*})
      [ "$row" = "${row%@*}" ] || words+=(--epochs "${row#*@}")
      timeout -k 10 "$limit" "$PYTHON" -m benchmarks.paper "${words[@]}" --data "$DATA" --device cuda \
        --results "$OUT/train" ${TRAIN:-}
      ;;
  esac
}

limit_of() { # NAME → seconds that the stage may take
  local limit left
  case $1 in
    tests) limit=${TESTS_S:-420} ;;
    tune) limit=${TUNE_S:-240} ;;
    kernels) limit=${KERNELS_S:-240} ;;
    networks) limit=${NETWORKS_S:-480} ;;
    sanitizer) limit=${SANITIZER_S:-120} ;;
    train:*) limit=${TRAIN_S:-540} ;;
  esac
  left=$((${TOTAL_S:-1000000} - (SECONDS - BEGUN) - 15))
  echo $((limit < left ? limit : left))
}

"$PYTHON" -m benchmarks.gpu.environment "$OUT" ${DEVICE:-} || exit 1
for stage in "${stages[@]}"; do
  limit=$(limit_of "$stage")
  started=$SECONDS
  echo "== $stage, at most $limit s" | tee -a "$LOG"
  if [ "$limit" -lt 5 ]; then
    echo "no time was left for $stage" | tee -a "$LOG"
    status=124
  else
    run "$stage" "$limit" >>"$LOG" 2>&1
    status=$?
  fi
  [ $status -eq 0 ] || [ $status -eq 127 ] || tail -n 25 "$LOG"
  "$PYTHON" -m benchmarks.gpu.summary stage "$OUT" "$stage" $status $((SECONDS - started))
done
"$PYTHON" -m benchmarks.gpu.summary end "$OUT"

#!/usr/bin/env bash
# What runs on the GPU's machine (README.md beside this file): `on-gpu.sh check DIR`, then `on-gpu.sh measure DIR`.
# DIR receives the results, file by file as they come; a step that fails or hangs costs only itself.
#
# MODELS names other models than the default ones. GPU names the data sheet: h100-sxm or h200-sxm; without it, what nvidia-smi
# says. DEVICE and BUDGET rehearse it without a GPU: DEVICE=cpu for check, DEVICE=recorded:h200-sxm-vllm for measure.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
servesim=${SERVESIM:-$here/servesim}
device=${DEVICE:-gpu}
phase=${1:?expected check or measure} out=${2:?expected a folder for the results}
mkdir -p "$out"
# What was carried may have lost this.
chmod +x "$servesim" 2>/dev/null || true
name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
case "${GPU:-$name}" in
  h100-sxm | *H100*) gpu=h100-sxm ;;
  h200-sxm | *H200*) gpu=h200-sxm ;;
  *) gpu=${GPU:-h200-sxm}; echo "unknown GPU '$name': taken for $gpu" ;;
esac

# A step: its seconds at most, the file for what it prints, the command. What it printed last is shown.
step() {
  local limit=$1 file=$2 begin=$SECONDS code
  shift 2
  echo "== $*" >>"$out/$file"
  timeout -k 5 "$limit" "$@" >>"$out/$file" 2>&1
  code=$?
  echo "== exit $code after $((SECONDS - begin)) s" >>"$out/$file"
  echo "[$((SECONDS)) s] $file: exit $code after $((SECONDS - begin)) s: $*"
}
bench() { local limit=$1 file=$2; shift 2; step "$limit" "$file" "$servesim" calibrate bench --device "$device" "$@"; }

check() {
  : >"$out/check.txt"
  {
    nvidia-smi || true
    ldd --version | head -1
    python3 -c 'import torch; print(torch.__version__, torch.version.cuda)' || true
    "$servesim" --version
  } >"$out/machine.txt" 2>&1
  # Each kernel in a process of its own: an illegal access or a hang ends only that one.
  for kernel in ${KERNELS:-copy norm rotary activation quantize sampling w4a16 decode mla moe prefill gemm}; do
    bench 70 check.txt --check --only "$kernel" --seed "${SEED:-1}"
  done
  grep -h -e WRONG -e 'could not run' "$out/check.txt" | head -40
  grep -c '^ok ' "$out/check.txt" | sed 's/$/ cases right/'
  if [ "$device" = gpu ]; then
    bench 120 ceilings.txt --ceilings
    cat "$out/ceilings.txt"
    # The whole way once, small, so that its faults show before the ten minutes.
    bench 60 first.txt ${MODELS:+--models "$MODELS"} --budget 15s --out "$out/first"
    tail -15 "$out/first.txt"
    mv "$out/first/measurements.csv" "$out/first.csv" 2>/dev/null
    cat "$out/first/failed.txt" >>"$out/first.txt" 2>/dev/null
    rm -rf "$out/first"
  fi
}

measure() {
  # A kernel that breaks the GPU ends the process: the next one goes on without that call, and after two without that kind.
  local budget=${BUDGET:-320} begin=$SECONDS left anyway=()
  for _ in {1..16}; do
    left=$((budget - (SECONDS - begin)))
    [ "$left" -gt 10 ] || break
    bench $((left + 30)) bench.txt "${anyway[@]}" ${MODELS:+--models "$MODELS"} --budget "${left}s" --out "$out"
    tail -1 "$out/bench.txt" | grep -q '^== exit 0 ' && break
    # What nvidia-smi takes for a process of another's is a wrong alarm on a machine of one's own.
    grep -q 'another process computes' "$out/bench.txt" && anyway=(--anyway)
  done
  rm -f "$out/current.txt"
  grep -v '^==' "$out/bench.txt" | tail -25
  # Whole steps first beside the imported profile; the fit follows on any machine.
  bench 100 steps.txt --whole-step "$gpu-vllm" --out "$out"
  tail -25 "$out/steps.txt"
  step 110 libraries.txt python3 "$here/compare_libraries.py" "$out/measurements.csv" --out "$out/libraries.csv"
  tail -60 "$out/libraries.txt"
}

case $phase in
  check) check ;;
  measure) measure ;;
  *) echo "found '$phase', expected check or measure"; exit 2 ;;
esac
echo "results:"
ls -l "$out"

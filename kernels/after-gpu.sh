#!/usr/bin/env bash
# From what came back from the GPU's machine to what is committed: `after-gpu.sh GPU MEASURED CHECKED`, with GPU h100-sxm or
# h200-sxm, MEASURED and CHECKED the folders of `on-gpu.sh measure` and `on-gpu.sh check`.
#
# Writes calibrate/measurements/GPU/{measurements,state,steps,libraries}.csv, scenarios/profiles/GPU-servesim.yaml and
# reports/results/kernels-GPU.md with its pictures. ROOT names another folder to write to: a rehearsal.
set -euo pipefail
gpu=${1:?expected h100-sxm or h200-sxm} measured=${2:?expected the folder of measure} checked=${3:?expected the folder of check}
repository=$(cd "$(dirname "$0")/.." && pwd)
root=${ROOT:-$repository}
servesim=${SERVESIM:-$repository/target/release/servesim}
name=$gpu-servesim
rows=$root/calibrate/measurements/$gpu profile=$root/scenarios/profiles/$name.yaml page=$root/reports/results/kernels-$gpu.md
mkdir -p "$rows" "$(dirname "$profile")" "$(dirname "$page")"
for file in measurements state steps libraries; do
  if [ -s "$measured/$file.csv" ]; then cp "$measured/$file.csv" "$rows/$file.csv"; else echo "$measured/$file.csv is missing: left out"; fi
done

fit=$("$servesim" calibrate fit "$rows/measurements.csv" --name "$name" --gpu "$gpu" --base "$gpu-vllm" --out "$profile")
plots=$(mktemp -d)
trap 'rm -rf "$plots"' EXIT
"$servesim" calibrate plot "$profile" "$rows/measurements.csv" --out "$plots" >/dev/null
mkdir -p "$root/reports/results/kernels-$gpu"
cp "$plots"/*.svg "$root/reports/results/kernels-$gpu/"

# A block of text as it was printed, without the lines that on-gpu.sh adds.
block() { echo '```'; grep -v '^== ' || true; echo '```'; }
section() { if [ -s "$2" ]; then printf '\n## %s\n\n%s\n\n' "$1" "$3"; block <"$2"; fi; }
{
  echo "# Kernels on the $gpu"
  echo
  echo "Made by \`kernels/after-gpu.sh\` from the rows in \`calibrate/measurements/$gpu/\`; \`kernels/README.md\` says how they were"
  echo "measured. The profile is \`scenarios/profiles/$name.yaml\`."
  printf '\n## Checks\n\n'
  printf '%s cases right, %s wrong, against references in double precision on random inputs.\n' \
    "$(grep -c '^ok ' "$checked/check.txt")" "$(grep -c '^WRONG ' "$checked/check.txt" || true)"
  section "Ceilings" "$checked/ceilings.txt" "Rates of calls that fill the GPU."
  printf '\n## The fit\n\nErrors on whole shapes that the fit never saw, and our rows beside the imported profile.\n\n'
  printf '%s\n' "$fit" | block
  if [ -s "$rows/steps.csv" ]; then
    printf '\n## Whole steps\n\nLlama-3.1-8B with random weights, in one graph, against the profile.\n\n'
    "$servesim" calibrate bench --whole-step "$profile" --device "recorded:$rows/steps.csv" | block
  fi
  if [ -s "$rows/libraries.csv" ]; then
    section "Production libraries" "$measured/libraries.txt" "The same calls by other kernels, on the same machine."
  fi
  printf '\n## Curves\n\n'
  for picture in "$root/reports/results/kernels-$gpu"/*.svg; do
    printf '![%s](kernels-%s/%s)\n' "$(basename "$picture" .svg)" "$gpu" "$(basename "$picture")"
  done
} >"$page"
echo "$rows"; echo "$profile"; echo "$page"

#!/bin/sh
# Times the runs of reports/results/speed.md, each in turns with the others, and prints the median of ROUNDS (3):
#
#   benches/time.sh [SERVESIM [OTHER]]
#
# SERVESIM is target/release/servesim unless given; with OTHER every run is made by both, in turns. AZURE and MOONCAKE name the
# files of the two traces (docs/traces.md says where to get them); their runs are left out otherwise. Needs GNU time.
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-3}
programs="${1:-target/release/servesim} ${2:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/load.yaml" <<'YAML'
model: llama-3.1-8b
hardware: { gpu: h200 }
cost: { linear: { base: 5ms, per_token: 20us, per_context_token: 40ns } }
workload: { requests: 1_000_000, arrivals: { poisson: 50/s }, prompt: { constant: 512 }, output: { constant: 128 } }
YAML

# The median of the numbers on standard input.
median() { sort -n | awk '{ values[NR] = $1 } END { print values[int((NR + 1) / 2)] }'; }

# timed NAME ARGUMENTS...
timed() {
    name=$1
    shift
    for round in $(seq "$rounds"); do
        number=0
        for program in $programs; do
            number=$((number + 1))
            /usr/bin/time -a -o "$work/times.$number" -f "%e %U %S %M" "$program" simulate "$@" > /dev/null 2> /dev/null
        done
    done
    number=0
    for program in $programs; do
        number=$((number + 1))
        cpu=$(awk '{ print $2 + $3 }' "$work/times.$number" | median)
        wall=$(awk '{ print $1 }' "$work/times.$number" | median)
        memory=$(awk '{ print int($4 / 1024) }' "$work/times.$number" | median)
        echo "$name | $program | CPU $cpu s | wall $wall s | $memory MB"
        rm "$work/times.$number"
    done
}

echo "load: $(cut -d ' ' -f 1-3 /proc/loadavg), $(nproc) cores, medians of $rounds"
for scheduling in true false; do
    a="engine.async_scheduling=$scheduling"
    for requests in 10000 100000 1000000 10000000; do
        timed "load.yaml, $requests requests, $a" "$work/load.yaml" --set "workload.requests=$requests" --set "$a"
    done
    if [ -n "${AZURE:-}" ]; then
        azure="--set workload.trace.path=$AZURE --set $a"
        # The words are arguments.
        timed "Azure hour, $a" scenarios/azure-conversation.yaml $azure
        timed "Azure hour, --no-band, $a" scenarios/azure-conversation.yaml $azure --no-band
        timed "Azure hour, cost=datasheet, $a" scenarios/azure-conversation.yaml $azure --set cost=datasheet
    fi
    if [ -n "${MOONCAKE:-}" ]; then
        timed "Mooncake conversation, $a" scenarios/mooncake-conversation.yaml \
            --set "workload.trace.path=$MOONCAKE" --set "$a" --no-band
    fi
done

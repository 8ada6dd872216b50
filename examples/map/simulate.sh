#!/bin/sh
# One line of table.csv: a few steps of a made-up simulation. It runs in a work directory of its own.
# Called as: simulate.sh NAME STEPS. Makes NAME.dat, and tells how far it is on the way.
set -eu
value=1
step=0
: > "$1.dat"
while [ "$step" -lt "$2" ]; do
    step=$((step + 1))
    value=$(((value * 31 + step) % 1009))
    echo "$step $value" >> "$1.dat"
    echo "$((step * 100 / $2))% step $step" >> "${APICAS_PROGRESS:-/dev/null}"
done
echo "$1: $value after $2 steps"

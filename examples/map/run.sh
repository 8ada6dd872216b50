#!/bin/sh
# A command for each line of a table, several at once. Run it twice: what is done stays done.
set -eu
results="${1:-results}"
apicas map table.csv --resume --state "$results/map.db" --outputs '*.dat' --outputs-to "$results/{name}" \
    -- ./simulate.sh {name} {steps}
ls "$results"/*/*.dat

#!/bin/sh
# Tokens as commands: no Python of your own. Run it in this directory.
set -eu
export APICAS_POOL="${APICAS_POOL:-sqlite:///commands.db}"
apicas init
apicas push inputs.txt
apicas run --workers 2 -- ./count_words.sh '{_id}' '{input}'
apicas status

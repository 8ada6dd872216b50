#!/bin/sh
# The work of one token: count the words of its input.
# Called as: count_words.sh TOKEN_ID INPUT. Its output and errors are attached to the token, its exit code decides.
set -eu
words=$(printf '%s\n' "$2" | wc -w)
echo "token $1: $words words"
if [ "$words" -eq 0 ]; then
    echo "nothing to count" >&2
    exit 3
fi

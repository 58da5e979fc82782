#!/bin/sh
# Trains a small Speech2Text. Ctrl-C saves; the same command goes on.
# usage: sh run.sh WORK MANIFEST... [--share FOLDER=PART]...            (README.md explains each number)
set -eu
work=$1
shift
mkdir -p "$work"

earful train "$@" --family s2t --start s2t-small-en --output "$work/run" --audio "$work/audio" \
    --steps "${STEPS:-15000}" --batch 5 --seconds 20 --pieces 500 --clean 0.5 --smoothing 0.1 --workers 0

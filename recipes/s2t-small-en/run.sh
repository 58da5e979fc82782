#!/bin/sh
# Trains a small Speech2Text. Ctrl-C saves; the same command goes on.
# usage: sh run.sh WORK MANIFEST... [--share FOLDER=PART]...            (README.md explains each number)
set -eu
work=$1
shift
mkdir -p "$work"

earful train "$@" --family s2t --start s2t-small-en --output "$work/run" --audio "$work/audio" \
    --steps "${STEPS:-8500}" --batch 10 --seconds 20 --pieces 500 --smoothing 0.1 --workers 1 \
    --matrix-rate 0.009 --other-rate 0.0009 --clean 0.85 --masked 0.4 --cut 0.4 --hidden 0.1

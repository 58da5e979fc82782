#!/bin/sh
# Trains the small codec, then the small recogniser on its codes. Ctrl-C saves; the same command goes on.
# usage: sh run.sh WORK MANIFEST...            (README.md explains each number)
set -eu
work=$1
shift
mkdir -p "$work"
# The codec's activations are large: glibc keeps them from one step to the next, a fifth faster than asking for them anew.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=200000000

earful train "$@" --family mimi --start mimi-small --output "$work/mimi" --audio "$work/audio" \
    --steps "${MIMI_STEPS:-3000}" --batch 16 --seconds 2.56 --clean 0.5

earful train "$@" --family kyutai_stt --start kyutai-small --output "$work/stt" --audio "$work/audio" \
    --codec "$work/mimi/model" --versions "${VERSIONS:-4}" --steps "${STT_STEPS:-3000}" \
    --batch 16 --seconds 20 --delay-s 1.2 --clean 0.3 --hidden 0.1 --average 500

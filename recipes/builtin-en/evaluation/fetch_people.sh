#!/bin/sh
# Fetches the recordings that people.jsonl names, into a cache folder:  sh fetch_people.sh CACHE
# A row's recording is then CACHE/PACKAGE/FILE. Needs apt-get (to download only, no root) and dpkg; 12 MB.
set -eu
[ $# -eq 1 ] || { echo "usage: sh fetch_people.sh CACHE" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
for package in asterisk-core-sounds-en-g722 pocketsphinx-testdata; do
    [ -d "$package" ] && continue
    apt-get download --quiet "$package"
    dpkg -x "$package"_*.deb "$package.part"
    mv "$package.part" "$package"
done

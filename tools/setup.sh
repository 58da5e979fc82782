#!/bin/sh
# Usage: setup.sh VENV PACKAGE
# Makes the virtual environment VENV, with the CPU build of torch where there is no NVIDIA GPU, and installs PACKAGE
# ("." or ".[dev,...]") in it, editable. Does again only what is missing.
set -eu
venv=$1
package=$2
# The version whose CPU build is asked for. With a GPU any version that pyproject.toml allows will do.
cpu_torch=2.13.0

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "expected Python 3.11 or newer with its venv module, got none of: ${PYTHON:-python3, python3.11 ...}" >&2
    echo "hint: install it (on Debian and Ubuntu: apt-get install python3-venv), or name one: make PYTHON=..." >&2
    exit 1
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@"
}

# Plain `torch` on Linux is the CUDA build, several gigabytes. The CPU build carries the version suffix +cpu: it is taken
# from wherever pip is set up to look and from TORCH_INDEX, else from PyTorch's own index, whose address uv knows.
install_torch() {
    if [ "$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then
        echo "installing torch" >&2
        pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
        return
    fi
    echo "installing torch $cpu_torch, the CPU build" >&2
    pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$cpu_torch+cpu" 2>/dev/null && return
    pip install uv && "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend cpu \
        "torch==$cpu_torch" && return
    echo "no CPU build of torch was found; installing the ordinary one, which is large" >&2
    pip install torch
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "making $venv with $("$python" --version)" >&2
    "$python" -m venv --clear "$venv"
fi
pip show torch >/dev/null 2>&1 || install_torch
echo "installing earful and what it needs" >&2
pip install --editable "$package"
case $package in
*dev*)
    # Kyutai's own implementation, which tests compare with. 0.2.13 declares torch < 2.10, huggingface-hub < 1 and
    # packages for sound cards and web servers; all that the tests import of it works with the versions used here, for
    # which einops is the one thing missing (in the dev extra).
    pip show moshi >/dev/null 2>&1 || pip install --no-deps moshi==0.2.13
    ;;
esac

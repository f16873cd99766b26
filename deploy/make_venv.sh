#!/bin/sh
# Makes .venv in the working directory and installs the portal there, editable, with its tools for development.
# Works again and again, as root or as anybody; `make setup` calls it when a list of packages has changed.
set -eu

venv=.venv

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    # Debian's own first: one in somebody's home (pyenv) could not be run by the accounts that root's commands work as.
    for python in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null && is_new_enough "$python"; then
            echo "$python"
            return
        fi
    done
    echo "make setup: no Python 3.11 or newer is found. On Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
}

# One whose Python has been upgraded or taken away is of no use any more.
if [ -e "$venv" ] && ! is_new_enough "$venv/bin/python"; then
    rm -rf "$venv"
fi
if [ ! -e "$venv" ]; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version) ($(command -v "$python"))"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "make setup: $python cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi

echo "Installing packages into $venv; the first time this takes a minute or two"
# --use-pep517: drmaa comes as source only, which older versions of pip would build in a way of their own.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[dev]'

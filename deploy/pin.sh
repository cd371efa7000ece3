#!/usr/bin/env bash
# Writes deploy/constraints.txt: what kerasreg[all] installs into a fresh environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${1:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ".[all]" "setuptools<81" # distutils, for TFP
{
  sed -n '/^#/p' deploy/constraints.txt
  "$folder/venv/bin/pip" freeze --all | grep -E '^[A-Za-z0-9_.-]+==' |
    grep -vE '^(pip|kerasreg)=='
} >"$folder/constraints.txt"
mv "$folder/constraints.txt" deploy/constraints.txt

#!/usr/bin/env bash
# Runs the image as a site would: not as root, nothing writable but /tmp.
#   deploy/test-image.sh docker run --rm --read-only --tmpfs /tmp kerasreg:cpu
# The arguments are a command that runs `kerasreg` in a container.
set -euo pipefail
run=("$@")
check() { # check WORDS ARGUMENT...: the command succeeds and says the words
  local words=$1
  shift
  echo "--- kerasreg $*"
  local said
  said=$("${run[@]}" "$@" 2>&1) || { echo "$said"; echo "failed: kerasreg $*"; exit 1; }
  echo "$said"
  grep -qF -- "$words" <<<"$said" || { echo "failed: no \"$words\""; exit 1; }
}
check "10001; the root file system is read-only" doctor --require-extra federated \
  --require-extra bayes --require-extra viz --require-extra select --require-extra tune
check "Report: /tmp/report.html" demo --out /tmp/report.html --folds 3 --epochs 10
check "2 rounds" federated simulate federated.example --clients 2 --rounds 2
if "${run[@]}" doctor --require-gpu; then
  echo "A GPU works here."
else
  echo "No GPU here, and doctor says so."
fi
echo "The image works."

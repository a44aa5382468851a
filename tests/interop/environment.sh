#!/usr/bin/env bash
# Build the peers' environment: environment.sh [DIR], default .interop in the checkout. Does nothing when it is complete.
# It stands apart from the project's own because sae-lens wants transformer_lens below 4. Takes minutes and 2.5 GB.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../../.interop}
requirements=$here/requirements.txt
hash=$(sha256sum "$requirements" | cut -d' ' -f1)
# The stamp is written last: an environment whose building was interrupted has none and is built anew.
if [ "$(cat "$dir/.complete" 2>/dev/null)" = "$hash" ]; then
    exit 0
fi
rm -rf "$dir"
"${PYTHON:-python3}" -m venv "$dir"
pip() { "$dir/bin/python" -m pip --disable-pip-version-check "$@"; }
# torch first and alone, as in the Makefile. --no-deps: every package is listed, so nothing is resolved.
pip install --quiet --no-deps "$(grep '^torch==' "$requirements")"
pip install --quiet --no-deps --requirement "$requirements"
WANDB_MODE=disabled "$dir/bin/python" -W ignore -c 'import sae_lens, sparsify, dictionary_learning' >/dev/null
echo "$hash" >"$dir/.complete"

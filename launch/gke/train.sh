#!/usr/bin/env bash
# What the pods of jobset.yaml run: `python -m asyncthink_jax.train` with the flags given, and its exit code.
#
# Training saves and ends with 0 when its pod is asked to end, which Kubernetes would take for finished work: this ends
# with 143 then, so that the JobSet starts again, and the run resumes from its bucket.
#
# It costs nothing by itself; the node pool is billed until it is deleted (README.md beside this).
set -euo pipefail

asked_to_end=
trap 'asked_to_end=1; kill -TERM "$pid"' TERM INT
"${PYTHON:-python}" -m asyncthink_jax.train "$@" &
pid=$!
while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done
code=0
wait "$pid" || code=$?
[ -z "$asked_to_end" ] || exit 143
exit "$code"

#!/usr/bin/env bash
# The command of the pods in jobset.yaml: `python -m asyncthink_jax.train` with the given flags, and its exit code.
#
# When its pod is asked to end, training saves and ends with 0. Kubernetes would take that for finished work, so this script
# then ends with 143: the JobSet starts again, and the run resumes from its bucket.
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

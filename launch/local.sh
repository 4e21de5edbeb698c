#!/usr/bin/env bash
# Trains with several real processes on this machine, like a slice of several hosts, on simulated CPU devices:
#
#     launch/local.sh N CONFIG [WORKDIR] [FLAG..]
#     launch/local.sh 2 experiments/countdown_tiny.py runs/two --config.seed=1
#     DEVICES=4 launch/local.sh 2 experiments/countdown_tiny.py
#
# The default of WORKDIR is runs/<name of CONFIG>. FLAGs go to `python -m asyncthink_jax.train`. Process 0 prints here,
# process i to WORKDIR.process<i>.log. If one dies, the others are ended, and one line says which one died.
#
#     DEVICES   devices of each process (2)
#     PYTHON    the interpreter (the one of `make setup`, else python3)
#     PORT      of process 0, where the processes find each other (a free one)
#     GRACE     seconds for the others to save and end after a process is gone (30)
#
# What it costs: only this machine's time. How to stop it: Ctrl-C, or SIGTERM to this script. Every process then saves, and
# the same command continues. A second Ctrl-C stops at once. A terminal that hangs up stops it too, except under nohup,
# where a hangup is ignored from the start and bash leaves it so.
#
# The processes find each other on 127.0.0.1, so nobody else on the network can reach them there.
set -euo pipefail
set -m # a process group for each process, so that Ctrl-C reaches them once: through `pass_on`

root=$(cd "$(dirname "$0")/.." && pwd)

main() {
  read_arguments "$@"
  trap 'pass_on INT' INT
  trap 'pass_on TERM' TERM HUP
  local i
  for ((i = 0; i < count; i++)); do start "$i"; done
  while any_alive; do
    [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || send KILL
    # In the background, since bash handles a signal only after the foreground command.
    sleep 0.2 &
    wait $! 2>/dev/null || true
  done
  exit "$exit_code"
}

read_arguments() {
  case ${1:-} in -h | --help) usage && exit 0 ;; esac
  [ $# -ge 2 ] || fail "launch/local.sh needs the number of processes and a config; see --help"
  count=$1 config=$2
  shift 2
  [[ $count =~ ^[1-9][0-9]?$ ]] || fail "number of processes '$count' is no number from 1 to 99"
  [ -f "$config" ] || fail "config '$config' is no file"
  workdir=runs/$(basename "$config" .py)
  case ${1:-} in
    '' | -*) ;;
    *://*) fail "workdir '$1': the logs are written beside it; name a folder of this machine" ;;
    *) workdir=${1%/} && shift ;;
  esac
  flags=(${@+"$@"})
  devices=${DEVICES:-2}
  grace=${GRACE:-30}
  # Checks numbers before arithmetic, which reads 010 as eight.
  [[ $grace =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "GRACE '$grace' is no number of seconds"
  [[ $devices =~ ^[1-9][0-9]{0,3}$ ]] || fail "DEVICES '$devices' is no positive number"
  local parent
  parent=$(dirname "$workdir")
  [ -d "$parent" ] || mkdir "$parent" 2>/dev/null || fail "workdir '$workdir': $parent does not exist; make it"
  if [ -z "${PYTHON:-}" ]; then
    PYTHON=$root/.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
  fi
  command -v "$PYTHON" >/dev/null || fail "PYTHON '$PYTHON' is no program; run 'make setup'"
  port=${PORT:-$(free_port)}
  [[ $port =~ ^[1-9][0-9]{0,4}$ && $port -le 65535 ]] || fail "PORT '$port' is no port number"
  pids=() alive=() exit_code=0 stopping='' deadline=''
}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

fail() {
  echo "error: $*" >&2
  exit 2
}

# A free port below those that the system gives to outgoing connections.
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

start() {
  local i=$1
  (
    export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$i JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    [ "$i" = 0 ] || exec >"$(log_of "$i")" 2>&1
    exec "$PYTHON" -m asyncthink_jax.train --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"} </dev/null
  ) &
  pids[i]=$! alive[i]=1
}

log_of() { echo "$workdir.process$1.log"; }

# Records which processes have ended, and ends the others if one died.
any_alive() {
  local i some=1
  for ((i = 0; i < count; i++)); do
    [ -n "${alive[i]}" ] || continue
    if kill -0 "${pids[i]}" 2>/dev/null; then
      some=0
    else
      alive[i]='' && ended "$i"
    fi
  done
  return "$some"
}

ended() {
  local i=$1 code=0
  wait "${pids[i]}" 2>/dev/null || code=$?
  if [ "$exit_code" = 0 ]; then exit_code=$code; fi
  if [ -n "$stopping" ]; then
    : "${deadline:=$((SECONDS + grace))}"
  elif [ "$code" != 0 ]; then
    local how="exit code $code" where="its output is above"
    [ "$code" -le 128 ] || how="$how (signal $((code - 128)))"
    [ "$i" = 0 ] || where="its log is $(log_of "$i")"
    echo "error: process $i of $count died with $how; $where; ending the others" >&2
    stopping=1 deadline=$((SECONDS + grace))
    send TERM
  fi
}

# shellcheck disable=SC2329 # by the traps
pass_on() {
  stopping=1
  send "$1"
}

send() {
  local i
  for ((i = 0; i < count; i++)); do
    [ -z "${alive[i]:-}" ] || kill -"$1" "${pids[i]}" 2>/dev/null || true
  done
}

main "$@"

#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on every worker of a slice. `tpu_vm.sh setup` copies it there; nobody calls it by hand.
#
#     install         moves this file's checkout into its place, and makes the virtual environment
#     start FLAG..    python -m asyncthink_jax.train FLAG.., detached from the session
#     status          one line: "worker HOST: STATE | last line of the log", see `state` below
#     stop            asks training to save and end, and waits for it
#     logs [-f]       the end of the log; -f follows it
#
# It costs nothing by itself; the VM that it runs on is billed until `tpu_vm.sh delete`.
# Exit codes: 3 not set up, 4 training runs, 5 training does not end, 6 cannot be installed.
set -euo pipefail

checkout=$HOME/asyncthink_jax
venv=$HOME/asyncthink_venv
uv_version=0.13.9
train=$HOME/asyncthink_train # log, pid, and how the last training ended

main() {
  local command=${1:-}
  shift || true
  case $command in
    install | start | supervise | stop | logs) "$command" "$@" ;;
    status) echo "worker $(hostname): $(state) | $(last_line)" ;;
    *) fail 2 "unknown command '$command'" ;;
  esac
}

fail() {
  local code=$1
  shift
  echo "error: worker $(hostname) $*" >&2
  exit "$code"
}

install() {
  ! running || fail 4 "trains; 'tpu_vm.sh stop' ends that"
  local unpacked
  unpacked=$(cd "$(dirname "$0")/.." && pwd)
  if [ "$unpacked" != "$checkout" ]; then
    rm -rf "$checkout"
    mv "$unpacked" "$checkout"
  fi
  # The VM images have Python 3.10, and the package needs 3.11: uv brings one.
  PATH=$HOME/.local/bin:$PATH
  if ! command -v uv >/dev/null; then
    # The variable is for images whose Python belongs to the system; pip installs only for the user.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user "uv==$uv_version" ||
      fail 6 "could not install uv with pip; see the lines above, or: sudo apt-get install python3-pip"
  fi
  [ -x "$venv/bin/python" ] || uv venv --quiet --python 3.12 "$venv"
  # A VM that is made again has the versions of the one before.
  uv pip install --quiet --python "$venv/bin/python" --constraint "$checkout/launch/requirements.txt" \
    --editable "${checkout}[tpu]"
}

start() {
  [ -x "$venv/bin/python" ] || fail 3 "is not set up; 'tpu_vm.sh setup' does that"
  ! running || fail 4 "trains already; one training a VM"
  mkdir -p "$train"
  rm -f "$train/pid" "$train/ended" "$train/stop"
  setsid nohup bash "$checkout/launch/on_tpu_vm.sh" supervise "$@" </dev/null >>"$train/log" 2>&1 &
  local tries
  for tries in $(seq 100); do
    [ ! -s "$train/pid" ] || return 0
    sleep 0.1
  done
  fail 5 "started nothing in $((tries / 10)) s; see 'tpu_vm.sh logs'"
}

# Waits for training, and records how it ended.
supervise() {
  local pid code=0 signalled=
  # A preempted VM sends SIGTERM to every process. It is not passed on: training has received it too, and a second one
  # would make it end without saving.
  trap 'signalled=1' TERM INT
  cd "$checkout"
  echo "== $(date -u '+%F %T') python -m asyncthink_jax.train $*"
  PYTHONUNBUFFERED=1 "$venv/bin/python" -m asyncthink_jax.train "$@" &
  pid=$!
  echo "$pid" >"$train/pid.new"
  mv "$train/pid.new" "$train/pid"
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done
  wait "$pid" || code=$?
  if [ -e "$train/stop" ]; then
    echo stopped >"$train/ended"
  elif [ -n "$signalled" ]; then
    echo interrupted >"$train/ended"
  elif [ "$code" = 0 ]; then
    echo "done" >"$train/ended"
  else
    echo "failed $code" >"$train/ended"
  fi
}

stop() {
  running || return 0
  touch "$train/stop"
  kill -TERM "$(cat "$train/pid")"
  local waited
  for waited in $(seq 120); do
    running || return 0
    sleep 1
  done
  fail 5 "still trains $waited s after it was asked to stop"
}

logs() {
  [ -e "$train/log" ] || fail 3 "has no log; 'tpu_vm.sh train' starts training"
  if [ "${1:-}" = -f ]; then exec tail -n 100 -F "$train/log"; fi
  tail -n 100 "$train/log"
}

running() {
  local pid
  pid=$(cat "$train/pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  # After a reboot another process may have this number.
  grep -q asyncthink_jax.train "/proc/$pid/cmdline" 2>/dev/null
}

# idle (never started), running, done, failed CODE, stopped (by `stop`), interrupted (by a signal, or the VM went down)
state() {
  if running; then
    echo running
  elif [ ! -e "$train/pid" ]; then
    echo idle
  else
    [ -s "$train/ended" ] || sleep 1 # it may have ended just now
    cat "$train/ended" 2>/dev/null || echo interrupted
  fi
}

last_line() {
  tail -c 2000 "$train/log" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-200 || true
}

main "$@"

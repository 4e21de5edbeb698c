# shellcheck shell=bash disable=SC2154,SC2034 # the settings come from tpu_vm.sh, some results go there
# Calls gcloud for tpu_vm.sh: with a time limit, and one line for every error. tpu_vm.sh sources this file and sets $name,
# $zone, .. . A call that may succeed later returns 1, with the reason in $problem.
# It costs nothing by itself; the slices that it makes are billed until `tpu_vm.sh delete`.

# `say` prints messages, `show` results; a dry run shows only its gcloud calls.
say() { [ -n "$dry_run" ] || echo "$*" >&2; }
show() { [ -n "$dry_run" ] || echo "$*"; }

fail() { # exit code 2: bad input
  echo "error: $*" >&2
  exit 2
}

give_up() { # exit code 1: something outside went wrong
  echo "error: $*" >&2
  exit 1
}

# Checks numbers before arithmetic, where bash would run a command in an array index and reads 010 as eight.
is_count() { [[ $1 =~ ^[1-9][0-9]{0,3}$ ]]; }
is_whole() { [[ $1 =~ ^(0|[1-9][0-9]{0,5})$ ]]; }

# The words of a command, so that any shell reads them back as they are.
quoted() {
  local word all='' quote="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) all="$all '${word//$quote/$escaped}'" ;;
      *) all="$all $word" ;;
    esac
  done
  printf %s "${all# }"
}

# The nearest of words 2.. to the first, by letters to change; for error messages.
nearest() {
  printf '%s\n' "$@" | awk '
    NR == 1 { word = $0; next }
    { cost = distance(word, $0); if (NR == 2 || cost < least) { least = cost; found = $0 } }
    END { print found }
    function distance(a, b,   i, j, d, best) {
      for (i = 0; i <= length(a); i++) for (j = 0; j <= length(b); j++) {
        if (i == 0 || j == 0) { d[i, j] = i + j; continue }
        best = d[i - 1, j - 1] + (substr(a, i, 1) != substr(b, j, 1))
        if (d[i - 1, j] + 1 < best) best = d[i - 1, j] + 1
        if (d[i, j - 1] + 1 < best) best = d[i, j - 1] + 1
        d[i, j] = best
      }
      return d[length(a), length(b)]
    }'
}

# Checks first that gcloud exists, has an account, and knows a project.
check_gcloud() {
  [ -z "$dry_run" ] || return 0
  command -v gcloud >/dev/null || give_up "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  timeout=$(command -v timeout || command -v gtimeout) ||
    give_up "the program 'timeout' is missing; install GNU coreutils (macOS: brew install coreutils)"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # `timeout` has a process group of its own, which Ctrl-C doesn't reach.
  trap '[ -z "$child" ] || kill "$child" 2>/dev/null; say; say "interrupted; see what is there: $0 status --name $name --zone $zone"; exit 130' INT TERM
  call 60 '' auth list --filter=status:ACTIVE --format='value(account)' || give_up "gcloud fails: $problem"
  [ -n "$output" ] || give_up "gcloud has no account; run: gcloud auth login"
  [ -z "$project" ] || return 0
  call 60 '' config get-value project || give_up "gcloud fails: $problem"
  [ -n "$output" ] || give_up "no project; add --project ID, or run: gcloud config set project ID"
}

# call SECONDS ASSUMED ARGUMENT..: runs gcloud and puts its output into $output. A dry run only shows the call, and takes
# ASSUMED for its output.
call() {
  local limit=${TPU_LIMIT:-$1} assumed=$2 code=0
  shift 2
  if [ -n "$dry_run" ]; then
    echo "gcloud $(quoted "$@")"
    output=$assumed
    return 0
  fi
  "$timeout" -k 10 "$limit" gcloud "$@" </dev/null >"$scratch/output" 2>"$scratch/messages" &
  child=$!
  wait "$child" || code=$?
  child=
  output=$(cat "$scratch/output")
  case $code in
    0) problem= ;;
    124 | 137) problem="no answer within $limit s from: gcloud $(quoted "$@")" ;;
    *) problem=$(explain) ;;
  esac
  return "$code"
}

# One line of gcloud's output: the worker's own error, else the API's message, else gcloud's error, else the last line.
explain() {
  local line
  line=$(sed -n 's/^error: //p' "$scratch/messages" | head -n 1)
  [ -n "$line" ] || line=$(sed -n 's/^ *"message": "\(.*\)",\{0,1\}$/\1/p' "$scratch/messages" | tail -n 1 | sed 's/\\"/"/g')
  [ -n "$line" ] || line=$(sed -n 's/^ERROR: \(([a-z. -]*) \)\{0,1\}//p' "$scratch/messages" | tail -n 1)
  # gcloud's lines about its own connections follow the worker's.
  [ -n "$line" ] || line=$(grep -v '^[[:space:]]*$\|^#####\|^S[CS][HP]: \|^Using s[cs][hp] ' "$scratch/messages" | tail -n 1) || true
  case $line in
    *on_tpu_vm.sh*'No such file'*) line="it is not set up; launch/tpu_vm.sh setup does that" ;;
    *'no more capacity'* | *stockout*) line="$line (another zone, --spot or --queued may have some)" ;;
    *[Qq]uota*) line="$line (see Quota in launch/README.md)" ;;
    *'has not been used'* | *SERVICE_DISABLED*) line="$line (gcloud services enable tpu.googleapis.com)" ;;
  esac
  echo "${line:-gcloud said nothing}"
}

tpu() { # tpu SECONDS ASSUMED GROUP VERB ARGUMENT..
  local limit=$1 assumed=$2 group=$3 verb=$4
  shift 4
  call "$limit" "$assumed" compute tpus "$group" "$verb" "$@" --zone="$zone" ${project:+"--project=$project"} --quiet
}

# Like `tpu .. describe`, but something that doesn't exist is no failure: $output is then ABSENT.
describe() {
  local assumed=$1
  shift
  tpu 120 "$assumed" "$@" && return 0
  case $problem in *NOT_FOUND*) output=ABSENT ;; *) return 1 ;; esac
}

# The VMs' names: one for each slice.
nodes() {
  local i
  if [ "$slices" = 1 ]; then echo "$name" && return; fi
  for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
}

# Sets $state: READY, ABSENT, or the first of the slices' states that is neither; for a queued resource its own state
# until it is ACTIVE. Sets $found_type, the accelerator type. Finds a queued resource without --queued too.
look_up() {
  found_type=
  if [ -n "$queued" ]; then
    look_at_queue "$([ "$1" = READY ] && echo ACTIVE || echo "$1")" || return 1
  else
    look_at_nodes "$1" || return 1
    [ "$state" = ABSENT ] || return 0
    look_at_queue ABSENT || return 1
    [ "$state" != ABSENT ] || return 0
    queued=1
  fi
  [ "$state" != ACTIVE ] || look_at_nodes "$1"
}

# Sets $state to that of the queued resource, and $slices to its number of slices.
look_at_queue() {
  local count
  describe "$1" queued-resources describe "$name" \
    --format='value(state.state,tpu.nodeSpec[0].multisliceParams.nodeCount)' || return 1
  read -r state count <<<"$output" || true
  if [ -n "$count" ] && ! is_count "$count"; then
    problem="gcloud says '${count:0:40}' where a number of slices belongs" && return 1
  fi
  slices=${count:-$slices}
}

look_at_nodes() {
  local node node_state
  state=READY
  for node in $(nodes); do
    describe "$1" tpu-vm describe "$node" --format='value(state,acceleratorType.basename())' || return 1
    read -r node_state found_type <<<"$output" || true
    if [ "$node_state" != READY ]; then state=${node_state:-UNKNOWN} && return 0; fi
  done
}

# Whether the slice in $state was preempted and has to be made again.
lost() { case $state in PREEMPTED | TERMINATED | SUSPENDING | SUSPENDED | FAILED) ;; *) return 1 ;; esac }

# on_all SECONDS ASSUMED COMMAND: runs a shell line on every worker of every slice. Returns the first exit code that isn't
# 0. $output has the output of all.
on_all() {
  local node all='' first=0 code first_problem=
  for node in $(nodes); do
    code=0
    tpu "$1" "$2" tpu-vm ssh "$node" --worker=all --command="$3" || code=$?
    all="$all$output"$'\n'
    if [ "$first" = 0 ] && [ "$code" != 0 ]; then first=$code first_problem=$problem; fi
  done
  output=${all%$'\n'} problem=$first_problem
  return "$first"
}

pause() {
  sleep "$1" &
  child=$!
  wait "$child" || true
  child=
}

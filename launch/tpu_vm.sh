#!/usr/bin/env bash
# Creates a TPU slice on Google Cloud, trains on it and deletes it. launch/README.md goes through it step by step.
#
#     launch/tpu_vm.sh create --name demo --zone us-west4-a --type v5litepod-16 --spot
#     launch/tpu_vm.sh setup  --name demo --zone us-west4-a
#     launch/tpu_vm.sh train  --name demo --zone us-west4-a --bucket gs://mine --config experiments/countdown_tiny.py
#     launch/tpu_vm.sh delete --name demo --zone us-west4-a
#
# Commands; each may be repeated:
#     create   makes the VM (or queues for it and waits); makes a preempted one again
#     setup    copies the checkout's tracked files to all workers and installs them
#     train    starts training on all workers, detached; -- FLAG.. passes flags to asyncthink_jax.train
#     status   state of the VM and of training, last line of each worker's log
#     logs     the end of the log; -f follows it; --worker N
#     ssh      a shell on worker 0 or --worker N; -- COMMAND.. runs a command instead (--worker all: everywhere)
#     stop     training saves and ends; the VM stays, and is billed
#     delete   deletes the VM and its queued resource
#
# Settings, as flags or in the environment:
#     --name NAME      TPU_NAME      name of the VM
#     --zone ZONE      TPU_ZONE      like us-west4-a
#     --project ID     TPU_PROJECT   default: gcloud's
#     --type TYPE      TPU_TYPE      accelerator type: v5litepod-16, v6e-16, v5p-16, ..
#     --version V      TPU_VERSION   runtime software version; default: the one for the type
#     --spot           TPU_SPOT=1    cheaper, may be preempted
#     --queued         TPU_QUEUED=1  use a queued resource, which waits for capacity
#     --slices N       TPU_SLICES    number of slices of the type (queued)
#     --service-account EMAIL  TPU_SERVICE_ACCOUNT  account of the VMs; default: the project's, with far more rights
#     --scopes LIST    TPU_SCOPES    most rights of the account that the VMs have; default: gcloud's
#     --bucket GS      TPU_BUCKET    gs://..; the run's workdir is NAME/ in it
#     --config FILE    TPU_CONFIG    the experiment
#     --watch                        train: keep watching; a preempted VM is made again and resumes from the bucket
#     --worker N, -f, --dry-run      --dry-run prints every gcloud command and runs none
#     TPU_RETRIES=5 TPU_BACKOFF=60   for --watch: tries after errors, seconds before the first (doubled each time)
#     TPU_POLL=60 TPU_LIMIT=..       seconds between looks; time limit of a gcloud call in seconds
#
# What it costs: a slice is billed by chip and hour from create to delete, whether it trains or not. On demand a v5e chip
# costs about 1 USD an hour, v6e 3, v5p 4: about 20 USD an hour for v5litepod-16. Spot costs about half, or less. Check
# current prices: https://cloud.google.com/tpu/pricing
# How to stop it: launch/tpu_vm.sh delete, with the same --name and --zone.
#
# Exit codes: 0 done, 1 gcloud or the VM failed, 2 bad input, 130 interrupted.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/gcloud.sh
. "$root/launch/gcloud.sh"

commands='create setup train status logs ssh stop delete'
value_flags='--name --zone --project --type --version --slices --service-account --scopes --bucket --config --worker'
switches='--spot --queued --watch --dry-run --help'
on_vm='bash asyncthink_jax/launch/on_tpu_vm.sh' # in the home folder of the VM

main() {
  read_flags "$@"
  check_settings
  check_gcloud
  case $command in
    create)
      create || give_up "$problem"
      billed
      ;;
    setup) setup || give_up "$problem" ;;
    train) train ;;
    status) status ;;
    logs) logs ;;
    ssh) ssh_to_worker ;;
    stop) stop || give_up "$problem" ;;
    delete)
      delete || give_up "$problem"
      left_over
      ;;
  esac
}

# ------------------------------------------------------------------------------------------------------------- settings

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

read_flags() {
  command=${1:-}
  case $command in
    '') fail "launch/tpu_vm.sh needs a command: $commands; see --help" ;;
    -h | --help | help) usage && exit 0 ;;
  esac
  # shellcheck disable=SC2086 # a list of words
  case " $commands " in
    *" $command "*) shift ;;
    *) fail "no command '$command'; did you mean '$(nearest "$command" $commands)'?" ;;
  esac
  name=${TPU_NAME:-} zone=${TPU_ZONE:-} project=${TPU_PROJECT:-} type=${TPU_TYPE:-} version=${TPU_VERSION:-}
  slices=${TPU_SLICES:-1} bucket=${TPU_BUCKET:-} config=${TPU_CONFIG:-} spot=${TPU_SPOT:-} queued=${TPU_QUEUED:-}
  account=${TPU_SERVICE_ACCOUNT:-} scopes=${TPU_SCOPES:-}
  if [ "$spot" = 0 ]; then spot=; fi
  if [ "$queued" = 0 ]; then queued=; fi
  worker=0 watch='' follow='' dry_run='' passed=() child='' problem='' output='' found_type=''
  while [ $# -gt 0 ]; do
    case $1 in
      --) shift && passed=(${@+"$@"}) && return ;;
      -h | --help) usage && exit 0 ;;
      -f) follow=1 && shift ;;
      --*=*) set_flag "${1%%=*}" "${1#*=}" && shift ;;
      --*)
        case " $switches " in
          *" $1 "*) set_switch "$1" && shift ;;
          *)
            case " $value_flags " in *" $1 "*) ;; *) unknown_flag "$1" ;; esac
            case ${2:---} in --*) fail "$1 needs a value" ;; esac
            set_flag "$1" "$2" && shift 2
            ;;
        esac
        ;;
      *) fail "unexpected '$1'; flags begin with --, and flags for training follow a --" ;;
    esac
  done
}

set_switch() {
  case $1 in
    --spot) spot=1 ;;
    --queued) queued=1 ;;
    --watch) watch=1 ;;
    --dry-run) dry_run=1 ;;
  esac
}

set_flag() {
  case $1 in
    --name) name=$2 ;;
    --zone) zone=$2 ;;
    --project) project=$2 ;;
    --type) type=$2 ;;
    --version) version=$2 ;;
    --slices) slices=$2 ;;
    --service-account) account=$2 ;;
    --scopes) scopes=$2 ;;
    --bucket) bucket=$2 ;;
    --config) config=$2 ;;
    --worker) worker=$2 ;;
    *) unknown_flag "$1" ;;
  esac
}

unknown_flag() {
  case $1 in --config.*) fail "$1 is for asyncthink_jax.train; put it after --" ;; esac
  case " $switches " in *" $1 "*) fail "$1 takes no value" ;; esac
  # shellcheck disable=SC2086 # lists of words
  fail "no flag '$1'; did you mean '$(nearest "$1" $value_flags $switches)'?"
}

check_settings() {
  [ -n "$name" ] || fail "--name is missing (or TPU_NAME)"
  [[ $name =~ ^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$ ]] ||
    fail "name '$name': a small letter, then small letters, digits and -, 50 at most"
  [ -n "$zone" ] || fail "--zone is missing (or TPU_ZONE); where there are TPUs: https://cloud.google.com/tpu/docs/regions-zones"
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "zone '$zone' is no zone like us-west4-a"
  is_count "$slices" || fail "--slices '$slices' is no positive number"
  [ "$worker" = all ] || is_whole "$worker" || fail "--worker '$worker' is neither a number nor 'all'"
  local setting
  for setting in TPU_RETRIES TPU_BACKOFF TPU_POLL TPU_LIMIT; do
    is_whole "${!setting:-0}" || fail "$setting '${!setting}' is no whole number"
  done
  [[ -z $account || $account =~ ^[a-z0-9._-]+@[a-z0-9.-]+$ ]] ||
    fail "--service-account '$account' is no address like trainer@my-project.iam.gserviceaccount.com"
  [[ -z $scopes || $scopes =~ ^[A-Za-z0-9:/._-]+(,[A-Za-z0-9:/._-]+)*$ ]] ||
    fail "--scopes '$scopes' is no list like https://www.googleapis.com/auth/devstorage.read_write,.."
  [ "$slices" = 1 ] || queued=1 # only queued resources come in several slices
  if [ "$command" = create ] || [ -n "$watch" ]; then check_type; fi
  if [ "$command" = train ]; then check_run; fi
  case $command in train | ssh) ;; *) [ ${#passed[@]} = 0 ] || fail "$command hands nothing on; remove the --" ;; esac
  [ "$worker" != all ] || [ ${#passed[@]} -gt 0 ] || fail "--worker all is for ssh with a command after --"
}

check_type() {
  [ -n "$type" ] || fail "--type is missing (or TPU_TYPE), like v5litepod-16, v6e-16 or v5p-16"
  local default
  case $type in
    v5e-*) fail "type '$type': v5e is called v5litepod here: v5litepod-${type#v5e-}" ;;
    v7x-* | tpu7x-* | v7-*) fail "type '$type' is to be had through GKE only; see launch/gke/README.md" ;;
    v6e-*) default=v2-alpha-tpuv6e ;;
    v5litepod-*) default=v2-alpha-tpuv5-lite ;;
    v5p-*) default=v2-alpha-tpuv5 ;;
    v[234]-*) default=tpu-ubuntu2204-base ;;
    *) fail "type '$type' is none of v2-N, v3-N, v4-N, v5litepod-N, v5p-N, v6e-N" ;;
  esac
  [[ ${type##*-} =~ ^[1-9][0-9]*$ ]] || fail "type '$type' doesn't end in its size, like ${type%%-*}-16"
  version=${version:-$default}
}

check_run() {
  [ -n "$bucket" ] || fail "--bucket is missing (or TPU_BUCKET); the run is kept in it: gcloud storage buckets create gs://.."
  [[ $bucket =~ ^gs://[a-z0-9][a-z0-9._-]*[a-z0-9](/[^[:space:]]*)?$ ]] || fail "bucket '$bucket' is not like gs://mine"
  workdir=${bucket%/}/$name/
  [ -n "$config" ] || fail "--config is missing (or TPU_CONFIG), like experiments/countdown_tiny.py"
  config=${config#"$root"/}
  git -C "$root" ls-files --error-unmatch -- "$config" >/dev/null 2>&1 ||
    fail "config '$config' is no file of the checkout that git tracks; setup copies those (git add)"
}

# ------------------------------------------------------------------------------------------------------------- commands

create() {
  look_up ABSENT || return 1
  if lost; then
    say "$name is $state; deleting what is left of it"
    delete || return 1
    state=ABSENT
  fi
  if [ "$state" != ABSENT ]; then
    if [ -n "$found_type" ] && [ "$found_type" != "$type" ]; then
      problem="$name exists as $found_type, not $type; delete it, or take another --name" && return 1
    fi
    say "$name exists already: $state"
  elif [ -n "$queued" ]; then
    least_privilege
    local which="--node-id=$name"
    [ "$slices" = 1 ] || which="--node-count=$slices --node-prefix=$name"
    # shellcheck disable=SC2086 # one flag or two
    tpu 600 '' queued-resources create "$name" $which --accelerator-type="$type" --runtime-version="$version" \
      ${account:+"--service-account=$account"} ${scopes:+"--scopes=$scopes"} ${spot:+--spot} ||
      { problem="could not queue for $name: $problem" && return 1; }
  else
    least_privilege
    say "creating $name ($type, $version${spot:+, spot}) .."
    tpu 1800 '' tpu-vm create "$name" --accelerator-type="$type" --version="$version" \
      ${account:+"--service-account=$account"} ${scopes:+"--scopes=$scopes"} ${spot:+--spot} ||
      { problem="could not create $name: $problem" && return 1; }
  fi
  [ -n "$dry_run" ] || wait_until_ready
}

wait_until_ready() {
  local before=
  while look_up READY || return 1; do
    [ "$state" != READY ] || return 0
    if lost || [ "$state" = ABSENT ]; then problem="$name became $state while it was waited for" && return 1; fi
    [ "$state" = "$before" ] || say "$name is $state; waiting (Ctrl-C leaves it in the queue, 'delete' takes it out)"
    before=$state
    pause "${TPU_POLL:-60}"
  done
}

least_privilege() {
  [ -n "$account" ] || say "$name acts as the project's default service account; --service-account names one of fewer rights"
}

billed() { say "$name is there, and is billed until: launch/tpu_vm.sh delete --name $name --zone $zone"; }

need_ready() {
  look_up READY || return 1
  [ "$state" = READY ] || { problem="$name is $state, not READY; launch/tpu_vm.sh create makes it" && return 1; }
}

setup() {
  need_ready || return 1
  local archive=$root/build/asyncthink_jax.tar.gz node
  pack "$archive" || return 1
  say "copying the checkout to all workers, and installing it (some minutes) .."
  for node in $(nodes); do
    tpu 600 '' tpu-vm scp "$archive" "$node:asyncthink_jax.tar.gz" --worker=all ||
      { problem="could not copy to $node: $problem" && return 1; }
  done
  on_all 1800 '' "rm -rf asyncthink_jax.new && mkdir asyncthink_jax.new && tar -xzf asyncthink_jax.tar.gz -C \
asyncthink_jax.new && bash asyncthink_jax.new/launch/on_tpu_vm.sh install" ||
    { problem="could not install on $name: $problem" && return 1; }
  say "$name is set up"
}

# The tracked files as they are in the working tree now: `stash create` makes a commit of them and changes nothing else.
pack() {
  local tree
  tree=$(git -C "$root" -c user.name=setup -c user.email=setup@localhost stash create) || tree=HEAD
  set -- git -C "$root" archive --format=tar.gz --output="$1" "${tree:-HEAD}"
  if [ -n "$dry_run" ]; then quoted "$@" && echo && return; fi
  mkdir -p "$root/build"
  "$@" || { problem="git cannot pack the checkout $root" && return 1; }
}

train() {
  call 60 "$bucket" storage buckets describe "gs://$(bucket_name)" --format='value(name)' ${project:+"--project=$project"} ||
    give_up "bucket gs://$(bucket_name): $problem"
  if [ -n "$watch" ] && [ -z "$dry_run" ]; then watch && return; fi
  need_ready || give_up "$problem"
  training_state || give_up "$problem"
  [ "$training" != new ] || give_up "$name is not set up; launch/tpu_vm.sh setup does that"
  [ "$training" != running ] ||
    give_up "$name trains already, one training a VM; see launch/tpu_vm.sh logs -f --name $name --zone $zone"
  start || give_up "$problem"
  say "training on $name; the run is in $workdir"
  say "see it: launch/tpu_vm.sh logs -f --name $name --zone $zone"
}

bucket_name() { echo "$bucket" | cut -d / -f 3; }

start() {
  on_all 120 '' "$on_vm start $(quoted --config="$config" --workdir="$workdir" ${passed[@]+"${passed[@]}"})" && return 0
  local reason=$problem
  on_all 180 '' "$on_vm stop" || true # those that did start would wait for the others
  problem="could not start training on $name: $reason"
  return 1
}

# Sets $training: running, idle, done, failed CODE, interrupted or stopped (see on_tpu_vm.sh), or new if nothing is set up.
# Workers differ only for moments; the most important state wins. $output has a line for each worker.
training_state() {
  local code=0 word found
  on_all 120 'worker dry-run: idle | ' "$on_vm status" || code=$?
  training=new
  [ "$code" != 127 ] || return 0 # bash found no such file
  [ "$code" = 0 ] || return 1
  training=
  for word in idle 'done' stopped interrupted failed running; do
    found=$(echo "$output" | sed -n "s/^worker [^ ]*: \(${word}[ 0-9]*\) |.*/\1/p" | head -n 1)
    training=${found:-$training}
  done
  [ -n "$training" ] || { problem="the workers say '$output'" && return 1; }
}

status() {
  look_up READY || give_up "$problem"
  show "$name: $state${found_type:+, $found_type}"
  if [ "$state" = READY ]; then
    training_state || give_up "$problem"
    if [ "$training" = new ]; then show "not set up"; else show "$output"; fi
  fi
  [ "$state" = ABSENT ] || billed
}

logs() {
  local node
  node=$(nodes | head -n 1)
  if [ -n "$follow" ]; then attach "$node" --command="$on_vm logs -f"; fi
  tpu 120 '' tpu-vm ssh "$node" --worker="$worker" --command="$on_vm logs" || give_up "no log of $name: $problem"
  show "$output"
}

ssh_to_worker() {
  local node
  node=$(nodes | head -n 1)
  case ${#passed[@]} in
    0) attach "$node" ;;
    1) attach "$node" --command="${passed[0]}" ;; # a line for the shell, as ssh takes it
    *) attach "$node" --command="$(quoted "${passed[@]}")" ;;
  esac
}

# An interactive call: with the user's terminal and without a time limit.
attach() {
  set -- compute tpus tpu-vm ssh "$@" --worker="$worker" --zone="$zone" ${project:+"--project=$project"}
  if [ -n "$dry_run" ]; then call 0 '' "$@" && exit 0; fi
  rm -rf "$scratch"
  exec gcloud "$@"
}

stop() {
  need_ready || return 1
  on_all 180 '' "$on_vm stop" || return 1
  say "$name trains no more"
  billed
}

# A queued resource is deleted with its VMs and may outlive them, so it is looked for first. A VM of that name may exist
# beside it.
delete() {
  local gone=
  describe "${queued:+ACTIVE}" queued-resources describe "$name" --format='value(state.state)' || return 1
  if [ "${output:-ABSENT}" != ABSENT ]; then
    tpu 1200 '' queued-resources delete "$name" --force || { problem="could not delete $name: $problem" && return 1; }
    say "deleted the queued resource $name with its VMs"
    gone=ABSENT
  fi
  describe "${gone:-READY}" tpu-vm describe "$name" --format='value(state)' || return 1
  if [ "$output" = ABSENT ]; then
    [ -n "$gone" ] || say "no VM $name in $zone"
    return 0
  fi
  tpu 1200 '' tpu-vm delete "$name" || { problem="could not delete $name: $problem" && return 1; }
  say "deleted the VM $name"
}

left_over() {
  local run=${bucket:-gs://BUCKET}
  say "what may still cost: the run's files in its bucket; to remove them: gcloud storage rm -r ${run%/}/$name/"
}

# ---------------------------------------------------------------------------------------------------------------- watch

# Keeps training running until it is done: makes a preempted slice again, and retries after errors, a limited number of
# times. All crashes of training count; other errors count from the last time that training was seen to run.
watch() {
  local errors=0 crashes=0 remaking='' before='' code doubled
  say "watching $name; Ctrl-C ends the watching, not the training"
  while :; do
    code=0
    look_after || code=$?
    case $code in
      0) pause "${TPU_POLL:-60}" && continue ;;
      1) errors=$((errors + 1)) ;;
      2) crashes=$((crashes + 1)) ;;
      3) return 0 ;;
    esac
    if [ "$errors" -gt "${TPU_RETRIES:-5}" ] || [ "$crashes" -gt "${TPU_RETRIES:-5}" ]; then
      give_up "no success in $((errors + crashes)) tries: $problem; $name may still be billed (status, delete)"
    fi
    say "$problem; trying again"
    doubled=$((errors + crashes - 1))
    pause $((${TPU_BACKOFF:-60} << (doubled < 6 ? doubled : 6)))
    if [ "$code" = 2 ]; then start || errors=$((errors + 1)); fi
  done
}

# Looks at the slice once and acts on its state. Returns 1 after an error, 2 if training has to be started again, and 3
# if it is over.
look_after() {
  look_up READY || return 1
  if lost || [ -n "$remaking" ]; then
    say "$(date '+%F %T') $name is $state; making it again, the run resumes from $workdir"
    remaking=1
    create && setup && start || return 1
    remaking=
    return 0
  fi
  case $state in
    READY) ;;
    ABSENT) give_up "there is no $name, and it was not preempted; launch/tpu_vm.sh create makes it" ;;
    *)
      [ "$state" = "$before" ] || say "$name is $state; waiting"
      before=$state
      return 0
      ;;
  esac
  training_state || return 1
  [ "$training" = "$before" ] || say "$(date '+%F %T') training: $training"
  before=$training
  problem="training: $(echo "$output" | grep -m 1 -F ": $training |")"
  case $training in
    running) errors=0 ;;
    new) setup && start ;;
    idle) start ;;
    interrupted) return 2 ;; # the VM is back, or will be seen as lost
    done | stopped)
      say "training on $name is over ($training); the run is in $workdir"
      billed
      return 3
      ;;
    'failed 2') give_up "$problem" ;; # bad input stays bad
    failed*) return 2 ;;
  esac
}

main "$@"

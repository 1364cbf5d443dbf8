# A run on Cloud TPU slices, from the request to the end. Above stand: name, mounting, setup, packages, train, restarts,
# keep, where (zone and project), nodes (of the slices), request (options of the queued resource).
set -euo pipefail

tpus() { gcloud compute tpus "$@" "${where[@]}"; }
say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
on_first() { tpus tpu-vm ssh "${nodes[0]}" --worker=0 --quiet --command="$1" 2>/dev/null; }

state() { # of the queued resource; NONE where there is none, UNKNOWN where gcloud gives no answer
  local answer
  if answer=$(tpus queued-resources describe "$name" --format='value(state.state)' 2>&1); then
    printf '%s\n' "${answer##*$'\n'}"
  else
    case $answer in *NOT_FOUND*) echo NONE ;; *) echo UNKNOWN ;; esac
  fi
}

everywhere() { # a command, on all hosts of all slices at once
  local node job jobs=() failed=0
  for node in "${nodes[@]}"; do
    tpus tpu-vm ssh "$node" --worker=all --quiet --command="$1" &
    jobs+=("$!")
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  return "$failed"
}

release() {
  say "giving back $name"
  tpus queued-resources delete "$name" --force --quiet || say "$name could not be deleted: look for it"
}

acquire() { # waits until the slices are there; installed=no where they are new
  local now
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      FAILED | SUSPENDING | SUSPENDED) release ;;
      NONE)
        installed=no
        tpus queued-resources create "$name" "${request[@]}" --quiet || say "refused; trying again"
        ;;
      *) say "$name is $now" ;;
    esac
    sleep 30
  done
}

install() { # what was committed here, its packages, and the shared disk
  local node
  for node in "${nodes[@]}"; do
    tpus tpu-vm scp "$archive" "$node:longctx.tar.gz" --worker=all --quiet || return 1
  done
  everywhere "set -e; mkdir -p longctx; tar -xzf longctx.tar.gz -C longctx; $mounting; $setup
    cd longctx; $packages"
}

start() { # on all hosts, without waiting. What ran before is ended first, so that no two write; in a command of its
  # own, which does not hold the name that it looks for
  local job
  job=$(printf '%q' "$train; echo \$? > train.rc")
  everywhere "pkill -9 -f '[e]xperiments.train' || true; rm -f longctx/train.rc" || return 1
  everywhere ". env/bin/activate; cd longctx; nohup bash -c $job > train.log 2>&1 < /dev/null &"
}

doing() { # what the first host does: running, idle, or unknown where it gives no answer
  on_first 'if [ -e longctx/train.log ] && [ ! -e longctx/train.rc ]; then echo running; else echo idle; fi' ||
    echo unknown
}

follow() { # prints the log of process 0 until the run has ended; its exit code, or 75 where the slices have gone
  local seen=0 text code
  while true; do
    case $(state) in ACTIVE | UNKNOWN) ;; *) return 75 ;; esac
    code=$(on_first 'cat longctx/train.rc 2>/dev/null' || true)
    text=$(on_first "tail -n +$((seen + 1)) longctx/train.log" || true)
    if [ -n "$text" ]; then
      printf '%s\n' "$text"
      seen=$((seen + $(wc -l <<<"$text")))
    fi
    [ -z "$code" ] || return "$code"
    sleep 20
  done
}

attempt() { # one run, from wherever things stand to its end; its exit code, or 75 where it did not come to one
  local now
  acquire
  now=$(doing)
  [ "$now" != unknown ] || return 75
  if [ "$now" = idle ]; then
    [ "$installed" = yes ] || install || return 75
    installed=yes
    start || return 75
  fi
  follow
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
trap 'say "left as it is: the same command follows it, --delete takes it down"; exit 130' INT
git archive --format=tar.gz -o "$archive" HEAD

installed=no code=75
for ((tries = 0; tries <= restarts; tries++)); do
  code=0
  attempt || code=$?
  case $code in 0 | 2) break ;; esac # 2: a mistake in the command, which would be the same again
  say "ended with $code"
  sleep 30
done
[ "$keep" = yes ] || release
exit "$code"

# A run in jobs one after another. Above stand: restarts, train. Slurm sends USR1 five minutes before the time is over.
set -uo pipefail

told=0
stop() {
  told=1
  scancel --signal=TERM "$SLURM_JOB_ID" # to the processes of the run, which save and end with 75
}
trap stop USR1

# processes that end by themselves do so within seconds of one another
srun --kill-on-bad-exit=0 --wait=60 bash -c "exec $train" &
step=$!
wait "$step"
code=$?
if [ "$told" = 1 ] && [ "$code" -gt 128 ]; then # the signal has ended `wait` early
  wait "$step"
  code=$?
fi

case $code in
  0 | 2) exit "$code" ;; # 2: a mistake in the command, which would be the same again
esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge "$restarts" ]; then
  echo "queued again $restarts times already" >&2
  exit "$code"
fi
echo "ended with $code; queued again" >&2
scontrol requeue "$SLURM_JOB_ID"

#!/usr/bin/env bash
# Runs a training again until it is complete, on machines without a scheduler that would: the same
# on each of them, I is 0 on the first one, whose address is MASTER.
#   bash deploy/cluster/keep_running.sh python -m paddle.distributed.launch --nnodes 2 \
#     --master MASTER:6170 --rank I tools/train.py -c configs/PPLCNet_x1_0.yaml \
#     -o Global.checkpoints=auto -o Global.output_dir=/shared/output
#
# - It ends when the training is complete (0), and when running it again would not help: 1 and 2,
#   an error with a message. After anything else it starts the command again, PAUSE seconds later.
# - SIGTERM and Ctrl-C are handed on: the ranks save, and nothing is started again.
# - A machine that was switched off needs this line at its start (systemd, cron's @reboot).
set -uo pipefail
: "${1:?usage: bash deploy/cluster/keep_running.sh COMMAND ...}"

child= stopped=
trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child"' TERM INT
until [ -n "$stopped" ]; do
  "$@" &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child"  # it came before there was a child to tell
  wait "$child"
  status=$?
  if [ -n "$stopped" ]; then
    wait "$child"  # the first wait ended with the signal; the ranks are saving
    exit
  fi
  child=
  case $status in 0 | 1 | 2) exit "$status" ;; esac
  echo "keep_running: ended with status $status; again in ${PAUSE:=5} s" >&2
  sleep "$PAUSE"
done
exit 143  # as after SIGTERM: it came between two starts

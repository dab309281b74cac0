#!/usr/bin/env bash
# Training on a Slurm cluster: 2 machines with 4 GPUs each, shared checkpoints, automatic resume.
#   sbatch deploy/cluster/slurm.sh configs/PPLCNet_x1_0.yaml -o Global.output_dir=/shared/output
# Runs on Slurm 22.05 with two nodes on one machine (docs/distributed.md); not yet on a cluster.
#
# - Everything that the job needs lies on storage that all machines see: the checkout, the Python
#   environment, the images, and Global.output_dir.
# - Two minutes before its time is over, or when it is preempted, the job gets SIGTERM. The ranks
#   finish their step and save; the job puts itself back into the queue and goes on from there.
# - A job whose machine died is put back by Slurm (--requeue) and loses at most what came after
#   the last checkpoint.
#SBATCH --job-name=ppcls_lite
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=ppcls_lite-%j.log
set -uo pipefail

cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# source /shared/venv/bin/activate

config=${1:?usage: sbatch deploy/cluster/slurm.sh CONFIG [-o key=value ...]}
shift
# Paddle's launcher takes addresses, no names. Where a machine has several, say here which.
own_address() { hostname -I | cut -d ' ' -f 1; }
export -f own_address
master=$(own_address):6170  # this script runs on the job's first machine
logs=log/$SLURM_JOB_ID
export GLOG_minloglevel=2

# One launcher per machine; it starts one process per GPU. Without GPUs:
# sbatch --gpus-per-node=0 --export=ALL,PADDLE_NPROC_PER_NODE=N
srun --kill-on-bad-exit=1 bash -c '
  exec python -m paddle.distributed.launch --nnodes "$SLURM_NNODES" --master "$1" \
    --rank "$SLURM_NODEID" --host "$(own_address)" --log_dir "$2/$SLURM_NODEID" \
    tools/train.py -c "${@:3}"
' launch "$master" "$logs" "$config" -o Global.checkpoints=auto "$@" &
step=$!

stopped=
# Not by srun, which would end the step at once: this goes to the launchers only.
trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
wait "$step"
status=$?
if [ -n "$stopped" ]; then
  wait "$step"  # the first wait ended with the signal; the ranks are saving
fi
if [ -n "$stopped" ] || [ "$status" -eq 75 ]; then  # 75: Global.max_minutes is over
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

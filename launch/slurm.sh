#!/bin/bash
# One run on several hosts of a SLURM cluster, one process on each host:
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh \
#       --config=configs/alexnet.py:imagenet2012 --workdir=/shared/runs/imagenet
#
# From the folder of main.py, with its environment (.venv or another) at the
# same path on all hosts; --workdir and the data on a disk that all of them
# share. docs/many_hosts.md says more.
#SBATCH --job-name=alexnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
# SIGTERM two minutes before the time is over: the run saves itself.
#SBATCH --signal=TERM@120
# Preempted or on a broken host, the job is queued again, and continues.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=alexnet-%j.log

set -u
if [ -f .venv/bin/activate ]; then
  . .venv/bin/activate
fi

# JAX gives each task of SLURM a single device unless it is told which are its.
devices="${SLURM_GPUS_ON_NODE:-0}"
if [ "$devices" -gt 0 ]; then
  JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 $((devices - 1)))"
  export JAX_LOCAL_DEVICE_IDS
fi

# A process that has lost another one ends by itself, with a message, so SLURM
# need not kill the others first.
srun --kill-on-bad-exit=0 --label \
    python main.py --distributed "$@"
status=$?

# The highest status of all. 75: a signal stopped the run, which is saved; 76: a
# process or a host was lost; 128 and more: a signal has killed one. The run can
# be continued; three times, so that a host that always fails does not keep the
# queue busy.
if [ "$status" -eq 75 ] || [ "$status" -eq 76 ] || [ "$status" -ge 128 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"

#!/bin/bash
# A job array that restores a folder in eight parts: sbatch docs/slurm.sh INPUT OUTPUT [options of flashdiff restore]
# A part that is killed or runs out of time goes on when the same command is given again.
#SBATCH --job-name=flashdiff
#SBATCH --array=1-8
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=logs/part-%a.log
set -u
input=${1:?INPUT OUTPUT}
output=${2:?INPUT OUTPUT}
shift 2
part=${SLURM_ARRAY_TASK_ID:?to be started by sbatch}
mkdir -p logs
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# Two minutes before its time ends, the present picture is finished and the rest left.
flashdiff restore "$input" -r -o "$output" --shard "$part/${SLURM_ARRAY_TASK_COUNT:?}" --json "$@" > "logs/part-$part.jsonl" &
run=$!
trap 'kill -TERM $run' TERM
wait $run
code=$?
# A signal ends the waiting, not the run.
while kill -0 $run 2>/dev/null; do wait $run; code=$?; done
exit $code

# shellcheck shell=bash
# Sourced by the *.sbatch scripts: one attempt at a stage, and another while the run gets further.
# A DONE file says that a stage is complete; an exit status never does.
set -uo pipefail
: "${code:?the folder of cli.py}"
# shellcheck disable=SC2034  # the scripts use them
run_dir='' arguments=() formats=() checks=() srun_options=()
python=${LLM_PRUNE_PYTHON:-python3} task_python=${LLM_PRUNE_PYTHON:-python3}  # a container has its own
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}  # the bare id of one task is the array's
job=${job:-${SLURM_JOB_ID:-}}
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}
export SLURM_EXPORT_ENV=ALL                        # for srun, also where sbatch got --export=NONE
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# begin STAGE CONFIG.yaml... --KEY=VALUE...: the attempt begins. Sets run_dir, arguments, formats, checks,
# srun_options, task_python and the site's environment; ends the job if the stage is complete.
begin() {
  local settings
  given=("$@") part=start
  settings=$("$python" "$code/slurm" begin "$@") || exit 1
  trap on_term TERM
  eval "$settings"
}

# Check every node: folder, GPUs, memory, disk, all-reduce. The log names the node that lacks something.
preflight() {
  [ ${#checks[@]} -gt 0 ] || return 0
  on_every_task "$code/slurm" preflight "$run_dir" "${checks[@]}" || end $?
}

# Run llm-prune on every task of the job.
llm_prune() {
  on_every_task "$code/cli.py" "$@"
}

# In the background, so that a signal to this script is heard at once.
on_every_task() {
  part=$2
  srun --kill-on-bad-exit=1 "${srun_options[@]}" "$task_python" "$@" &
  wait $!
}

# end STATUS: exit 0 if the stage is complete, back into the queue if it may go on, else exit 1.
end() {
  trap '' TERM                                     # requeueing itself kills this script
  "$python" "$code/slurm" end "$1" "$part" "${given[@]}"
  case $? in
    0) exit 0 ;;
    85) requeue ;;
  esac
  exit 1
}

# The controller may be restarting: ask for ten minutes.
requeue() {
  for _ in {1..40}; do
    scontrol requeue "$job" && sleep 600
    sleep 15
  done
}

# SLURM kills this script: at the time limit it asks for another attempt first, after scancel it does not.
on_term() {
  trap '' TERM
  scontrol show job "$job" | grep -q Reason=TimeLimit && end 143
  exit 143
}

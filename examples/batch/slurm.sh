#!/usr/bin/env bash
# A pilot as a Slurm job: one job is one pilot on one node, an array is as many. What follows the file's name goes to
# `apicas run`:
#
#     sbatch slurm.sh --pool https://me@couch.example.org/survey -- ./simulate {input}
#     sbatch --array=1-50 --cpus-per-task=32 --time=12:00:00 slurm.sh --pool ... work.py:Actor
#
# The pilot finds the cores, the memory and the end of the job by itself, and drains in time: leave it the whole
# --time. Its lock holds as long as it lives, so a job that is killed costs its tokens one lease.
#
#SBATCH --job-name=apicas
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --output=apicas-%j.log
#SBATCH --open-mode=append

# Make `apicas` known here, as your site has it:
# module load Python/3.11
# source "$HOME/apicas/bin/activate"

# exec: signals of the batch system come to the pilot itself, and not to a shell that does not pass them on.
exec apicas run --resources auto "$@"

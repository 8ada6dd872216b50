#!/usr/bin/env bash
# A pilot as a PBS or Torque job. qsub takes no arguments for a script, so they come in a variable:
#
#     qsub -v APICAS_POOL=https://me@couch.example.org/survey,WORK=work.py:Actor pbs.sh
#     qsub -J 1-50 -v APICAS_POOL=...,WORK=... pbs.sh          (PBS Professional; Torque has -t)
#
# The end of the job is asked of `qstat -f`, else taken from PBS_WALLTIME; without either say --walltime below.
#
#PBS -N apicas
#PBS -l select=1:ncpus=16:mem=32gb
#PBS -l walltime=04:00:00
#PBS -j oe

cd "${PBS_O_WORKDIR:-.}" || exit 1

# Make `apicas` known here, as your site has it:
# module load Python/3.11
# source "$HOME/apicas/bin/activate"

# exec: signals of the batch system come to the pilot itself, and not to a shell that does not pass them on.
exec apicas run --resources auto "${WORK:?say what to run: qsub -v WORK=work.py:Actor}" "$@"

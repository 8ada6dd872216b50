#!/usr/bin/env bash
# What a DIRAC job runs on its worker node: makes an environment for the pilot, and becomes it. See dirac.jdl.
set -euo pipefail

python3 -m venv apicas-env
apicas-env/bin/pip install --quiet apicas
if [ -r password ]; then
	APICAS_PASSWORD=$(<password)
	export APICAS_PASSWORD
	rm password
fi

# DIRAC tells nobody when its slot ends: what it promised is the time of the job, counted in seconds from here.
exec apicas-env/bin/apicas run --resources auto --walltime "${WALLTIME:-12h}" "$@"

#!/usr/bin/env bash
# Real text from the base model to the table, one command that goes on where it stopped:
#   bash configs/jobs/real-text.sh CONFIG [section.key=value ...]
# 1. warm-up of BASE on DATA into the config's student.model, where that is not there (the fictional passages need none)
# 2. validity, where the config has that section
# 3. the training runs and the evaluation, whose tables are printed and kept in run.dir
# BASE is a model folder or Hub id (a 0.5B to 1.5B one on a GPU), DATA passages with questions under other titles.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bash configs/jobs/real-text.sh CONFIG [section.key=value ...]" >&2; exit 2; }
PYTHON=${PYTHON:-.venv/bin/python}
BASE=${BASE:-models/smollm2-135m-instruct}
DATA=${DATA:-../shared/data/squad_passages.jsonl}

read -r student validity < <("$PYTHON" - "$@" <<'END'
import sys

from configs.errors import UserError
from configs.load import load_config

try:
    config = load_config(sys.argv[1], sys.argv[2:])
except UserError as error:
    sys.exit(f"error: {error}")
print(config.student.model, int("validity" in config.model_fields_set))
END
) || exit 2

if [ "$BASE" = models/smollm2-135m-instruct ] && [ ! -d "$BASE" ]; then
    "$PYTHON" -m curation.models.smollm2
fi
if [ "$student" != "$BASE" ] && [ ! -d "$student" ]; then
    "$PYTHON" -m curation.cli warm-up "$@" --model "$BASE" --data "$DATA" --output "$student"
fi
if [ "$validity" = 1 ]; then
    "$PYTHON" -m curation.cli validity "$@"
fi
"$PYTHON" -m curation.cli evaluate "$@"

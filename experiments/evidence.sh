#!/usr/bin/env bash
# Makes the committed results of one set again: every training, benchmark and verdict.
#
#   bash experiments/evidence.sh SET FOLDER
#
# Run it from a clean tree on a quiet machine; on two cores it takes about five hours. Everything in
# it goes on where it was stopped, so the same command may be given again. Afterwards
# `python -m tools.results FOLDER/results SET models`, `make readme` and `itera report` file and show
# what was measured.
set -euo pipefail
set=$1 folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
itera() { echo "\$ itera $*"; "$root/.venv/bin/itera" "$@"; }
mkdir -p "$folder" && cd "$folder"

# The pair at equal time (20 minutes), and what it costs to run.
itera train --data "$set" --minutes 10 --resume
for model in itera_lite_tiny transformer_tiny; do itera eval "checkpoints/$model"; done
itera bench --peers
itera bench train
itera bench decode checkpoints/itera_lite_tiny checkpoints/transformer_tiny
itera bench score checkpoints/itera_lite_tiny checkpoints/transformer_tiny

# Three seeds at 2 and 10 minutes (12 and 60 minutes), at 8 M tokens (30), a Transformer of the same
# FLOPs (10), and the best of three sizes at 10 minutes (120).
itera bench seeds --data "$set" --minutes 2
itera bench seeds --data "$set" --minutes 10
itera bench seeds --data "$set" --tokens 8M
itera bench seeds --data "$set" --tokens 8M --transformer lean
for size in nano small; do itera bench seeds --data "$set" --config "$size" --minutes 10; done

# The ladder with three seeds (120 minutes).
itera ladder --data "$set" --minutes 2 --seeds 3

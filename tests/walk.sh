#!/usr/bin/env bash
# The way of a user in nine commands: from a folder of JPEGs to a network in timm and transformers.
#
#   bash tests/walk.sh JPEGS OUT [RECIPE [flags of jssl train]]
#
# RECIPE is photos if it is not given. PYTHON is the Python that has jssl with the extra `report`; the
# last two commands are left out, with a message, if it has no timm or no transformers.
set -euo pipefail
jpegs=$1
out=$2
recipe=${3:-photos}
shift "$(($# < 3 ? $# : 3))"
python=${PYTHON:-.venv/bin/python}
jssl() { "$python" -m jssl "$@"; }
has() { "$python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))"; }
mkdir -p "$out"
set -x

# 1. What is in the folder.
jssl data check --data="$jpegs"

# 2. Pretrains, or continues if it was stopped.
jssl train --config="$recipe" --config.data.source=folder --config.data.path="$jpegs" \
    --workdir="$out/run" "$@"

# 3. One page about the run.
jssl report --workdir="$out/run" --out="$out/report.html"

# 4. The features of all images.
jssl embed --workdir="$out/run" --out="$out/features.npz"

# 5. The nearest images of the first five.
"$python" - "$out/features.npz" <<'PYTHON'
import sys

import numpy as np

content = np.load(sys.argv[1])
z = content["features"] / np.linalg.norm(content["features"], axis=1, keepdims=True)
for i, row in enumerate(z[:5] @ z.T):
    print(content["name"][i], "->", *content["name"][np.argsort(-row)[1:4]])
PYTHON

# 6. For timm.  7. For transformers.
jssl export --workdir="$out/run" --format=timm --out="$out/timm"
jssl export --workdir="$out/run" --format=hf --out="$out/hf"

# 8. In timm.
if has timm; then
    "$python" - "$out/timm" <<'PYTHON'
import sys

import timm
import torch

model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
size = timm.data.resolve_model_data_config(model)["input_size"]
print("timm:", tuple(model(torch.zeros(2, *size)).shape))
PYTHON
else
    echo "timm is not installed: its folder is not loaded"
fi

# 9. In transformers.
if has transformers; then
    "$python" - "$out/hf" "$jpegs" <<'PYTHON'
import pathlib
import sys

from PIL import Image
from transformers import AutoImageProcessor, AutoModel

folder, jpegs = sys.argv[1:]
model = AutoModel.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
image = Image.open(next(pathlib.Path(jpegs).rglob("*.jpg")))
output = model(**processor(images=image, return_tensors="pt"))
print("transformers:", tuple(output.last_hidden_state.shape))
PYTHON
else
    echo "transformers is not installed: its folder is not loaded"
fi

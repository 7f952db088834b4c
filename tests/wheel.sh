#!/usr/bin/env bash
# Builds the wheel, installs it in an empty environment far from the repository, and uses what it ships.
# PYTHON: the interpreter that builds, which has the locked packages.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=$(cd "$(dirname "${PYTHON:-python3}")" && pwd)/$(basename "${PYTHON:-python3}")
cd "$root"
"$python" -m build --wheel --no-isolation --outdir "$place/dist" . > "$place/build.log" 2>&1 || { cat "$place/build.log"; exit 1; }
"$python" -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$place/env/bin/pip" install --quiet --disable-pip-version-check --no-deps "$place"/dist/*.whl
mkdir "$place/empty" && cd "$place/empty"
export L2L_CACHE="$place/cache"
"$place/env/bin/l2l" --version
"$place/env/bin/l2l" list problems > list.txt && grep -q '^classification' list.txt
"$place/env/bin/python" - <<'CODE'
import jax.numpy as jnp
import l2lcli

assert "site-packages" in l2lcli.__file__, l2lcli.__file__
for name in ("digits", "digits-averages", "quadratic"):
    tx = l2lcli.load(name)
    theta, grads = {"w": jnp.ones((3, 2))}, {"w": jnp.full((3, 2), 0.1)}
    updates, _ = tx.update(grads, tx.init(theta), theta, value=jnp.float32(1.0))
    assert updates["w"].shape == (3, 2) and bool(jnp.isfinite(updates["w"]).all() and (updates["w"] != 0).any()), name
print("load: digits, digits-averages, quadratic make steps")
CODE
cat > digits.yaml <<'YAML'
problem: {kind: classification, dataset: digits}
optimizer: {kind: lstm, layers: 1, hidden: 4}
train: {episodes: 4, tasks: 2, horizon: 10, estimator: {window: 5}, validate_every: 2, validation_seeds: 2}
eval: {steps: 10, seeds: 3, tuning_seeds: 2, baselines: [sgd]}
YAML
"$place/env/bin/l2l" train digits.yaml > train.txt 2> train.err || { cat train.err; exit 1; }
grep -q 'digits: 10 steps, 3 seeds' train.txt
"$place/env/bin/l2l" eval digits --steps 10 --seeds 2 --baseline sgd --set eval.tuning_seeds=2 > eval.txt 2> eval.err || { cat eval.err; exit 1; }
test ! -s eval.err || ! grep -q warning eval.err || { cat eval.err; exit 1; }
"$place/env/bin/l2l" new problem mine > /dev/null && "$place/env/bin/l2l" config validate mine.yaml
echo "wheel: list, load, train, eval and new work in an empty environment"

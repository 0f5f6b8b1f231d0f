"""A first job: learns sin(x) with sixteen neurons in plain Python, and can be stopped at any time.

Shows the whole of what a job says to Madang: report() draws its curves, checkpoint_dir() survives
a retry, should_stop() asks it to save and leave. Takes about twenty seconds.
"""

import json
import math
import os
import random
import time
from pathlib import Path

import madang

STEPS = 400
STEP_S = 0.05  # a step of a bigger network takes longer; this makes the curve one to watch
NEURONS = 16
RATE = 0.005
POINTS = [(x / 10, math.sin(x / 10)) for x in range(-30, 31)]

Weights = list[list[float]]  # (NEURONS, 3): into the neuron, its bias, out of it


def main() -> None:
    """Train from the checkpoint if there is one, else from the start."""
    checkpoint = Path(madang.checkpoint_dir()) / "weights.json"
    step, weights = load(checkpoint)
    print(f"from step {step} of {STEPS}", flush=True)
    while step < STEPS and not madang.should_stop():
        began = time.monotonic()
        loss = descend(weights)
        step += 1
        madang.report(step=step, loss=loss)
        if step % 50 == 0:
            save(checkpoint, step, weights)
            print(f"step {step}: loss {loss:.5f}", flush=True)
        time.sleep(max(0.0, STEP_S - (time.monotonic() - began)))
    save(checkpoint, step, weights)
    print("done" if step == STEPS else f"asked to stop: saved at step {step}", flush=True)


def descend(weights: Weights) -> float:
    """One pass of gradient descent over all points, in place; the mean squared error before it."""
    loss = 0.0
    for x, y in POINTS:
        fired = [math.tanh(into * x + bias) for into, bias, _ in weights]
        error = sum(out * h for (_, _, out), h in zip(weights, fired, strict=True)) - y
        loss += error * error / len(POINTS)
        for neuron, h in zip(weights, fired, strict=True):
            slope = error * neuron[2] * (1 - h * h)
            neuron[0] -= RATE * slope * x
            neuron[1] -= RATE * slope
            neuron[2] -= RATE * error * h
    return loss


def load(checkpoint: Path) -> tuple[int, Weights]:
    """The step and the weights that were saved last, or fresh ones."""
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        return saved["step"], saved["weights"]
    chance = random.Random(1)
    return 0, [[chance.uniform(-1, 1) for _ in range(3)] for _ in range(NEURONS)]


def save(checkpoint: Path, step: int, weights: Weights) -> None:
    """Write the whole checkpoint or nothing: a job may be killed at any moment."""
    fresh = checkpoint.with_suffix(".new")
    fresh.write_text(json.dumps({"step": step, "weights": weights}))
    os.replace(fresh, checkpoint)


if __name__ == "__main__":
    main()

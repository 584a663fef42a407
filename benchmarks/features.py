"""An epoch of alignment on stored features beside one with the encoders in the training step. Prints seconds and their ratio; asserts equal features and bits.

    python benchmarks/features.py [--samples 512]

Reads the shards of `openmoji` and the weights of EfficientNet-lite0 and all-MiniLM-L6-v2 in this project, and the features of them that the stages
have computed: run `snakemake models/align_openmoji/manifest.json` first. Both sides train the heads of experiments/align_openmoji.yaml with one worker, from
the same initial weights, on the same first samples. One epoch of each is timed, reading included; the first of the stored side, which opens its files, is
timed, too. Then both must have the same weights, bit for bit.

Seconds are CPU seconds of this process, which has one thread.
"""

import argparse
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from glassworks.config.data import Options
from glassworks.config.project import load_project
from glassworks.data.reading.dataset import ShardDataset
from glassworks.tasks.alignment.settings import features_role, weights_role
from glassworks.tasks.alignment.task import AlignmentTask, make
from glassworks.training.determinism import make_deterministic
from glassworks.training.step import Trainer, seed_generators
from glassworks.training.workers import Workers

EXPERIMENT = "align_openmoji"
AT_LEAST = 20
"""Times faster."""


def tasks(root: Path) -> dict[str, AlignmentTask]:
    """The task of the experiment with stored features, and with both encoders in the loop."""
    project = load_project(root)
    found = {}
    for kind in ("stored", "loop"):
        experiment = project.experiments[EXPERIMENT].model_copy(deep=True)
        inputs = {}
        for name, tower in experiment.model.towers.items():
            encoder = project.params.encoders[tower.encoder]
            object.__setattr__(tower, "features", kind)
            experiment.encoders[tower.encoder] = encoder
            inputs[features_role(name)] = root / "data/features" / tower.encoder / experiment.data.datasets[0]
            inputs[weights_role(name)] = root / "data/weights" / encoder.weights
        found[kind] = make(experiment, inputs, {})
    return found


def main() -> None:
    """Time both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=512, help="samples of an epoch; a multiple of 128")
    count = parser.parse_args().samples
    root = Path(__file__).resolve().parents[1]
    make_deterministic()
    experiment = load_project(root).experiments[EXPERIMENT]
    samples = ShardDataset(root / "data/shards" / experiment.data.datasets[0], "train", verify="first_touch")
    count = min(count, len(samples)) // 128 * 128
    weights = {}
    seconds: dict[str, list[float]] = {}
    for kind, task in tasks(root).items():
        seed_generators(0, "initial weights")
        model = task.build()
        trainer = Trainer(model, task, experiment.optimization, experiment.training, 0, Workers())
        rows = task.arrange(samples)
        seconds[kind] = []
        for _ in range(2 if kind == "stored" else 1):
            start = time.process_time()
            for step in range(count // 128):
                batches = [
                    task.collate([task.example(rows[index], Options(), 0) for index in range(first, first + 64)])
                    for first in (128 * step, 128 * step + 64)
                ]
                trainer.step(batches, step)
            seconds[kind].append(time.process_time() - start)
            weights.setdefault(kind, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert all(torch.equal(tensor, weights["loop"][name]) for name, tensor in weights["stored"].items())
    first, warm = seconds["stored"]
    [loop] = seconds["loop"]
    print(
        f"an epoch of {count:,} samples with the encoders in the loop: {loop:.2f} s, {1000 * loop / count:.1f} ms a sample"
    )
    print(f"on stored features: {first:.3f} s with opening the files, {warm:.3f} s after that")
    print(f"{loop / first:.0f} and {loop / warm:.0f} times faster; the same weights after both, bit for bit")
    assert loop / first >= AT_LEAST, f"{loop / first:.1f}, not {AT_LEAST}"


if __name__ == "__main__":
    main()

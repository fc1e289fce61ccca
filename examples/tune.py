"""python examples/tune.py DATA OUT: learning rate and scale augmentation by Ray Tune, which stops weak trials early."""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends records of its use

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from detector import Callback, train
from detector.config import AugmentConfig, TrainConfig
from detector.training.callbacks import EpochDone

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data")
parser.add_argument("out", type=lambda path: Path(path).absolute())
for name, number in (("trials", 16), ("epochs", 30), ("image_size", 320), ("cpus", 1), ("gpus", 0)):
    parser.add_argument(f"--{name}", type=int, default=number)
options = parser.parse_args()
data = str(Path(options.data).absolute())  # trials run in folders of their own


class Report(Callback):
    def epoch_done(self, event: EpochDone) -> None:
        tune.report({"AP": event.metrics["AP"] or 0.0})


def trial(choice: dict[str, float]) -> None:
    out = options.out / tune.get_context().get_trial_name()
    fixed = {"data": data, "out": str(out), "epochs": options.epochs, "image_size": options.image_size, "loggers": []}
    train(TrainConfig(**fixed, lr=choice["lr"], augment=AugmentConfig(scale=choice["scale"])), callbacks=[Report()])


ray.init(include_dashboard=False, log_to_driver=False)
space = {"lr": tune.loguniform(3e-4, 1e-2), "scale": tune.uniform(0.1, 0.9)}
early = ASHAScheduler(max_t=options.epochs, grace_period=max(options.epochs // 5, 1))
search = tune.TuneConfig(metric="AP", mode="max", num_samples=options.trials, scheduler=early)
resources = {"cpu": options.cpus, "gpu": options.gpus}
kept = tune.RunConfig(name="tune", storage_path=str(options.out))
found = tune.Tuner(tune.with_resources(trial, resources), param_space=space, tune_config=search, run_config=kept).fit()
best = found.get_best_result(scope="all")
print(json.dumps({"AP": best.metrics_dataframe["AP"].max(), **best.config}))

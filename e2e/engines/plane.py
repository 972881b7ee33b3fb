"""Makes a model that MLServer serves: a linear regression that has learnt y = 3a + 5b + 7, so that every caller can
tell whether an answer belongs to its own rows.

Usage: plane.py FOLDER
"""

import json
import pathlib
import sys

import joblib
import numpy
from sklearn.linear_model import LinearRegression


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    points = numpy.random.default_rng(20).uniform(-100, 100, size=(200, 2))
    learnt = LinearRegression().fit(points, points @ [3, 5] + 7)
    joblib.dump(learnt, folder / "model.joblib")
    (folder / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "plane",
                "implementation": "mlserver_sklearn.SKLearnModel",
                # From these a sidecar makes up the inference with which it warms the engine up.
                "inputs": [{"name": "points", "datatype": "FP64", "shape": [-1, 2]}],
                "outputs": [{"name": "predict", "datatype": "FP64", "shape": [-1]}],
                "parameters": {"uri": "./model.joblib", "version": "v1"},
            },
            indent=2,
        )
    )
    # No pool of worker processes: the model is small, and the pool of 1.7 doesn't start with this uvloop.
    # No metrics: they would need a port of their own.
    settings = {"parallel_workers": 0, "host": "127.0.0.1", "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(settings, indent=2))
    print(f"wrote a linear regression to {folder}")


if __name__ == "__main__":
    main()

"""Search for settings: a grid with scikit-learn's cross-validation, then Optuna, which ends trials that lag behind.

    python examples/search.py            # on the bundled sample; needs the extra "search"

Both search with training images only. What they found is trained once more, on all training images, and scored once with
the test images.
"""

from __future__ import annotations

import argparse
import sys

from minicnn import load_fashion_mnist
from minicnn.callbacks import LambdaCallback

try:
    import optuna
    from sklearn.model_selection import GridSearchCV

    from minicnn.sklearn import MiniCNNClassifier
except ImportError as error:
    sys.exit(f'{error}: pip install "minicnn-numba[search]"')


def grid(images, labels, epochs: int) -> dict:
    """The best of four settings, by the mean accuracy of three folds."""
    settings = {"learning_rate": [1e-3, 3e-3], "batch_size": [32, 64]}
    search = GridSearchCV(MiniCNNClassifier(epochs=epochs, random_state=0), settings, cv=3)
    search.fit(images, labels)
    print(f"grid: {search.best_params_} gives {search.best_score_:.1%} in cross-validation")
    return search.best_params_


def pruned(images, labels, epochs: int, trials: int) -> dict:
    """The best of so many settings, by accuracy on a tenth held out; after each epoch a trial may be given up."""

    def trial(trial: optuna.Trial) -> float:
        def report(run) -> None:
            trial.report(run.metrics["val_accuracy"], run.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        settings = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-2, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [32, 64]),
        }
        model = MiniCNNClassifier(
            epochs=epochs,
            validation_split=0.1,
            callbacks=[LambdaCallback(on_epoch_end=report)],
            random_state=0,
            **settings,
        )
        return model.fit(images, labels).history_["val_accuracy"][-1]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.optimize(trial, n_trials=trials, show_progress_bar=True)
    given_up = len(study.get_trials(states=[optuna.trial.TrialState.PRUNED]))
    print(f"Optuna: {study.best_params} gives {study.best_value:.1%} held out; {given_up} of {trials} trials given up")
    return study.best_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=10)
    options = parser.parse_args()
    data = load_fashion_mnist("sample")
    images, labels = data.train_images, data.train_labels
    for settings in (grid(images, labels, options.epochs), pruned(images, labels, options.epochs, options.trials)):
        model = MiniCNNClassifier(epochs=options.epochs, random_state=0, **settings).fit(images, labels)
        print(f"{settings}: {model.score(data.test_images, data.test_labels):.1%} of the sample's test images")


if __name__ == "__main__":
    main()

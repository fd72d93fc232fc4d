"""Train a model on every flight that left New York in 2013, and show how well it learned.

    python examples/quickstart.py --out runs/flights

The model has two targets: whether a flight leaves late, and whether it arrives late. It goes
through the year once, in scheduled order, like a model that learns online. Every prediction is made
before the model learns from that flight. The records are therefore a progressive validation, which
gives an honest AUC without a test set. (In production, a flight's label arrives hours after its
prediction; here it is available at once.)
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import polars as pl
from flights import INPUTS, TARGETS, load

from monolith_keras_metrics import DeepInsightCallback, insight

# The expression that groups records by month. Times in records are Unix seconds.
MONTH = (
    pl.from_epoch("req_time")
    .dt.convert_time_zone("America/New_York")
    .dt.strftime("%Y-%m")
    .alias("month")
)


def make_model() -> keras.Model:
    """Return a model with an embedding per input, a hidden layer, and an output per target."""
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in INPUTS}
    vectors = [keras.layers.Embedding(size, 8)(inputs[name]) for name, size in INPUTS.items()]
    hidden = keras.layers.Dense(32, "relu")(keras.layers.concatenate(vectors))
    outputs = {name: keras.layers.Dense(1, "sigmoid", name=name)(hidden) for name in TARGETS}
    # Keras takes the columns of a list of inputs by their names, and those of a dict by position.
    return keras.Model([*inputs.values()], outputs)


def to_arrays(flights: pl.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `x` and `y` for `fit`.

    Some columns of `x`, such as `uid` and `carrier`, are only for the records. The callback removes
    them before the model sees them.
    """
    columns = {name: flights[name].to_numpy() for name in flights.columns}
    y = {name: columns.pop(name) for name in TARGETS}
    return columns, y


def train(folder: str, sample_ratio: float) -> None:
    """Train a new model with a callback that writes records to `folder`."""
    x, y = to_arrays(load())
    keras.utils.set_random_seed(1)
    model = make_model()
    model.compile(keras.optimizers.Adam(0.003), "binary_crossentropy")
    model.fit(
        x,
        y,
        batch_size=512,
        shuffle=False,  # keep the order of time
        callbacks=[
            DeepInsightCallback(
                folder,
                model_name="flights",
                extra_fields=["carrier", "origin", "dest", "hour", "distance"],
                sample_ratio=sample_ratio,
            )
        ],
    )


def show(folder: str) -> None:
    """Print the measures of the newest training in `folder`, and where it is wrong."""
    records = insight.open_run(folder)
    newest = records.filter(pl.col("attempt") == pl.col("attempt").max())
    by_target = insight.summary(newest, measures=["calibration", "auc"], interval=0.95)
    by_month = insight.summary(newest, by=MONTH, measures="auc")
    wrong = insight.slices(newest, ["carrier", "origin", "hour"], most=5)
    with pl.Config(
        float_precision=3,
        tbl_cols=-1,
        tbl_rows=-1,
        tbl_width_chars=120,
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        thousands_separator=",",
    ):
        print("\nQuality of the predictions, with intervals of 95%:")
        print(by_target.drop("unlabelled", "invalid", "revisits"))
        print("\nAUC by month:")
        print(by_month.pivot("target", index=["month", "examples"], values="auc"))
        print("\nWhere they are clearly too high or too low; impact is the number of late flights:")
        print(
            wrong.select(
                "target", "slice", "examples", "mean_prediction", "mean_label", "impact", "share"
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/flights", help="folder for the records")
    parser.add_argument(
        "--sample_ratio", type=float, default=1.0, help="share of aircraft to record, 0 to 1"
    )
    options = parser.parse_args()
    train(options.out, options.sample_ratio)
    show(options.out)
    print(f"\nFor all of this with charts, as a page: deep-insight report {options.out}")


if __name__ == "__main__":
    main()

"""Plant a fault in the training of the quickstart, for deep-insight watch to find.

    python examples/incident.py --out runs/incident
    deep-insight watch runs/incident --rules examples/incident.toml --window 6h --final

On 10 and 11 June, the hour of the flights from Newark (EWR) does not arrive: a default, 21, comes
instead. At 21 o'clock flights are late more often, so the model predicts too much, and only there.

Whether a flight is late depends on the weather of its day, and the quickstart's model is off on
many days, which is no fault of its own. So that there is just one fault to be found, labels are
drawn here, with the share of late flights of the airport and the hour: five passengers a flight,
each of whom may be late.
"""

from __future__ import annotations

import argparse
import datetime as dt

import keras
import numpy as np
import polars as pl
from flights import INPUTS, TARGETS, load
from quickstart import make_model, to_arrays

from monolith_keras_metrics import DeepInsightCallback

MARCH, MAY, BEGIN, END = (
    dt.datetime(2013, *day, tzinfo=dt.timezone.utc) for day in ((3, 1), (5, 1), (6, 10), (6, 12))
)
DEFAULT_HOUR = 21
PASSENGERS = 5


def load_with_fault(until: dt.datetime) -> pl.DataFrame:
    """Return passengers from March on, with labels that are drawn, and with the fault."""
    share = [pl.col(name).mean().over("origin", "hour") for name in TARGETS]
    flights = load().with_columns(share)
    first, last, begin, end = (int(time.timestamp()) for time in (MARCH, until, BEGIN, END))
    passengers = (
        flights.filter(pl.col("req_time").is_between(first, last, closed="left"))
        .with_columns(passenger=pl.int_ranges(0, PASSENGERS))
        .explode("passenger")
        .with_columns(uid=pl.col("uid") * PASSENGERS + pl.col("passenger"))
        .drop("passenger")
    )
    random = np.random.default_rng(1)
    faulty = (pl.col("origin") == "EWR") & pl.col("req_time").is_between(begin, end, closed="left")
    return passengers.with_columns(
        *(
            (pl.col(name) > pl.Series(random.random(passengers.height))).cast(pl.Float32)
            for name in TARGETS
        ),
        hour=pl.when(faulty).then(DEFAULT_HOUR).otherwise("hour"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/incident", help="folder for the records")
    parser.add_argument(
        "--until", default="2013-06-24", help="the day before which training stops (UTC)"
    )
    options = parser.parse_args()
    until = dt.datetime.fromisoformat(options.until).replace(tzinfo=dt.timezone.utc)
    passengers = load_with_fault(until)
    is_young = pl.col("req_time") < int(MAY.timestamp())
    keras.utils.set_random_seed(1)
    model = make_model()
    model.compile(keras.optimizers.Adam(0.001), "binary_crossentropy")
    recorder = DeepInsightCallback(
        options.out,
        model_name="flights",
        extra_fields=["carrier", "origin", "hour"],
        sample_ratio=1.0,
    )
    # A new model is wrong about everything. It is recorded once it has seen two months, and then
    # learns slowly, as models in production do.
    x, y = to_arrays(passengers.filter(is_young))
    model.fit({name: x[name] for name in INPUTS}, y, batch_size=512, shuffle=False, verbose=2)
    model.optimizer.learning_rate = 0.0001
    x, y = to_arrays(passengers.remove(is_young))
    model.fit(x, y, batch_size=512, shuffle=False, verbose=2, callbacks=[recorder])


if __name__ == "__main__":
    main()

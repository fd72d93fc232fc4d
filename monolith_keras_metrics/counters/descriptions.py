"""What is emitted: each name with its description and its unit, as UCUM writes it."""

from __future__ import annotations

DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "deep_insight.accepted": ("Examples that were submitted.", "{example}"),
    "deep_insight.sampled": ("Examples of users in the sample.", "{example}"),
    "deep_insight.unsampled": ("Examples of users outside the sample.", "{example}"),
    "deep_insight.written": ("Examples that every sink has.", "{example}"),
    "deep_insight.dropped": ("Examples that found no room.", "{example}"),
    "deep_insight.failed": ("Examples that were given up.", "{example}"),
    "deep_insight.steps": ("Batches that were submitted.", "{step}"),
    "deep_insight.waiting": ("Examples that are not written yet.", "{example}"),
    "deep_insight.lag_seconds": ("Age of the oldest example that waits.", "s"),
    "deep_insight.spooled_bytes": ("Size of the journal.", "By"),
    "deep_insight.last_record_timestamp_seconds": (
        "Unix time when examples were last seen to be submitted.",
        "s",
    ),
    "deep_insight.steps_per_second": ("Batches a second, lately.", "{step}/s"),
    "deep_insight.examples_per_second": ("Examples a second, lately.", "{example}/s"),
    # Of `deep-insight watch`.
    "deep_insight.windows": ("Windows of time that were closed.", "{window}"),
    "deep_insight.late": ("Records that came after their window was closed.", "{record}"),
    "deep_insight.alerts": ("Alerts that fired.", "{alert}"),
    "deep_insight.alert_firing": ("1 while the alert fires, then 0.", "1"),
    "deep_insight.window_start_timestamp_seconds": (
        "Unix time at which the newest closed window begins.",
        "s",
    ),
    "deep_insight.window_end_timestamp_seconds": (
        "Unix time at which the newest closed window ends.",
        "s",
    ),
    "training.steps_per_second": ("Steps a second, lately, without validation.", "{step}/s"),
    "training.examples_per_second": (
        "Examples a second, lately, without validation.",
        "{example}/s",
    ),
    "training.step_loss": ("Mean loss of the examples since the last look.", "1"),
    "training.loss": ("Loss of the epoch so far, as Keras reports it.", "1"),
}

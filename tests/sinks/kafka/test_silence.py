"""How long brokers have been silent, and why."""

from __future__ import annotations

import pytest

from monolith_keras_metrics.sinks.kafka.silence import Silence
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress

KafkaError = pytest.importorskip("confluent_kafka").KafkaError
ADDRESS = KafkaAddress("h:1", "t", {"sasl.password": "hunter2"})
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")


def silent(now: float = 0.0) -> Silence:
    return Silence(ADDRESS, lambda: now)


def test_a_silence_begins_when_it_is_first_asked_for_and_ends_with_an_answer() -> None:
    times = iter([10.0, 14.0, 20.0])
    silence = Silence(ADDRESS, lambda: next(times))
    silence.note_error(DOWN)
    assert (silence.seconds(), silence.seconds(), silence.all_down) == (0.0, 4.0, True)
    silence.end()
    assert (silence.seconds(), silence.all_down) == (0.0, False)


def test_the_error_gives_the_reason_of_the_client_once_without_values() -> None:
    silence = silent()
    silence.note_error(KafkaError(KafkaError._TRANSPORT, "hunter2 refused"))
    timeout = KafkaError(KafkaError._TIMED_OUT, "too late")
    assert str(silence.error(timeout)) == "kafka://h:1/t does not answer: … refused"
    assert str(silence.error(timeout)) == "kafka://h:1/t does not answer: too late"
    told = "3 messages wait for kafka://h:1/t, which does not answer"
    assert str(silence.error(waiting=3)) == told


def test_refused_credentials_explain_more_than_what_follows() -> None:
    silence = silent()
    silence.note_error(KafkaError(KafkaError._AUTHENTICATION, "no such user"))
    silence.note_error(DOWN)
    assert silence.is_refusal()
    assert isinstance(silence.error(), PermissionError)
    assert not silence.is_refusal()
    assert isinstance(silence.error(DOWN), ConnectionError)

"""Translate Kafka's errors into Python's, with a remedy and without secrets.

An `error` argument is a `confluent_kafka.KafkaError`, whose class defines the codes.
"""

from __future__ import annotations

import re
from typing import Any

from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress, id_prefix

# Values of these options help to find the cause and are not secret.
_NOT_SECRET = ("security.protocol", "sasl.mechanism", "sasl.mechanisms")
_SECRET = re.compile("password|secret|username|key|pem|jaas|oauth|token")
_SHORT = 4  # characters: shorter values occur in any text, and few secrets are so short


def cause(error: BaseException | None) -> Any:
    """Return the KafkaError of an exception of confluent-kafka; None if it has none.

    A producer's fatal error is raised while `error_cb` is called, which may turn it into a
    SystemError.
    """
    while isinstance(error, SystemError):
        error = error.__cause__ or error.__context__
    reason = error.args[0] if error is not None and error.args else None
    return reason if hasattr(reason, "code") else None


def explained(error: Any, address: KafkaAddress) -> Exception:
    """Return the Python exception for an error of Kafka."""
    codes, reason = type(error), without_values(error.str(), address)
    if (right := _missing_right(error, address.topic)) is not None:
        return missing_right(right, address)
    if error.code() == codes.INVALID_TRANSACTION_TIMEOUT:
        return ValueError(
            f"`sink`: the option transaction.timeout.ms must not exceed the brokers' "
            f"transaction.max.timeout.ms at {address!r}. {reason}"
        )
    if error.code() in (codes.UNKNOWN_TOPIC_OR_PART, codes._UNKNOWN_TOPIC):
        return FileNotFoundError(
            f"`sink` must name an existing topic. Received: {address!r}. Create the topic or "
            "correct its name"
        )
    if error.code() == codes._SSL:
        return PermissionError(
            f"`sink`: cannot open a TLS connection to {address!r}: {reason}. Check the options "
            "security.protocol, ssl.ca.location, ssl.certificate.location and ssl.key.location"
        )
    if is_refusal(error):
        return PermissionError(
            f"`sink`: {address!r} refuses these credentials: {reason}. Check the options "
            "security.protocol, sasl.mechanism, sasl.username and sasl.password, and the user's "
            "rights"
        )
    return ConnectionError(f"{address!r}: {reason}")


def missing_right(right: str, address: KafkaAddress) -> PermissionError:
    """Return the exception for a right that the user lacks, such as "WRITE on the topic 't'"."""
    return PermissionError(f"`sink`: {address!r} refuses access. Grant the user {right}")


def _missing_right(error: Any, topic: str) -> str | None:
    codes, prefix = type(error), id_prefix(topic)
    return {
        codes.TOPIC_AUTHORIZATION_FAILED: f"WRITE, READ and DESCRIBE on the topic {topic!r}",
        codes.GROUP_AUTHORIZATION_FAILED: f"READ on consumer groups with the prefix {prefix!r}",
        codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
            f"WRITE and DESCRIBE on transactional ids with the prefix {prefix!r}"
        ),
    }.get(error.code())


def without_values(text: str, address: KafkaAddress) -> str:
    """Return a message of Kafka without the values of the address's options."""
    # Such a message quotes the value, and cuts off a long one, which would not match below.
    if text.startswith("Invalid value"):
        _, _, about = text.rpartition(" for ")
        return (
            f"Invalid value for {about}" if about.startswith("configuration") else "Invalid value"
        )
    hidden = set()
    for name, value in address.options.items():
        if _SECRET.search(name):
            hidden |= {value, *re.split(r"[\s,]+", value)}
        elif name not in _NOT_SECRET and len(value) >= _SHORT:
            hidden.add(value)
    for value in sorted(filter(None, hidden), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", text)
    return text


def is_refusal(error: Any) -> bool:
    """Return True if the brokers refuse the credentials, or the user lacks a right."""
    codes = type(error)
    return error.code() in (
        codes._AUTHENTICATION,
        codes._SSL,
        codes.SASL_AUTHENTICATION_FAILED,
        codes.TOPIC_AUTHORIZATION_FAILED,
        codes.CLUSTER_AUTHORIZATION_FAILED,
        codes.GROUP_AUTHORIZATION_FAILED,
        codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )


def is_of_the_message(error: Any) -> bool:
    """Return True if a message is refused because of its own or its batch's content or size."""
    codes = type(error)
    return error.code() in (
        codes.MSG_SIZE_TOO_LARGE,
        codes.RECORD_LIST_TOO_LARGE,
        codes.INVALID_RECORD,
        codes._INVALID_DIFFERENT_RECORD,
    )


def is_purge(error: Any) -> bool:
    """Return True if the producer discarded the message in an abort."""
    return error.code() in (type(error)._PURGE_QUEUE, type(error)._PURGE_INFLIGHT)

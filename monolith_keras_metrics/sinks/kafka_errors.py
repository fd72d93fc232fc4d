"""What Kafka's errors mean: Python's own errors, with what to do, and without secrets.

An error here is a `confluent_kafka.KafkaError`; its class has the codes.
"""

from __future__ import annotations

import re
from typing import Any

from monolith_keras_metrics.sinks.kafka_uri import KafkaAddress

# Values of these options say what is wrong, and are no secrets.
_TOLD = ("security.protocol", "sasl.mechanism", "sasl.mechanisms")
_SECRET = re.compile("password|secret|username|key|pem|jaas|oauth|token")
_SHORT = 4  # characters: shorter values stand in every text, and few secrets are so short


def explained(error: Any, address: KafkaAddress) -> Exception:
    """Returns Python's own error for one of Kafka's."""
    codes, said = type(error), without_values(error.str(), address)
    if error.code() in (codes.UNKNOWN_TOPIC_OR_PART, codes._UNKNOWN_TOPIC):
        return FileNotFoundError(
            f"`sink` must name a topic that exists: {address!r} does not. Create it, or correct "
            "the name"
        )
    if error.code() == codes._SSL:
        return PermissionError(
            f"`sink`: there is no TLS connection to {address!r}: {said}. Check the options "
            "security.protocol, ssl.ca.location, ssl.certificate.location and ssl.key.location"
        )
    if is_refusal(error):
        return PermissionError(
            f"`sink`: {address!r} refuses these credentials: {said}. Check the options "
            "security.protocol, sasl.mechanism, sasl.username and sasl.password, and the user's "
            "rights to the topic"
        )
    return ConnectionError(f"{address!r}: {said}")


def without_values(text: str, address: KafkaAddress) -> str:
    """Returns Kafka's words without the values of the address's options."""
    # It tells the value, and of a long one the beginning alone.
    if text.startswith("Invalid value"):
        _, _, about = text.rpartition(" for ")
        return (
            f"Invalid value for {about}" if about.startswith("configuration") else "Invalid value"
        )
    hidden = set()
    for name, value in address.options.items():
        if _SECRET.search(name):
            hidden |= {value, *re.split(r"[\s,]+", value)}
        elif name not in _TOLD and len(value) >= _SHORT:
            hidden.add(value)
    for value in sorted(filter(None, hidden), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", text)
    return text


def is_refusal(error: Any) -> bool:
    """Whether the brokers refuse who we are, or what we may do."""
    codes = type(error)
    return error.code() in (
        codes._AUTHENTICATION,
        codes._SSL,
        codes.SASL_AUTHENTICATION_FAILED,
        codes.TOPIC_AUTHORIZATION_FAILED,
        codes.CLUSTER_AUTHORIZATION_FAILED,
        codes.GROUP_AUTHORIZATION_FAILED,
    )


def is_of_the_message(error: Any) -> bool:
    """Whether a message is refused for what it is, or since it came together with such a one."""
    codes = type(error)
    return error.code() in (
        codes.MSG_SIZE_TOO_LARGE,
        codes.RECORD_LIST_TOO_LARGE,
        codes.INVALID_RECORD,
        codes._INVALID_DIFFERENT_RECORD,
    )


def was_not_stored(error: Any) -> bool:
    """Whether it is known of a refused message that it is not in the topic."""
    codes = type(error)
    known = (codes.UNKNOWN_TOPIC_OR_PART, codes._UNKNOWN_TOPIC, codes._UNKNOWN_PARTITION)
    return error.code() in known or is_refusal(error) or is_of_the_message(error)


def is_purge(error: Any) -> bool:
    """Whether we gave the message up ourselves."""
    return error.code() in (type(error)._PURGE_QUEUE, type(error)._PURGE_INFLIGHT)

"""What a `kafka://` URI says: brokers, topic, options; and how to say it again without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_OPTION = re.compile(r"[a-z][a-z0-9._]*")
# What the promises of this package rest on.
_FIXED = (
    "acks",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.idempotence",
    "message.timeout.ms",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
)
_EXPECTED = "'kafka://HOST:PORT[,HOST:PORT]/TOPIC?option=value'"


class KafkaAddress(NamedTuple):
    """Where messages go.

    Attributes:
        brokers: Hosts and ports, comma-separated.
        topic: The topic.
        options: Configuration properties of librdkafka; they may hold passwords.
    """

    brokers: str
    topic: str
    options: Mapping[str, str]

    def __repr__(self) -> str:
        return f"kafka://{self.brokers}/{self.topic}"


def parse(text: str) -> KafkaAddress:
    """Reads what follows `kafka:` in a URI.

    Args:
        text: `//HOST:PORT[,HOST:PORT]/TOPIC?option=value&…`, values percent-encoded. Where brokers
            or the topic are left out, the environment's `KAFKA_BROKER_LIST` and
            `KAFKA_TOPIC_NAME` are taken.

    Raises:
        ValueError: If it makes no sense. What may be a secret is not repeated.
    """
    address, _, query = text.partition("?")
    brokers, _, topic = address.removeprefix("//").partition("/")
    if "@" in address or "#" in text:
        raise ValueError(
            f"`sink` must be {_EXPECTED}; user and password are options: sasl.username=…"
            "&sasl.password=…, special characters percent-encoded. Received: kafka:…"
        )
    brokers = brokers or os.environ.get("KAFKA_BROKER_LIST", "")
    topic = topic or os.environ.get("KAFKA_TOPIC_NAME", "")
    if not brokers or not all(map(_BROKER.fullmatch, brokers.split(","))):
        raise ValueError(
            f"`sink` must be {_EXPECTED}, or KAFKA_BROKER_LIST in the environment must name the "
            f"brokers. Received: brokers={brokers!r}"
        )
    return KafkaAddress(brokers, check_topic(topic), check_options(_options(query)))


def check_topic(topic: str) -> str:
    """Returns the topic; raises ValueError if Kafka knows no such names."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ValueError(
            f"`sink` must be {_EXPECTED}, or KAFKA_TOPIC_NAME in the environment must name the "
            f"topic: 1 to 249 letters, digits, '.', '_' and '-'. Received: topic={topic!r}"
        )
    return topic


def check_options(options: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the options; raises ValueError for those that this package sets itself."""
    for name in options:
        if name in _FIXED:
            raise ValueError(
                f"`sink`: option {name!r} is set by the Kafka sink, which delivers each record "
                "once with it: leave it out"
            )
    return options


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals or not _OPTION.fullmatch(name) or name in options:
            told = name if equals and _OPTION.fullmatch(name) else "…"  # it may be half a password
            raise ValueError(
                "`sink`: each option must be name=value, a configuration property of librdkafka, "
                f"once, its value percent-encoded. Received: {told}"
            )
        options[name] = unquote(value)
    return options

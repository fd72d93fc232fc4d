"""What a `kafka://` URI says: brokers, topic, options; and how to say it again without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_OPTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+|acks|debug|log_level|partitioner|retries")
# What the promises of this package rest on.
_FIXED = (
    "acks",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.idempotence",
    "group.id",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "request.required.acks",
    "retries",
    "transactional.id",
)
# A URI may come from anywhere: it loads no code and runs none, and what it says is sent is sent.
_NOT_IN_URIS = re.compile(
    r"(plugin|test|ssl\.engine|ssl\.providers|sasl\.kerberos\.kinit)\..*|ssl\.providers"
    r"|default\.topic\.config|.*_cb"
)
# What is named so is a secret itself; where one is kept, or asked for, is none.
_SECRET = re.compile(r".*(pass|secret|token|credential|private|key\.pem|ssl_key).*|.*\.config")
_NO_SECRET = re.compile(r".*\.(url|location|file|ms|name|type)")
_JOURNAL = re.compile(r"[A-Za-z0-9._-]{1,64}")
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
    brokers = brokers or os.environ.get("KAFKA_BROKER_LIST", "")
    topic = topic or os.environ.get("KAFKA_TOPIC_NAME", "")
    if "@" in brokers + topic or "#" in text:
        raise ValueError(
            f"`sink` must be {_EXPECTED}; user and password are options: sasl.username=…"
            "&sasl.password=…, special characters percent-encoded. Received: kafka:…"
        )
    if not brokers or not all(map(_BROKER.fullmatch, brokers.split(","))):
        raise ValueError(
            f"`sink` must be {_EXPECTED}, or KAFKA_BROKER_LIST in the environment must name the "
            f"brokers. Received: brokers={_shown(brokers)}"
        )
    return KafkaAddress(brokers, check_topic(topic), check_options(_options(query)))


def without_secrets(text: str) -> tuple[str, list[str]]:
    """Leave out options whose values are secrets.

    Args:
        text: As for `parse`.

    Returns:
        The text without them, and their names.

    Example:
        >>> without_secrets("//a:9092/t?sasl.username=me&sasl.password=hush")
        ('//a:9092/t?sasl.username=me', ['sasl.password'])
    """
    address, _, query = text.partition("?")
    pairs = [(pair, pair.partition("=")[0]) for pair in query.split("&") if pair]
    kept = [pair for pair, name in pairs if not _is_secret(name)]
    return "?".join(filter(None, [address, "&".join(kept)])), [
        name for _, name in pairs if _is_secret(name)
    ]


def check_topic(topic: str) -> str:
    """Returns the topic; raises ValueError if Kafka knows no such names."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ValueError(
            f"`sink` must be {_EXPECTED}, or KAFKA_TOPIC_NAME in the environment must name the "
            f"topic: 1 to 249 letters, digits, '.', '_' and '-'. Received: topic={_shown(topic)}"
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


def check_journal(name: str) -> str:
    """Return the name of a journal; raise ValueError if it cannot be a part of Kafka's names."""
    if not isinstance(name, str) or not _JOURNAL.fullmatch(name):
        raise ValueError(
            "`journal` must be 1 to 64 letters, digits, '.', '_' and '-'. "
            f"Received: journal={name!r}"
        )
    return name


def id_prefix(topic: str) -> str:
    """Return what the transactional ids and consumer groups of a topic begin with."""
    return f"deep-insight.{topic}."


def transactional_id(topic: str, journal: str) -> str:
    """Return the `transactional.id` of a journal, which is also its consumer group."""
    return id_prefix(topic) + journal


def _is_secret(name: str) -> bool:
    return bool(_SECRET.fullmatch(name)) and not _NO_SECRET.fullmatch(name)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        known = equals and _OPTION.fullmatch(name)
        if not known or name in options:
            told = name if known else "…"  # it may be half a password
            raise ValueError(
                "`sink`: each option must be name=value, a configuration property of librdkafka, "
                f"once, its value percent-encoded. Received: {told}"
            )
        if _NOT_IN_URIS.fullmatch(name):
            raise ValueError(
                f"`sink`: option {name!r} may not stand in a URI, since it loads or runs code, or "
                "has messages sent elsewhere. Give an object of "
                "monolith_keras_metrics.sinks.kafka.sink.KafkaSink with it instead"
            )
        try:
            options[name] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            options[name] = "\0"
        if "\0" in options[name]:
            raise ValueError(
                f"`sink`: the value of option {name!r} must be percent-encoded UTF-8, without %00"
            )
    return options


def _shown(text: object) -> str:
    """What is no name may be a part of a URI with a secret in it: it is not repeated."""
    return "…" if re.search("[@?#;=&%]", str(text)) else repr(text)

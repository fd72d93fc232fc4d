"""Parse `kafka://` URIs into brokers, topic and options, and remove secrets from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_OPTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+|acks|debug|log_level|partitioner|retries")
# The guarantees of this package depend on these options.
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
# URIs are untrusted, so they must not load code, run programs or divert messages.
_NOT_IN_URIS = re.compile(
    r"(plugin|test|ssl\.engine|ssl\.providers|sasl\.kerberos\.kinit)\..*|ssl\.providers"
    r"|default\.topic\.config|.*_cb"
)
# Options with these names hold a secret, unless the value is only the location or type of one.
_SECRET = re.compile(r".*(pass|secret|token|credential|private|key\.pem|ssl_key).*|.*\.config")
_NO_SECRET = re.compile(r".*\.(url|location|file|ms|name|type)")
_JOURNAL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXPECTED = "'kafka://HOST:PORT[,HOST:PORT]/TOPIC?option=value'"


class KafkaAddress(NamedTuple):
    """The brokers, topic and options of a sink.

    Attributes:
        brokers: Hosts and ports, comma-separated.
        topic: The topic.
        options: Configuration properties of librdkafka. They may contain passwords.
    """

    brokers: str
    topic: str
    options: Mapping[str, str]

    @property
    def identity(self) -> str:
        """The URI without options, with the brokers in sorted order."""
        return f"kafka://{','.join(sorted(self.brokers.split(',')))}/{self.topic}"

    def __repr__(self) -> str:
        return f"kafka://{self.brokers}/{self.topic}"


def parse(text: str) -> KafkaAddress:
    """Return the address in a URI, given the part after `kafka:`.

    Args:
        text: `//HOST:PORT[,HOST:PORT]/TOPIC?option=value&…`, values percent-encoded. If the brokers
            or the topic are omitted, the environment variables `KAFKA_BROKER_LIST` and
            `KAFKA_TOPIC_NAME` are used.

    Raises:
        ValueError: If the text is invalid. The message never contains a secret.
    """
    address, _, query = text.partition("?")
    brokers, _, topic = address.removeprefix("//").partition("/")
    brokers = brokers or os.environ.get("KAFKA_BROKER_LIST", "")
    topic = topic or os.environ.get("KAFKA_TOPIC_NAME", "")
    if "@" in brokers + topic or "#" in text:
        raise ValueError(
            f"`sink` must be {_EXPECTED}. Received: kafka:… with '@' or '#'. Pass the user and the "
            "password as options, sasl.username=…&sasl.password=…, percent-encoded"
        )
    if not brokers or not all(map(_BROKER.fullmatch, brokers.split(","))):
        raise ValueError(
            f"`sink` must be {_EXPECTED}, or the environment variable KAFKA_BROKER_LIST must name "
            f"the brokers. Received: brokers={_redacted(brokers)}"
        )
    return KafkaAddress(brokers, check_topic(topic), check_options(_options(query)))


def without_secrets(text: str) -> tuple[str, list[str]]:
    """Return a URI without secret options.

    Args:
        text: As in `parse`.

    Returns:
        The text without these options, and their names.

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
    """Return the topic; raise ValueError if it is not a valid name."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ValueError(
            f"`sink` must be {_EXPECTED}, or the environment variable KAFKA_TOPIC_NAME must name "
            "the topic: 1 to 249 letters, digits, '.', '_' and '-'. "
            f"Received: topic={_redacted(topic)}"
        )
    return topic


def check_options(options: Mapping[str, str]) -> Mapping[str, str]:
    """Return the options; raise ValueError if one of them is set by the sink itself."""
    for name in options:
        if name in _FIXED:
            raise ValueError(
                f"`sink`: option {name!r} is set by the Kafka sink, to deliver each record exactly "
                "once. Remove the option"
            )
    return options


def check_journal(name: str) -> str:
    """Return the name of a journal; raise ValueError if it is not valid in Kafka's names."""
    if not isinstance(name, str) or not _JOURNAL.fullmatch(name):
        raise ValueError(
            "`journal` must be 1 to 64 letters, digits, '.', '_' and '-'. "
            f"Received: journal={name!r}"
        )
    return name


def id_prefix(topic: str) -> str:
    """Return the prefix of the transactional ids and consumer groups of a topic."""
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
            shown = name if known else "…"  # an unknown name may be a part of a password
            raise ValueError(
                "`sink`: each option must be name=value, with a configuration property of "
                f"librdkafka, given once, and a percent-encoded value. Received: {shown}"
            )
        if _NOT_IN_URIS.fullmatch(name):
            raise ValueError(
                f"`sink`: option {name!r} is not allowed in a URI, because it can run code or "
                "divert messages. Pass it to monolith_keras_metrics.sinks.kafka.sink.KafkaSink, "
                "and use that object as `sink`"
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


def _redacted(text: object) -> str:
    """Return a name for an error message; "…" for text that may contain a secret."""
    return "…" if re.search("[@?#;=&%]", str(text)) else repr(text)

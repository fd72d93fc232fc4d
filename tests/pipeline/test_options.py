"""Each option stands in one table; whoever takes options takes these."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pathlib
import re
import typing
from typing import Any

import pytest

from monolith_keras_metrics import DeepInsightCallback, DeepInsightClient, deep_insight_client
from monolith_keras_metrics.deep_insight_ops import client_of
from monolith_keras_metrics.pipeline.options import Options, OptionValues, make_options

FIELDS = {field.name: field for field in dataclasses.fields(Options)}


def test_type_checkers_see_the_same_options() -> None:
    assert typing.get_type_hints(OptionValues) == typing.get_type_hints(Options)


def test_each_option_has_a_text() -> None:
    texts = re.findall(r"^ {8}(\w+): [A-Z\"`]", (Options.__doc__ or ""), re.MULTILINE)
    assert texts == list(FIELDS)


@pytest.mark.parametrize("taker", [DeepInsightClient, DeepInsightCallback])
def test_the_signature_shows_each_option(taker: Any) -> None:
    shown = inspect.signature(taker).parameters
    for name, field in FIELDS.items():
        assert shown[name].default == field.default
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert not any(one.kind is one.VAR_KEYWORD for one in shown.values())


@pytest.mark.parametrize("name", FIELDS)
def test_no_option_takes_anything(name: str) -> None:
    """The error names it; a copy with another value is checked as well."""
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
        make_options(**{name: object()})
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
        make_options(Options(), **{name: object()})


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(TypeError, match="no argument 'flush_second'. Did you mean 'flush_seconds'"):
        make_options(flush_second=1)
    with pytest.raises(TypeError, match="no argument 'modle'. Did you mean 'model'"):
        make_options(None, ["model"], modle=1)
    with pytest.raises(TypeError, match=r"no argument 'zzz'. The arguments are: \['run', 'worker'"):
        make_options(zzz=1)


def test_options_are_a_value(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative journal is resolved once; the key is not shown; nothing changes."""
    monkeypatch.chdir(tmp_path)
    made = Options(spool="journal", uid_hash_key=b"hush", worker=True + 1)
    assert made.spool == str(tmp_path / "journal")
    assert "hush" not in repr(made)
    assert copy.deepcopy(made) == made == dataclasses.replace(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.worker = 3  # type: ignore[misc]


def test_keyword_arguments_win(tmp_path: pathlib.Path) -> None:
    base = Options(run="base", worker=3)
    with DeepInsightClient(tmp_path, base, worker=4) as client:
        assert client.origin.run == "base"
        assert client.origin.worker == 4


def test_the_operation_takes_tags_of_the_users_own() -> None:
    handle = deep_insight_client(True, is_fake=True, counter_tags={"team": "ads"})
    client_of(handle).close()
    with pytest.raises(TypeError, match="no argument 'queue_row'. Did you mean 'queue_rows'"):
        deep_insight_client(is_fake=True, queue_row=1)

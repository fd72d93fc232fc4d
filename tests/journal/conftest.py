"""The child that decodes what a journal holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monolith_keras_metrics.journal.decoder import Decoder


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    child = Decoder()
    yield child
    child.close()

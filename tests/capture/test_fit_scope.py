"""Whether a call of Keras has ended can be asked at any moment."""

from __future__ import annotations

import gc
import subprocess
import textwrap

import pytest
import warm


@pytest.mark.slow
def test_asking_while_garbage_waits_does_not_hang() -> None:
    """CPython 3.11 hangs if garbage with a `threading.local` is collected while frames are listed.

    As it did once in a thousand calls of `fit`. Here one begins at each moment in turn.
    """
    code = """
        import gc, threading
        import keras
        import numpy as np
        from monolith_keras_metrics.capture.fit_scope import FitScope

        class Asking(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                scope = FitScope(self.model)
                for number in range(500):
                    gc.set_threshold(number % 25 + 1)
                    garbage = [threading.local()]
                    garbage[0].value = garbage
                    del garbage
                    assert deep(5, scope)
                gc.set_threshold(700)
                assert gc.isenabled()

        def deep(calls, scope):
            return deep(calls - 1, scope) if calls else not scope.is_over()

        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(np.ones((1, 1)), np.ones(1), verbose=0, callbacks=[Asking()])
        print("not hung")
    """
    process = warm.Popen(
        ["-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output == "not hung\n", errors


def test_garbage_collection_that_is_off_stays_off() -> None:
    from monolith_keras_metrics.capture.fit_scope import FitScope

    gc.disable()
    try:
        assert not FitScope(None).is_over()
        assert not gc.isenabled()
    finally:
        gc.enable()

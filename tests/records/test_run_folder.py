"""Each name that is made in a run's folder is read back as what it is, and nothing else is."""

from __future__ import annotations

import pathlib
import re

from hypothesis import given
from hypothesis import strategies as st

from monolith_keras_metrics.records import run_folder

WORKERS = st.integers(0, 10**19 - 1)
ATTEMPTS = st.integers(0, 10**19 - 1)
NUMBERS = st.integers(0, 10**12 - 1)
HERE = pathlib.Path("/run")


@given(WORKERS, ATTEMPTS, NUMBERS, st.sampled_from(run_folder.FORMATS), st.text("0123ef"))
def test_every_name_is_read_back(
    worker: int, attempt: int, number: int, suffix: str, token: str
) -> None:
    stem = run_folder.stem_of(worker, attempt)
    assert (run_folder.worker_of(stem), run_folder.attempt_of(stem)) == (worker, attempt)
    final = run_folder.part_path(HERE, stem, number, suffix)
    assert run_folder.format_of(final.name) == suffix
    progress = run_folder.in_progress_path(final, token)
    ledger = run_folder.ledger_path(HERE, stem)
    assert run_folder.format_of(ledger.name) is None
    assert run_folder.stem_in(ledger.name) == run_folder.stem_in(final.name) == stem
    assert run_folder.stem_in(progress.name) is None
    aside = run_folder.in_progress_path(ledger, token)
    assert run_folder.stem_in(aside.name) is None
    assert run_folder._IN_PROGRESS.fullmatch(aside.name)
    assert progress.parent == HERE
    assert run_folder.format_of(progress.name) is None
    lock = run_folder.lock_path(HERE, stem)
    assert run_folder.journal_name(lock.name) == (stem, None)
    journal = run_folder.journal_path(HERE, stem, number)
    assert run_folder.journal_name(journal.name) == (stem, number)
    asides = [run_folder.aside_path(journal, count) for count in range(3)]
    assert len(set(asides)) == 3
    for path in (final, progress, ledger, aside, lock, journal, *asides):
        assert run_folder.attempt_in(path.name) == attempt
    for path in asides:
        assert run_folder.is_set_aside(path.name)
        assert run_folder.journal_name(path.name) is None
    for path in (final, progress, lock, journal):
        assert not run_folder.is_set_aside(path.name)
    assert run_folder.journal_name(final.name) is None


ENDINGS = st.text("journalockspide-.0123456789", max_size=20)


@given(st.text(max_size=40) | ENDINGS.map(f"{run_folder.stem_of(7, 10**15)}.".__add__))
def test_other_names_mean_nothing(name: str) -> None:
    if not name.endswith((".journal", ".lock")):
        assert run_folder.journal_name(name) is None
    if ".aside" not in name:
        assert not run_folder.is_set_aside(name)
    if name.startswith("."):
        assert run_folder.format_of(name) is None


def test_parts_of_one_process(tmp_path: pathlib.Path) -> None:
    stem, other = run_folder.stem_of(1, 10**15), run_folder.stem_of(1, 10**15 + 1)
    for of, number, suffix in [(stem, 7, "jsonl"), (stem, 0, "jsonl"), (stem, 1, "parquet")]:
        run_folder.part_path(tmp_path, of, number, suffix).touch()
    run_folder.part_path(tmp_path, other, 3, "jsonl").touch()
    final = run_folder.part_path(tmp_path, stem, 9, "jsonl")
    for token in ("", "0123456789abcdef"):  # earlier versions had none
        run_folder.in_progress_path(final, token).touch()
    assert run_folder.part_numbers(tmp_path, stem, "jsonl") == [0, 7]
    run_folder.remove_stale(tmp_path)
    run_folder.remove_in_progress(tmp_path, other)
    assert len(list(tmp_path.glob(".*"))) == 2
    run_folder.remove_in_progress(tmp_path, stem)
    assert list(tmp_path.glob(".*")) == []
    assert len(list(tmp_path.iterdir())) == 4


def test_the_journal_of_either_folder(tmp_path: pathlib.Path) -> None:
    assert run_folder.journal_of(tmp_path) == tmp_path
    (tmp_path / run_folder.JOURNAL).mkdir()
    assert run_folder.journal_of(tmp_path) == tmp_path / run_folder.JOURNAL


def test_no_other_module_spells_the_names() -> None:
    package = pathlib.Path(run_folder.__file__).parent.parent
    names = re.compile(r"""["'](\.journal|\.lock|\.spool|\.?inprogress|\.ledger|\.aside)""")
    spelled = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "run_folder.py" and names.search(path.read_text())
    ]
    assert spelled == []

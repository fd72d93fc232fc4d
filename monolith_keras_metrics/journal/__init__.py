"""Records on disk until every consumer has them.

The journal knows consumers by number, and no sinks. It has one promise: a record that `append` has
taken comes to every consumer, or is counted as failed. A SIGKILL loses nothing that is in a journal
file, and a crash of the machine nothing that was synced.

Who does what:

| object | owner | does |
| --- | --- | --- |
| `Writer` | the encoder's thread | appends entries, journals again what is not in a file |
| `Files` | the encoder's and the journal's thread | the only I/O on this process's files |
| `JournalKeeper` | the journal's thread | syncs files, shows that the owner is alive |
| `Log` | everyone, under its lock | the entries in order, who has them, the bounds |
| `Reader` | one delivery's thread | takes portions for one consumer, reads their records |
| `Leftovers` | the recovery thread | what crashed processes left, in a log of its own |
| `Claim` | its creator | the lock on the files of one process |

Rules:

- Only the encoder's thread adds entries, closes segments, and creates files.
- Only the journal's thread syncs and closes files.
- A file is removed by whoever settles its last entry, after the log's lock is released.
- The log's lock is held for a few steps in memory only. No disk and no network works under it.
- Entries are in the order of their acceptance. So a restart can tell by position what is missing.
- An entry is in memory, in a file, or both. It leaves a file that is lost only when it stands in
  another one. If the file itself is gone, it is back in memory alone, and is appended again.
- What crashed processes left is untrusted: see `regular`, `format` and `decoder`.

On disk, in the journal's folder:

- `worker-00000.attempt-A.lock`: locked while the owner lives (see `claims`).
- `worker-00000.attempt-A.000000.journal`: a header and entries (see `format`). A file ends with its
  segment, so that it can be removed once that is delivered.
- `….journal.aside`: what could not be read or delivered. It is never deleted.
"""

"""Records on disk until every consumer has them.

The journal knows its consumers by number, and knows no sinks. A record that it has taken comes to
every consumer, or is counted as failed. A SIGKILL loses nothing that is in a journal file. A crash
of the machine loses nothing that was synced.

**Objects.** Each has one owner.

| object | owner | responsibility |
| --- | --- | --- |
| `Writer` | encoder | appends entries; appends them again if a file is lost |
| `Files` | encoder and journal thread | does all I/O on this process's files |
| `JournalKeeper` | journal thread | syncs files, shows that the owner is alive |
| `Log` | all threads, under its lock | holds the entries in order, and the bounds |
| `Reader` | one delivery | takes portions for one consumer, and reads their records |
| `Leftovers` | recovery thread | holds what crashed processes left, in a log of its own |
| `Claim` | its creator | locks the files of one process |

**Rules.**

- Only the encoder adds entries, closes segments, and creates files. Only the journal thread syncs
  and closes files. What is written survives the process. What is synced survives the machine.
- The log's lock is held for a few steps in memory. No disk and no network works under it.
- A file is removed by the thread that settles its last entry, after it has released the lock.
- Entries are in the order of their acceptance. Consumers that gather (files) take complete segments
  of up to 131,072 records. Others take what there is.
- An entry is in memory, in a file, or both. If the disk fails to store a file, its entries stay
  there until they stand in another file. If another program removes a file, they are in memory
  only, and are appended again.

**On disk.** The journal of a folder is in its hidden folder `.spool`. For a Kafka topic it is a
folder in the user's state folder.

| file | content |
| --- | --- |
| `worker-00000.attempt-A.lock` | the lock of the owner, locked as long as the process lives |
| `worker-00000.attempt-A.000000.journal` | records |
| `….journal.aside` | what could not be read or delivered. It is never deleted |

- **Owner.** Each process locks its own lock file. Files whose owner no longer lives were left by a
  crashed process. The process that gets the lock owns them. Some file systems have locks that only
  one machine sees. So the owner renews the lock file's time every few seconds, and other machines
  treat it as alive for a minute after that.
- **Header.** A journal file begins with the journal's name, the worker, the attempt, and the
  identities of the sinks. So it can be delivered without further knowledge.
- **Entries.** An entry is a header with checksums, and a frame as an Arrow IPC file compressed with
  LZ4. A process that is killed while it appends leaves a torn last entry. All entries before it are
  readable. After a damaged header, the reader searches for the next one.
- **End.** A file ends with its segment, so that it can be removed once that is delivered.
- **Trust.** Files of other processes are untrusted. Only regular files are opened, sizes are
  checked before they are used, and a child process with a memory limit decodes them.
"""

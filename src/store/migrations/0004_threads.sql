-- Threads: messages that a channel shows together.

-- What the delivery's message belongs with, if its rule says so; never changes, and is part of the checksum.
ALTER TABLE delivery ADD COLUMN thread TEXT;

-- What a channel called the first message of a thread. Only as good as young: a lost row costs a second thread.
CREATE TABLE thread (
    -- By whose lane it was sent.
    destination INTEGER NOT NULL,
    key         TEXT NOT NULL,
    handle      TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    checksum    INTEGER NOT NULL,
    PRIMARY KEY (destination, key)
) STRICT, WITHOUT ROWID;

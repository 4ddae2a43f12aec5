-- Times are milliseconds since 1970-01-01T00:00:00Z.

-- instance: the random name that makes delivery ids unique over installations.
-- boot: counts the times the store was opened by a relay.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE source (
    name          TEXT PRIMARY KEY,
    baseline_done INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Every event id ever taken in: the guard that makes an event be seen once. Outlives the event itself.
CREATE TABLE seen (
    event_id      TEXT PRIMARY KEY,
    first_seen_at INTEGER NOT NULL,
    -- 1: only remembered by a first run that sends nothing; a webhook may still bring it.
    baseline      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id    TEXT NOT NULL,
    key         TEXT NOT NULL,
    source      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    body        TEXT NOT NULL,
    -- The rule that dropped it, and why; null for an event that was routed.
    dropped_by  TEXT,
    drop_reason TEXT
) STRICT;

CREATE TABLE destination (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    -- Send nothing before this time: what the destination itself asked for.
    hold_until INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE delivery (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event       INTEGER NOT NULL REFERENCES event (id),
    destination INTEGER NOT NULL REFERENCES destination (id),
    rule        TEXT NOT NULL,
    severity    INTEGER NOT NULL,
    -- 0 ready, 1 sending, 2 delivered, 3 dead, 4 dropped by an operator.
    state       INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
    due_at      INTEGER NOT NULL,
    -- Attempts started, and those of them that count against it (being throttled does not).
    tries       INTEGER NOT NULL DEFAULT 0,
    failures    INTEGER NOT NULL DEFAULT 0,
    -- 1: the full message was refused or could not be rendered, so the plain one is sent.
    plain       INTEGER NOT NULL DEFAULT 0,
    -- 1: an earlier attempt's outcome is unknown, so the receiver may see it twice.
    may_repeat  INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    -- Why it is where it is, in words.
    reason      TEXT,
    UNIQUE (event, destination)
) STRICT;

-- With the time in it, rows that are not due yet are passed over without being read.
CREATE INDEX delivery_ready ON delivery (destination, severity DESC, id, due_at) WHERE state = 0;
CREATE INDEX delivery_sending ON delivery (id) WHERE state = 1;
CREATE INDEX delivery_dead ON delivery (id) WHERE state = 3;

CREATE TABLE attempt (
    delivery    INTEGER NOT NULL REFERENCES delivery (id),
    number      INTEGER NOT NULL,
    -- Again beside the delivery's: the recent attempts of a destination are what its limits count.
    destination INTEGER NOT NULL,
    boot        INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    -- Null while it runs.
    ended_at    INTEGER,
    outcome     TEXT,
    status      INTEGER,
    detail      TEXT,
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempt_recent ON attempt (destination, started_at);

-- How many deliveries of each destination stand in each state, so that nobody has to count millions of rows. Kept by the
-- triggers alone.
CREATE TABLE tally (
    destination INTEGER NOT NULL REFERENCES destination (id),
    state       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    PRIMARY KEY (destination, state)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER delivery_made AFTER INSERT ON delivery BEGIN
    INSERT INTO tally VALUES (new.destination, new.state, 1)
        ON CONFLICT (destination, state) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON delivery WHEN new.state <> old.state BEGIN
    UPDATE tally SET number = number - 1 WHERE destination = old.destination AND state = old.state;
    INSERT INTO tally VALUES (new.destination, new.state, 1)
        ON CONFLICT (destination, state) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
    UPDATE tally SET number = number - 1 WHERE destination = old.destination AND state = old.state;
END;

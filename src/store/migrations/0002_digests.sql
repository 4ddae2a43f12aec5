-- Digests, fallbacks, breakers and checksums; and fewer writes for each delivery.

-- How many deliveries were made with the event: what an audit counts against.
ALTER TABLE event ADD COLUMN owed INTEGER NOT NULL DEFAULT 0;
UPDATE event SET owed = (SELECT count(*) FROM delivery WHERE delivery.event = event.id);
-- Of what never changes in the row; null in rows that were written before there were checksums.
ALTER TABLE event ADD COLUMN checksum INTEGER;

-- How the destination does, as JSON: whether its breaker is open, since when, why.
ALTER TABLE destination ADD COLUMN health TEXT;

DROP TRIGGER delivery_made;
DROP TRIGGER delivery_moved;
DROP TRIGGER delivery_gone;

CREATE TABLE delivery_new (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 0 of one event, 1 of a batch, 2 of what was more than the limits let through, 3 a notice of the relay itself.
    kind        INTEGER NOT NULL,
    event       INTEGER REFERENCES event (id),
    -- To whom it is owed, and by whose lane it is sent: another one's after a fallback.
    destination INTEGER NOT NULL REFERENCES destination (id),
    via         INTEGER NOT NULL,
    -- What it keeps its order with: (4 - severity) << 32 | hash of the key. The smallest go first.
    lane        INTEGER NOT NULL,
    rule        TEXT NOT NULL,
    severity    INTEGER NOT NULL,
    -- 0 ready, 1 sending, 2 delivered, 3 dead, 4 dropped by an operator, 5 folded into `digest`, 6 held: an open batch.
    state       INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    due_at      INTEGER NOT NULL,
    -- When the latest attempt started, and what number its answer had.
    started_at  INTEGER,
    status      INTEGER,
    -- Attempts started, and those of them that count against it.
    tries       INTEGER NOT NULL DEFAULT 0,
    failures    INTEGER NOT NULL DEFAULT 0,
    -- Times in a row that the process ended while this was being sent.
    crashes     INTEGER NOT NULL DEFAULT 0,
    plain       INTEGER NOT NULL DEFAULT 0,
    may_repeat  INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    reason      TEXT,
    -- Why it is sent by another destination's lane; of a notice, what it is about.
    note        TEXT,
    digest      INTEGER REFERENCES delivery_new (id),
    checksum    INTEGER,
    UNIQUE (event, destination)
) STRICT;

INSERT INTO delivery_new (id, kind, event, destination, via, lane, rule, severity, state, due_at, started_at, status, tries,
        failures, plain, may_repeat, created_at, ended_at, reason)
    SELECT id, 0, event, destination, destination, (4 - severity) << 32, rule, severity, state, due_at,
        (SELECT max(started_at) FROM attempt WHERE attempt.delivery = delivery.id),
        (SELECT status FROM attempt WHERE attempt.delivery = delivery.id ORDER BY number DESC LIMIT 1),
        tries, failures, plain, may_repeat, created_at, ended_at, reason
    FROM delivery;
DROP TABLE delivery;
ALTER TABLE delivery_new RENAME TO delivery;

-- The order of sending. With the time in it, rows that are not due yet are passed over without being read.
CREATE INDEX delivery_ready ON delivery (via, lane, id, due_at) WHERE state = 0;
CREATE INDEX delivery_held ON delivery (via, due_at) WHERE state = 6;
CREATE INDEX delivery_sending ON delivery (id) WHERE state = 1;
CREATE INDEX delivery_dead ON delivery (id) WHERE state = 3;
CREATE INDEX delivery_digest ON delivery (digest) WHERE digest IS NOT NULL;

-- A delivery that stands for several others. While it is open, more may join it.
CREATE TABLE digest (
    delivery    INTEGER PRIMARY KEY REFERENCES delivery (id),
    destination INTEGER NOT NULL,
    lane        INTEGER NOT NULL,
    rule        TEXT NOT NULL,
    -- What its events have in common.
    grouping    TEXT NOT NULL,
    open        INTEGER NOT NULL,
    members     INTEGER NOT NULL,
    -- When the first and the last of its events were received.
    first_at    INTEGER NOT NULL,
    last_at     INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX digest_open ON digest (destination, rule, lane, grouping) WHERE open = 1;

-- When sends of a destination with limits ended: what a limit counts. Pruned as windows pass.
CREATE TABLE sent (
    destination INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    PRIMARY KEY (destination, at)
) STRICT, WITHOUT ROWID;

INSERT INTO sent SELECT destination, ended_at, count(*) FROM attempt WHERE ended_at IS NOT NULL GROUP BY 1, 2;

-- Attempts that failed, and those after them; a first attempt that was delivered is told by its delivery's row.
DROP INDEX attempt_recent;

-- Deliveries that were let go after their time, by destination and last state, so that the sums still agree.
CREATE TABLE pruned (
    destination INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    PRIMARY KEY (destination, state)
) STRICT, WITHOUT ROWID;

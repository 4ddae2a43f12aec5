-- What an audit counts against once old deliveries are let go.

-- Members of the digest that were let go.
ALTER TABLE digest ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;

-- Deliveries of events ever made; the writer counts on from here. Nothing has been let go so far.
INSERT INTO meta SELECT 'owed', count(*) FROM delivery WHERE kind = 0
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- There are few, so a sum need not read all deliveries for them.
CREATE INDEX delivery_notice ON delivery (id) WHERE kind = 3;

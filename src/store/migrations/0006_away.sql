-- What one destination sends for another after a fallback. Few rows, and none as a rule: a status that counts them need not
-- read what else waits.
CREATE INDEX delivery_away ON delivery (via, destination, state) WHERE state IN (0, 1) AND via <> destination;

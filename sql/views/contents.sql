-- contents: a hash of the values of every weight, equal where all values are, whatever their dtype; NULL: not known.
--   of a matrix   its rows' fingerprints in their order (channels)
--   of the rest   smallest and largest value and magnitude, zeros and elements: weaker, but enough to tell layers apart
-- is_varied: whether its rows, or its values, are not all the same, as those of a new norm or bias are.
CREATE VIEW contents AS
SELECT c.model, c.matrix AS weight, sum(hash(hash(c.channel, c.fingerprint))) AS content,
       min(c.fingerprint) < max(c.fingerprint) AS is_varied
FROM channels c
WHERE c.axis = 'out'
GROUP BY c.model, c.matrix
UNION ALL
SELECT t.model, t.tensor AS weight, hash(t.min, t.max, t.absmin, t.zeros, t.parameters) AS content,
       t.min < t.max AS is_varied
FROM tensors t ANTI JOIN matrices m ON m.model = t.model AND m.tensor = t.tensor
WHERE t.min IS NOT NULL;

COMMENT ON VIEW contents IS 'A hash of the values of every weight, by fingerprints; equal for equal values.';
COMMENT ON COLUMN contents.model IS 'Name of the model in this store.';
COMMENT ON COLUMN contents.weight IS 'Weight id: see weights.';
COMMENT ON COLUMN contents.content IS 'The hash.';
COMMENT ON COLUMN contents.is_varied IS 'Whether its rows, or its values, are not all the same.';

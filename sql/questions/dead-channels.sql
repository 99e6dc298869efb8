-- title: Dead rows and columns
-- why: A row or column of zeros costs memory and computes nothing; it is what structured pruning can cut for free.
-- parameter: threshold = 0.0: largest magnitude that still counts as dead
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask dead-channels -p threshold=1e-8 --store scans
SELECT model, layer, role, axis, channel, head, absmax, matrix
FROM channels
WHERE absmax <= $threshold AND model LIKE $model
ORDER BY model, layer NULLS FIRST, matrix, axis, channel
LIMIT $top;

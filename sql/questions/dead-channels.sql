-- title: Dead rows and columns
-- why: A row or column of zeros costs memory and computes nothing; after pruning by masks it is what structured pruning can cut.
-- parameter: threshold = 0.0: largest magnitude that still counts as dead
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask dead-channels -p threshold=1e-8 --store scans
SELECT c.model, c.layer, c.role, c.matrix, c.axis, c.channel, c.head, c.absmax
FROM channels c
WHERE c.absmax <= $threshold AND c.model LIKE $model
ORDER BY c.model, c.layer NULLS FIRST, c.matrix, c.axis, c.channel
LIMIT $top;

-- title: How many rows, columns and heads survived, and how that is known
-- why: Says of every module which share of its channels is left, and whether heads were dropped whole or broken.
-- parameter: a = %: the original, by name or LIKE pattern; of several the one of most parameters
-- parameter: b = %: the pruned one; of several the one of fewest parameters
-- example: shardscan ask survivors -p a=Llama-3-8B -p b=pruned
WITH counted AS (
    SELECT model_a, model_b, component, layer, role, expert, weight_a, weight_b, axis,
           count(channel_a) AS channels,
           count(*) FILTER (status = 'kept') AS kept, count(*) FILTER (status = 'dropped') AS dropped,
           count(*) FILTER (status = 'unknown') AS unknown, any_value(method) AS method, any_value(reason) AS reason
    FROM surviving_channels(original_model($a), pruned_model($b))
    GROUP BY ALL
),
heads AS (
    SELECT weight_a, weight_b, count(*) AS heads, count(*) FILTER (status = 'kept') AS heads_kept,
           count(*) FILTER (status = 'broken') AS heads_broken
    FROM surviving_heads(original_model($a), pruned_model($b))
    GROUP BY weight_a, weight_b
)
SELECT c.* EXCLUDE (weight_a, weight_b), h.heads, h.heads_kept, h.heads_broken
FROM counted c LEFT JOIN heads h
  ON h.weight_a = c.weight_a AND h.weight_b IS NOT DISTINCT FROM c.weight_b
 AND (c.axis = 'in') = (c.role LIKE '%o_proj')
WHERE c.kept < c.channels OR c.weight_a IS NULL
ORDER BY c.component, c.layer NULLS FIRST, c.role, c.expert NULLS FIRST, c.axis, c.weight_a, c.weight_b;

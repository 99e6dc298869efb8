-- title: Top-10, least-10 and first/last ratio of every role, layer and head
-- why: How much of a matrix its ten largest singular values carry, how little its ten smallest do, and how far apart
--   the ends are; rank is how many there are.
-- parameter: role = %: LIKE pattern of roles
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask rank-ratios -p role=o_proj --store scans
SELECT model, component, role, layer, expert, head, top10_ratio, least10_ratio, first_last_ratio, design_rank AS rank
FROM ranks
WHERE model LIKE $model AND role LIKE $role
ORDER BY model, component, role, layer NULLS FIRST, expert NULLS FIRST, head NULLS FIRST, spectrum
LIMIT $top;

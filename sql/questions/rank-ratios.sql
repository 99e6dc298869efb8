-- title: Top-10, least-10 and first/last ratio of every role, head and layer
-- why: How much of a matrix its ten largest singular values carry, how little its ten smallest do, and how far apart the ends are.
-- parameter: role = %: LIKE pattern of roles
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask rank-ratios -p role=o_proj --store scans
SELECT r.model, r.component, r.role, r.layer, r.expert, r.head, r.top10_ratio, r.least10_ratio, r.first_last_ratio, r.design_rank
FROM ranks r
WHERE r.model LIKE $model AND r.role LIKE $role
ORDER BY r.model, r.component, r.role, r.layer NULLS FIRST, r.expert NULLS FIRST, r.head NULLS FIRST, r.spectrum
LIMIT $top;

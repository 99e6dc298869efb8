-- title: The lowest and the highest rank among the heads of every layer
-- why: A head whose effective rank is far below its neighbours' uses little of its width: a candidate for pruning, and
--   for a closer look; layers come in the order of their lowest head, as a share of its design rank.
-- parameter: role = %: LIKE pattern of roles
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask low-rank-heads -p role=q_proj --store scans
WITH heads AS (
    SELECT model, component, layer, role, head, spectrum, effective_rank, design_rank
    FROM ranks
    WHERE head IS NOT NULL AND kind <> 'circuit' AND effective_rank IS NOT NULL
      AND model LIKE $model AND role LIKE $role
)
SELECT model, component, layer, role, count(*) AS heads,
       arg_min(head, (effective_rank, spectrum)) AS low_head, min(effective_rank) AS low_rank,
       arg_max(head, (effective_rank, spectrum)) AS high_head, max(effective_rank) AS high_rank,
       max(design_rank) AS design_rank
FROM heads
GROUP BY model, component, layer, role
ORDER BY min(effective_rank / design_rank), model, component, layer NULLS FIRST, role;

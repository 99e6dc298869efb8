-- title: Rank of the query and key heads against value and output heads
-- why: Q and K decide where a head looks, V and O what it moves; a layer where one pair is far lower in effective rank
--   can be compressed there.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask qk-against-vo --store scans
WITH means AS (
    SELECT model, component, layer,
           avg(effective_rank) FILTER (role = 'q_proj') AS q_rank,
           avg(effective_rank) FILTER (role = 'k_proj') AS k_rank,
           avg(effective_rank) FILTER (role = 'v_proj') AS v_rank,
           avg(effective_rank) FILTER (role = 'o_proj') AS o_rank
    FROM ranks
    WHERE head IS NOT NULL AND model LIKE $model AND role IN ('q_proj', 'k_proj', 'v_proj', 'o_proj')
    GROUP BY model, component, layer
)
SELECT model, component, layer, q_rank, k_rank, v_rank, o_rank,
       (q_rank + k_rank) / nullif(v_rank + o_rank, 0) AS qk_over_vo
FROM means
ORDER BY model, component, layer NULLS FIRST;

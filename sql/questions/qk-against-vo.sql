-- title: Rank of the query and key heads against value and output heads
-- why: Q and K decide where a head looks, V and O what it moves; layers where one pair is far lower in rank compress there.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask qk-against-vo --store scans
WITH means AS (
    SELECT r.model, r.component, r.layer,
           avg(r.effective_rank) FILTER (r.role = 'q_proj') AS q_rank,
           avg(r.effective_rank) FILTER (r.role = 'k_proj') AS k_rank,
           avg(r.effective_rank) FILTER (r.role = 'v_proj') AS v_rank,
           avg(r.effective_rank) FILTER (r.role = 'o_proj') AS o_rank
    FROM ranks r
    WHERE r.head IS NOT NULL AND r.model LIKE $model AND r.role IN ('q_proj', 'k_proj', 'v_proj', 'o_proj')
    GROUP BY ALL
)
SELECT m.model, m.component, m.layer, m.q_rank, m.k_rank, m.v_rank, m.o_rank,
       (m.q_rank + m.k_rank) / nullif(m.v_rank + m.o_rank, 0) AS qk_over_vo
FROM means m
ORDER BY m.model, m.component, m.layer NULLS FIRST;

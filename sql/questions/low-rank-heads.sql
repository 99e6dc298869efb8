-- title: The least and the most low-rank head of every layer
-- why: A head whose effective rank is far below its neighbours' uses little of its width: a candidate for pruning, and for a closer look.
-- parameter: role = %: LIKE pattern of roles
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask low-rank-heads -p role=q_proj --store scans
WITH heads AS (
    SELECT r.*,
           row_number() OVER (PARTITION BY r.model, r.component, r.layer, r.role ORDER BY r.effective_rank, r.spectrum) AS from_lowest,
           row_number() OVER (PARTITION BY r.model, r.component, r.layer, r.role ORDER BY r.effective_rank DESC, r.spectrum) AS from_highest
    FROM ranks r
    WHERE r.head IS NOT NULL AND r.effective_rank IS NOT NULL AND r.model LIKE $model AND r.role LIKE $role
)
SELECT h.model, h.component, h.layer, h.role, count(*) AS heads,
       max(h.head) FILTER (h.from_lowest = 1) AS most_low_rank_head,
       min(h.effective_rank) AS lowest_effective_rank,
       max(h.head) FILTER (h.from_highest = 1) AS least_low_rank_head,
       max(h.effective_rank) AS highest_effective_rank,
       max(h.design_rank) AS design_rank
FROM heads h
GROUP BY h.model, h.component, h.layer, h.role
ORDER BY h.model, h.component, h.layer NULLS FIRST, h.role;

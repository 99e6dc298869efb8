-- title: How a role changes through a series of checkpoints
-- why: Follows one kind of weight from checkpoint to checkpoint, in the order of the steps in their names (step1000, or
--   the last number).
-- parameter: role = q_proj: role of the weights
-- parameter: models = %: LIKE pattern of the names of the series
-- example: shardscan ask drift -p role=down_proj -p models=pythia-step% --store scans
WITH series AS (
    SELECT model, TRY_CAST(coalesce(nullif(regexp_extract(model, 'step\D?(\d+)', 1), ''),
                             regexp_extract(model, '(\d+)\D*$', 1)) AS BIGINT) AS step,
           row_number() OVER (ORDER BY step NULLS FIRST, model) AS i
    FROM models
    WHERE model LIKE $models
),
profiled AS (
    SELECT s.i, s.step, p.* FROM layer_profile p JOIN series s ON s.model = p.model WHERE p.role = $role
),
-- a head's rank and a whole matrix's are no one mean
ranked AS (
    SELECT m.model, m.component, m.layer, avg(r.effective_rank) FILTER (r.head IS NOT NULL) AS effective_rank,
           avg(r.effective_rank) FILTER (r.head IS NULL) AS whole_effective_rank
    FROM ranks r JOIN matrices m ON m.model = r.model AND m.matrix = r.matrix
    WHERE r.role = $role
    GROUP BY ALL
),
-- channels at one index of one weight whose values are the same in the checkpoint before; many weights of a layer can
-- have the role other, and go by their names
placed AS (
    SELECT w.model, w.weight, w.component, w.layer, w.expert,
           CASE WHEN w.role = 'other' THEN w.canonical_name END AS name
    FROM weights w JOIN series s ON s.model = w.model
    WHERE w.role = $role AND w.rows IS NOT NULL
),
unchanged AS (
    SELECT m.model, m.component, m.layer,
           count(*) FILTER (c.fingerprint = d.fingerprint) / count(*) AS unchanged_channels
    FROM placed m JOIN series s ON s.model = m.model JOIN series t ON t.i = s.i - 1
    JOIN placed n ON n.model = t.model AND n.component = m.component AND n.layer IS NOT DISTINCT FROM m.layer
                 AND n.expert IS NOT DISTINCT FROM m.expert AND n.name IS NOT DISTINCT FROM m.name
    JOIN channels c ON c.model = m.model AND c.matrix = m.weight AND c.axis = 'out'
    LEFT JOIN channels d ON d.model = n.model AND d.matrix = n.weight AND d.axis = 'out' AND d.channel = c.channel
    GROUP BY ALL
),
-- what `shardscan diff --values` found between a checkpoint and the one before
compared AS (
    SELECT s.model, d.component, d.layer,
           sqrt(sum(d.norm_change ** 2) / nullif(sum(d.norm_a ** 2), 0)) AS relative_change
    FROM tensor_diffs d JOIN series s ON s.model = d.model_b JOIN series t ON t.model = d.model_a AND t.i = s.i - 1
    WHERE d.role = $role AND d.part = 'weight'
    GROUP BY ALL
)
SELECT p.model, p.step, p.component, p.layer, p.role, p.parameters, p.rms,
       p.rms / nullif(lag(p.rms) OVER layered, 0) AS rms_ratio, p.mean, p.std, p.absmax, p.kurtosis, p.sparsity,
       r.effective_rank, r.whole_effective_rank, u.unchanged_channels, v.relative_change
FROM profiled p
LEFT JOIN ranked r ON r.model = p.model AND r.component = p.component AND r.layer IS NOT DISTINCT FROM p.layer
LEFT JOIN unchanged u ON u.model = p.model AND u.component = p.component AND u.layer IS NOT DISTINCT FROM p.layer
LEFT JOIN compared v ON v.model = p.model AND v.component = p.component AND v.layer IS NOT DISTINCT FROM p.layer
WINDOW layered AS (PARTITION BY p.component, p.layer ORDER BY p.i)
ORDER BY p.component, p.layer NULLS FIRST, p.i;

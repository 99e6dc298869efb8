-- title: Layers that stand out from their neighbours
-- why: Statistics drift slowly with depth; a layer that leaves its neighbours' median by a factor was trained, merged, pruned or broken
--   differently.
-- parameter: factor = 1.5: least ratio to the median of the neighbours, up or down
-- parameter: reach = 2: layers before and after that count as neighbours
-- parameter: top = 100: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask odd-layers -p factor=2 --store scans
WITH metrics AS (
    UNPIVOT (SELECT p.model, p.component, p.role, p.layer, p.rms, p.absmax, p.kurtosis
             FROM layer_profile p
             WHERE p.layer IS NOT NULL AND p.model LIKE $model)
    ON rms, absmax, kurtosis INTO NAME metric VALUE value
),
compared AS (
    SELECT m.*, median(m.value) OVER (
               PARTITION BY m.model, m.component, m.role, m.metric ORDER BY m.layer
               RANGE BETWEEN $reach PRECEDING AND $reach FOLLOWING EXCLUDE CURRENT ROW) AS neighbours
    FROM metrics m
)
SELECT c.model, c.component, c.role, c.layer, c.metric, c.value, c.neighbours, c.value / nullif(c.neighbours, 0) AS ratio
FROM compared c
WHERE c.value > $factor * c.neighbours OR c.value * $factor < c.neighbours
ORDER BY greatest(c.value / nullif(c.neighbours, 0), c.neighbours / nullif(c.value, 0)) DESC NULLS FIRST,
         c.model, c.component, c.role, c.layer, c.metric
LIMIT $top;

-- title: Layers that stand out from their neighbours
-- why: Statistics drift slowly with depth; a layer that leaves its neighbours' median by a factor was trained, merged,
--   pruned or broken differently; norms are included, because a damaged norm shows in no other answer.
-- parameter: factor = 1.5: least ratio to the median of the neighbours, up or down
-- parameter: reach = 2: layers before and after that count as neighbours
-- parameter: top = 100: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask odd-layers -p factor=2 --store scans
WITH metrics AS (
    UNPIVOT (
        SELECT model, component, role, layer, rms, absmax, kurtosis
        FROM layer_profile
        WHERE layer IS NOT NULL AND model LIKE $model
    )
    ON rms, absmax, kurtosis INTO NAME metric VALUE value
),
compared AS (
    SELECT *, median(value) OVER (
               PARTITION BY model, component, role, metric ORDER BY layer
               RANGE BETWEEN $reach PRECEDING AND $reach FOLLOWING EXCLUDE CURRENT ROW) AS neighbours
    FROM metrics
)
SELECT model, component, role, layer, metric, value, neighbours, value / nullif(neighbours, 0) AS ratio
FROM compared
WHERE value > $factor * neighbours OR value * $factor < neighbours
ORDER BY greatest(value / nullif(neighbours, 0), neighbours / nullif(value, 0)) DESC NULLS FIRST,
         model, component, role, layer, metric
LIMIT $top;

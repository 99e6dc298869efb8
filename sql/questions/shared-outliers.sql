-- title: Outlier channels that many layers share
-- why: A channel that stands out in a quarter of the layers is a property of the model, not of one matrix: smooth or rotate it once.
-- parameter: share = 0.25: least share of the layers that have this role
-- parameter: sigma = 3.0: standard deviations above the mean magnitude of the matrix's channels
-- parameter: top = 100: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask shared-outliers -p share=0.5 --store scans
WITH present AS (
    SELECT m.model, m.component, m.role, count(DISTINCT m.layer) AS layers_of_role
    FROM matrices m
    WHERE m.layer IS NOT NULL AND m.model LIKE $model
    GROUP BY ALL
),
found AS (
    SELECT o.model, m.component, o.role, o.axis, o.channel, count(DISTINCT o.layer) AS layers,
           min(o.layer) AS first_layer, max(o.layer) AS last_layer, max(o.z) AS max_z
    FROM outlier_channels(sigma := $sigma) o JOIN matrices m ON m.model = o.model AND m.matrix = o.matrix
    WHERE o.layer IS NOT NULL AND o.model LIKE $model
    GROUP BY ALL
)
SELECT f.model, f.component, f.role, f.axis, f.channel, f.layers, p.layers_of_role, f.layers / p.layers_of_role AS share,
       f.first_layer, f.last_layer, f.max_z
FROM found f JOIN present p ON p.model = f.model AND p.component IS NOT DISTINCT FROM f.component AND p.role IS NOT DISTINCT FROM f.role
WHERE f.layers >= $share * p.layers_of_role
ORDER BY share DESC, f.max_z DESC, f.model, f.component, f.role, f.axis, f.channel
LIMIT $top;

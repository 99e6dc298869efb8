-- title: Outlier channels that many layers share
-- why: A channel that stands out in a quarter of the layers is a property of the model, not of one matrix: smooth or
--   rotate it once.
-- parameter: share = 0.25: least share of the layers that have this role
-- parameter: sigma = 3.0: standard deviations above the mean magnitude of the matrix's channels
-- parameter: top = 100: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask shared-outliers -p share=0.5 --store scans
WITH present AS (
    SELECT model, component, role, count(DISTINCT layer) AS of_layers
    FROM matrices
    WHERE layer IS NOT NULL AND model LIKE $model
    GROUP BY model, component, role
),
found AS (
    SELECT m.model, m.component, m.role, o.axis, o.channel, count(DISTINCT m.layer) AS layers,
           min(m.layer) AS first_layer, max(m.layer) AS last_layer, max(o.z) AS max_z
    FROM outlier_channels(sigma := $sigma) o JOIN matrices m ON m.model = o.model AND m.matrix = o.matrix
    WHERE m.layer IS NOT NULL AND m.model LIKE $model
    GROUP BY m.model, m.component, m.role, o.axis, o.channel
)
SELECT f.model, f.component, f.role, f.axis, f.channel, f.layers, p.of_layers, f.first_layer, f.last_layer, f.max_z
FROM found f JOIN present p
  ON p.model = f.model AND p.component IS NOT DISTINCT FROM f.component AND p.role IS NOT DISTINCT FROM f.role
WHERE f.layers >= $share * p.of_layers
ORDER BY f.layers / p.of_layers DESC, f.max_z DESC, f.model, f.component, f.role, f.axis, f.channel
LIMIT $top;

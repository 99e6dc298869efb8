-- title: Top outlier channels of every matrix
-- why: A channel far above the others decides the scale of everything quantised with it; these are the ones to split,
--   rotate or keep in high precision.
-- parameter: sigma = 3.0: standard deviations above the mean magnitude of the matrix's channels
-- parameter: per_matrix = 3: channels of one matrix and axis, largest z first
-- parameter: top = 50: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask outliers -p sigma=4 --store scans
SELECT model, layer, role, axis, channel, head, z, matrix
FROM outlier_channels(sigma := $sigma)
WHERE model LIKE $model
QUALIFY row_number() OVER (PARTITION BY model, matrix, axis ORDER BY z DESC, channel) <= $per_matrix
ORDER BY z DESC, model, matrix, axis, channel
LIMIT $top;

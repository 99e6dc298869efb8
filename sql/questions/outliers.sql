-- title: Top outlier channels of every matrix
-- why: A channel far above the others decides the scale of everything quantised with it; these are the ones to split, rotate or keep
--   in high precision.
-- parameter: sigma = 3.0: standard deviations above the mean magnitude of the matrix's channels
-- parameter: per_matrix = 3: channels of one matrix and axis, largest z first
-- parameter: top = 50: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask outliers -p sigma=4 --store scans
SELECT o.model, o.layer, o.role, o.matrix, o.axis, o.channel, o.head, o.mean_abs, o.z, o.robust_z, o.absmax
FROM outlier_channels(sigma := $sigma) o
WHERE o.model LIKE $model
QUALIFY row_number() OVER (PARTITION BY o.model, o.matrix, o.axis ORDER BY o.z DESC, o.channel) <= $per_matrix
ORDER BY o.z DESC, o.model, o.matrix, o.axis, o.channel
LIMIT $top;

-- title: Tensors with NaN or infinite values
-- why: One such value ruins every activation behind it; statistics here are over the finite values, so nothing else shows them.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask nans-and-infs --store scans
SELECT t.model, t.layer, t.role, t.tensor, t.dtype, t.parameters, t.nans, t.infs
FROM tensors t
WHERE (t.nans > 0 OR t.infs > 0) AND t.model LIKE $model
ORDER BY t.nans + t.infs DESC, t.model, t.tensor;

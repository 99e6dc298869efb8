-- title: Tensors with NaN or infinite values
-- why: One such value ruins every activation behind it, and no other answer shows it: statistics are of finite values.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask nans-and-infs --store scans
SELECT model, layer, role, nans, infs, parameters, dtype, tensor
FROM tensors
WHERE (nans > 0 OR infs > 0) AND model LIKE $model
ORDER BY nans + infs DESC, model, tensor;

-- title: Tensors without a place or without statistics
-- why: What no family rule names, what failed, and what is quantised codes: every other answer is silent about these.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask unplaced --store scans
SELECT model, tensor, role, dtype, parameters, status, reason
FROM tensors
WHERE (status <> 'ok' OR role IS NULL OR role = 'other') AND model LIKE $model
ORDER BY model, status, tensor;

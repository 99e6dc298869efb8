-- title: Tensors without a place or without statistics
-- why: What no family rule names, what failed, and what is quantised codes: every other answer is silent about these.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask unplaced --store scans
SELECT t.model, t.tensor, t.component, t.layer, t.role, t.dtype, t.parameters, t.status, t.reason
FROM tensors t
WHERE (t.status <> 'ok' OR t.role IS NULL OR t.role = 'other') AND t.model LIKE $model
ORDER BY t.model, t.status, t.tensor;

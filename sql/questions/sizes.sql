-- title: Parameters and bytes of every role
-- why: Where a model's memory is, and therefore where quantising or pruning can win anything.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask sizes --store scans
SELECT model, component, role, tensors, parameters, bytes, share
FROM size_report(model := $model)
WHERE level = 'role'
ORDER BY model, bytes DESC, component, role;

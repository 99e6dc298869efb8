-- title: Parameters and bytes of every role
-- why: Where a model's memory is, and therefore where quantising or pruning can win anything.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask sizes --store scans
SELECT s.model, s.component, s.role, s.tensors, s.parameters, s.bytes, s.share
FROM size_report(model := $model) s
WHERE s.level = 'role'
ORDER BY s.model, s.bytes DESC, s.component, s.role;

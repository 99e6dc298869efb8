-- title: The models in this store
-- why: What was scanned, how large it is, and whether every tensor got its statistics.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask models --store scans
SELECT m.model, m.architecture, m.family, m.layers, m.parameters, m.bytes,
       count(t.tensor) AS tensors,
       count(t.tensor) FILTER (t.status = 'ok') AS ok,
       count(t.tensor) FILTER (t.status <> 'ok') AS not_ok
FROM models m LEFT JOIN tensors t ON t.model = m.model
WHERE m.model LIKE $model
GROUP BY ALL
ORDER BY m.model;

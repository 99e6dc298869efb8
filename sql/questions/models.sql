-- title: The models in this store
-- why: What was scanned, how large it is, and whether every tensor got its statistics.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask models --store scans
WITH counted AS (
    SELECT model, count(*) AS tensors,
           count(*) FILTER (status = 'ok') AS ok,
           count(*) FILTER (status <> 'ok') AS not_ok
    FROM tensors
    GROUP BY model
)
SELECT m.model, m.architecture, m.family, m.layers, m.parameters, m.bytes,
       coalesce(c.tensors, 0) AS tensors, coalesce(c.ok, 0) AS ok, coalesce(c.not_ok, 0) AS not_ok
FROM models m LEFT JOIN counted c ON c.model = m.model
WHERE m.model LIKE $model
ORDER BY m.model;

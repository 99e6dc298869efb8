-- title: Share of zeros of every role
-- why: Tells unstructured pruning from none, and which roles it spared.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask sparsity --store scans
SELECT t.model, t.component, t.role,
       CAST(sum(t.parameters) AS BIGINT) AS parameters,
       CAST(sum(t.zeros) AS BIGINT) AS zeros,
       CAST(sum(t.near_zeros) AS BIGINT) AS near_zeros,
       sum(t.zeros) / nullif(sum(t.parameters), 0) AS sparsity
FROM tensors t
WHERE t.zeros IS NOT NULL AND t.part = 'weight' AND t.model LIKE $model
GROUP BY t.model, t.component, t.role
ORDER BY sparsity DESC, t.model, t.component, t.role;

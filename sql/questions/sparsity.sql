-- title: Roles with many zeros
-- why: Tells unstructured pruning from none, and which roles it spared; the few zeros of any trained model stay below
--   the least share, so its answer is empty.
-- parameter: least = 0.05: least share of zeros in the sparsest tensor of a role; 0 shows every role
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask sparsity -p least=0 --store scans
SELECT model, component, role,
       sum(zeros) / nullif(sum(parameters), 0) AS sparsity,
       max(zeros / nullif(parameters, 0)) AS sparsest_tensor,
       CAST(sum(zeros) AS BIGINT) AS zeros,
       CAST(sum(near_zeros) AS BIGINT) AS near_zeros,
       CAST(sum(parameters) AS BIGINT) AS parameters
FROM tensors
WHERE part = 'weight' AND zeros IS NOT NULL AND model LIKE $model
GROUP BY model, component, role
HAVING sparsest_tensor >= $least
ORDER BY sparsity DESC, model, component, role;

-- title: Pruned weights that are 2:4 or 4:8 sparse
-- why: Only what is 2:4 to the last group runs faster on sparse tensor cores; the violating rows are what is in the
--   way, and where any half of the weights is zero, 69 % of the groups pass by chance.
-- parameter: least = 0.05: least share of zeros of a role in one layer; 0 shows every one
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask nm-sparsity -p least=0.4 --store scans
SELECT model, component, layer, role, sparsity,
       is_2_4, passing_2_4, violating_rows_2_4,
       is_4_8, passing_4_8, violating_rows_4_8,
       zeros, parameters
FROM unstructured_sparsity(model := $model)
WHERE sparsity >= $least
ORDER BY passing_2_4 DESC NULLS LAST, sparsity DESC, model, component, layer NULLS FIRST, role
LIMIT $top;

-- title: Shapes before and after pruning, one row for each layer and module
-- why: The table that goes into a report or a spreadsheet, where weight, bias and experts of a module are one row with
--   the shapes of its only weight; `from pruning_diff(a, b)` has a row for each of them.
-- parameter: a = %: the original, by name or LIKE pattern; of several the one of most parameters
-- parameter: b = %: the pruned one; of several the one of fewest parameters
-- example: shardscan ask pruning-table -p a=Llama-3-8B -p b=pruned -o table.parquet
WITH modules AS (
    SELECT model_a, model_b, component, layer, layer_b, role,
           string_agg(DISTINCT status, ', ' ORDER BY status) AS status,
           CASE WHEN count(*) FILTER (part = 'weight') <= 1
                THEN arg_max({a: shape_a, b: shape_b}, (part = 'weight', greatest(parameters_a, parameters_b)))
           END AS shapes,
           CAST(sum(parameters_a) AS BIGINT) AS parameters_a, CAST(sum(parameters_b) AS BIGINT) AS parameters_b,
           CASE WHEN count(zeros_a) = count(weight_a) THEN CAST(sum(zeros_a) AS BIGINT) END AS zeros_a,
           CASE WHEN count(zeros_b) = count(weight_b) THEN CAST(sum(zeros_b) AS BIGINT) END AS zeros_b,
           count(weight_a) AS weights_a, count(weight_b) AS weights_b,
           count(DISTINCT expert) FILTER (weight_a IS NOT NULL) AS experts_a,
           count(DISTINCT expert_b) FILTER (weight_b IS NOT NULL) AS experts_b
    FROM pruning_diff(original_model($a), pruned_model($b))
    GROUP BY ALL
)
SELECT model_a, model_b, component, layer, layer_b, role, status, shapes.a AS shape_a, shapes.b AS shape_b,
       parameters_a, parameters_b, coalesce(parameters_b, 0) / nullif(parameters_a, 0) AS retention,
       1 - retention AS structured_sparsity, zeros_a, zeros_b, weights_a, weights_b, experts_a, experts_b
FROM modules
ORDER BY component, layer NULLS FIRST, layer_b NULLS FIRST, role;

-- unstructured_diff(a, b): zeros of the weights of every role in every layer before and after, experts pooled.
--   zeros_a, zeros_b, sparsity_a, sparsity_b   of the matrices that both models have; see unstructured_sparsity
--   newly_zero     values that are zero in b and were not in a, on the channels that b has left: what a mask has taken;
--                  NULL unless `shardscan diff --values` compared all of them
--   passing_n_m    share of b's groups of m neighbours along the input axis with at most n values that are not zero
--   violating_rows_n_m   rows of b with one or more of the others
--   is_n_m         whether b's matrices consist of such groups and all of them pass; was_n_m likewise of a
-- layer is a's number, layer_b b's; layers and roles that only one model has are left out.
CREATE MACRO unstructured_diff(a, b) AS TABLE
WITH layers AS (
    SELECT p.component, p.layer, p.layer_b, p.role, sum(d.newly_zero) AS newly_zero, sum(d.values) AS values
    FROM weight_pairs(a, b) p
    LEFT JOIN tensor_diffs d
      ON d.model_a = a AND d.model_b = b AND d.weight_b = p.weight_b AND d.part = 'weight' AND d.newly_zero IS NOT NULL
    WHERE p.rows_a IS NOT NULL AND p.rows_b IS NOT NULL
    GROUP BY p.component, p.layer, p.layer_b, p.role
)
SELECT x.model AS model_a, y.model AS model_b, l.component, l.layer, l.layer_b, l.role,
       x.parameters AS parameters_a, y.parameters AS parameters_b, x.zeros AS zeros_a, y.zeros AS zeros_b,
       CASE WHEN l.values = y.parameters THEN CAST(l.newly_zero AS BIGINT) END AS newly_zero,
       x.sparsity AS sparsity_a, y.sparsity AS sparsity_b,
       y.passing_2_4, y.violating_rows_2_4, y.is_2_4, x.is_2_4 AS was_2_4,
       y.passing_4_8, y.violating_rows_4_8, y.is_4_8, x.is_4_8 AS was_4_8
FROM layers l
JOIN unstructured_sparsity(model := a) x
  ON x.model = a AND x.component = l.component AND x.layer IS NOT DISTINCT FROM l.layer AND x.role = l.role
JOIN unstructured_sparsity(model := b) y
  ON y.model = b AND y.component = l.component AND y.layer IS NOT DISTINCT FROM l.layer_b AND y.role = l.role;

COMMENT ON MACRO TABLE unstructured_diff IS 'Zeros before and after, and N:M groups, of every role in every layer.';

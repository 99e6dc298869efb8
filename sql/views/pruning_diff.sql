-- pruning_diff(a, b): what became of every weight of a in b; a is the original, b the pruned or tuned one.
--   status               equal: same shape, same values; changed: same shape, other values; pruned: no side is longer;
--                        grown: none is shorter; reshaped: one is; added, removed: only b, or only a, has it
--   layer, expert        a's numbers, NULL where only b has the layer or expert; layer_b, expert_b, paired_by, is_copy:
--                        see weight_pairs
--   retention            parameters_b / parameters_a; NULL of what was added or removed
--   structured_sparsity  1 − retention
-- Values are compared one by one where `shardscan diff --values` did so, else by the tensors' digests where dtypes are
-- equal, and of matrices by fingerprints of their rows, which are of float32 (contents); vectors of two dtypes by
-- extremes, zeros and, to 1e-9, mean magnitude and rms, which do not see their order. NULL: nothing tells of values.
CREATE MACRO pruning_diff(a, b) AS TABLE
WITH known AS (
    SELECT p.*,
           CASE WHEN d.changed IS NOT NULL THEN d.changed = 0
                WHEN s.dtype = u.dtype AND s.digest IS NOT NULL AND u.digest IS NOT NULL THEN s.digest = u.digest
                WHEN p.rows_a IS NOT NULL AND p.rows_b IS NOT NULL THEN k.content = n.content
                ELSE (s.min, s.max, s.absmin, s.zeros) = (u.min, u.max, u.absmin, u.zeros)
                     AND abs(s.mean_abs - u.mean_abs) <= 1e-9 * s.mean_abs AND abs(s.rms - u.rms) <= 1e-9 * s.rms
           END AS is_equal,
           coalesce(i.zeros, s.zeros) AS zeros_a, coalesce(j.zeros, u.zeros) AS zeros_b,
           CASE WHEN p.rows_a IS NOT NULL AND p.rows_b IS NOT NULL
                THEN list_zip([p.rows_a, p.cols_a], [p.rows_b, p.cols_b])
                WHEN len(p.shape_a) = len(p.shape_b) THEN list_zip(p.shape_a, p.shape_b) END AS sides
    FROM weight_pairs(a, b) p
    LEFT JOIN contents k ON k.model = a AND k.weight = p.weight_a
    LEFT JOIN contents n ON n.model = b AND n.weight = p.weight_b
    LEFT JOIN tensor_diffs d ON d.model_a = a AND d.model_b = b AND d.weight_a = p.weight_a AND d.weight_b = p.weight_b
    LEFT JOIN matrices i ON i.model = a AND i.matrix = p.weight_a
    LEFT JOIN matrices j ON j.model = b AND j.matrix = p.weight_b
    LEFT JOIN tensors s ON s.model = a AND s.tensor = p.tensor_a AND s.parameters = p.parameters_a
    LEFT JOIN tensors u ON u.model = b AND u.tensor = p.tensor_b AND u.parameters = p.parameters_b
)
SELECT k.model_a, k.model_b, k.component, k.layer, k.layer_b, k.role, k.expert, k.expert_b, k.part,
       k.weight_a, k.weight_b, k.paired_by, k.is_copy,
       CASE WHEN k.weight_b IS NULL THEN 'removed' WHEN k.weight_a IS NULL THEN 'added'
            WHEN k.rows_a = k.rows_b AND k.cols_a = k.cols_b OR k.shape_a = k.shape_b THEN
                CASE k.is_equal WHEN true THEN 'equal' WHEN false THEN 'changed' END
            WHEN list_bool_and(list_transform(k.sides, lambda n: n[2] <= n[1])) THEN 'pruned'
            WHEN list_bool_and(list_transform(k.sides, lambda n: n[2] >= n[1])) THEN 'grown'
            ELSE 'reshaped' END AS status,
       k.shape_a, k.shape_b, k.parameters_a, k.parameters_b,
       k.parameters_b / nullif(k.parameters_a, 0) AS retention, 1 - retention AS structured_sparsity,
       k.dtype_a, k.dtype_b, k.bytes_a, k.bytes_b, k.zeros_a, k.zeros_b
FROM known k;

COMMENT ON MACRO TABLE pruning_diff IS 'What became of every weight of model a in model b: shapes, retention, status.';

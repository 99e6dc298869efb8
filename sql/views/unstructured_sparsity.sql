-- unstructured_sparsity(model): what pruning left of the weights of one role in one layer, all experts pooled, of every
-- model whose name matches the LIKE pattern.
--   sparsity             zeros / parameters
--   groups_n_m           groups of m neighbours along the input axis, from the first on: Σ rows·cols/m
--   passing_n_m          share of them in which at most n values are not zero (NaN is not zero, −0 is)
--   violating_rows_n_m   rows with one or more of the others; NULL where the catalog has no channels of them
--   is_n_m               whether every matrix consists of such groups and all of them pass
-- 2:4 is what NVIDIA's sparse tensor cores multiply (Mishra et al., arXiv 2104.08378); SparseGPT and Wanda prune to 2:4
-- and 4:8 (arXiv 2301.00774, 2306.11695). Groups also pass by chance: where any half of the weights is zero, 11/16 of
-- those of 4 and 163/256 of those of 8. Matrices whose columns m does not divide, or that are folded out of more axes
-- than two, have no groups; where none has any, the columns of groups are NULL.
-- A matrix has its own zeros, also one that is a part of a fused tensor; they and its groups are in `matrices`,
-- whatever channels the catalog keeps.
-- Inside the macro a bare model is the parameter, so columns carry the name of their table.
CREATE MACRO unstructured_sparsity(model := '%') AS TABLE
WITH weights AS (
    SELECT m.model, m.matrix, m.component, m.layer, m.role, m.zeros, m.violations_2_4, m.violations_4_8,
           m.rows * m.cols AS parameters,
           CASE WHEN m.violations_2_4 IS NOT NULL THEN m.rows * (m.cols // 4) END AS groups_2_4,
           CASE WHEN m.violations_4_8 IS NOT NULL THEN m.rows * (m.cols // 8) END AS groups_4_8
    FROM matrices m
    WHERE m.model LIKE model AND m.zeros IS NOT NULL
),
violating AS (
    -- sums and not counts: NULL where there are no groups
    SELECT c.model, c.matrix,
           sum(CAST(c.violations_2_4 > 0 AS INTEGER)) AS rows_2_4,
           sum(CAST(c.violations_4_8 > 0 AS INTEGER)) AS rows_4_8
    FROM channels c
    WHERE c.model LIKE model AND c.axis = 'out'
    GROUP BY c.model, c.matrix
),
pooled AS (
    SELECT w.model, w.component, w.layer, w.role,
           count(*) AS matrices, sum(w.parameters) AS parameters, sum(w.zeros) AS zeros,
           sum(w.groups_2_4) AS groups_2_4, sum(w.violations_2_4) AS violations_2_4,
           CASE WHEN count(v.rows_2_4) = count(w.groups_2_4) THEN sum(v.rows_2_4) END AS rows_2_4,
           count(w.groups_2_4) = count(*) AND sum(w.violations_2_4) = 0 AS is_2_4,
           sum(w.groups_4_8) AS groups_4_8, sum(w.violations_4_8) AS violations_4_8,
           CASE WHEN count(v.rows_4_8) = count(w.groups_4_8) THEN sum(v.rows_4_8) END AS rows_4_8,
           count(w.groups_4_8) = count(*) AND sum(w.violations_4_8) = 0 AS is_4_8
    FROM weights w LEFT JOIN violating v ON v.model = w.model AND v.matrix = w.matrix
    GROUP BY w.model, w.component, w.layer, w.role
)
SELECT p.model, p.component, p.layer, p.role,
       p.matrices, CAST(p.parameters AS BIGINT) AS parameters,
       CAST(p.zeros AS BIGINT) AS zeros, p.zeros / p.parameters AS sparsity,
       CAST(p.groups_2_4 AS BIGINT) AS groups_2_4,
       (p.groups_2_4 - p.violations_2_4) / p.groups_2_4 AS passing_2_4,
       CAST(p.rows_2_4 AS BIGINT) AS violating_rows_2_4, p.is_2_4,
       CAST(p.groups_4_8 AS BIGINT) AS groups_4_8,
       (p.groups_4_8 - p.violations_4_8) / p.groups_4_8 AS passing_4_8,
       CAST(p.rows_4_8 AS BIGINT) AS violating_rows_4_8, p.is_4_8
FROM pooled p;

COMMENT ON MACRO TABLE unstructured_sparsity IS
    'Zeros of the weights of every role in every layer, and which of their groups are 2:4 and 4:8 sparse.';

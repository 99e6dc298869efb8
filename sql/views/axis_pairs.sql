-- axis_pairs(a, b): the two axes of every matrix of weight_pairs: 'out' for its rows, 'in' for its columns.
--   n_a, n_b        channels of the axis in each
--   is_comparable   the other axis is as long in both, so a channel that was not altered has one fingerprint in both
--   is_equal        all values of the matrix are equal, by fingerprints
--   head_dim        channels of a head, of the axis that heads divide, as a has them; NULL of the other axis
CREATE MACRO axis_pairs(a, b) AS TABLE
WITH pairs AS (
    SELECT p.*, k.content = n.content IS TRUE AS is_equal
    FROM weight_pairs(a, b) p
    LEFT JOIN contents k ON k.model = a AND k.weight = p.weight_a
    LEFT JOIN contents n ON n.model = b AND n.weight = p.weight_b
    WHERE coalesce(p.rows_a, p.rows_b) IS NOT NULL
)
SELECT p.model_a, p.model_b, p.component, p.layer, p.role, p.expert, p.weight_a, p.weight_b, s.axis,
       CASE s.axis WHEN 'out' THEN p.rows_a ELSE p.cols_a END AS n_a,
       CASE s.axis WHEN 'out' THEN p.rows_b ELSE p.cols_b END AS n_b,
       CASE s.axis WHEN 'out' THEN p.cols_a = p.cols_b ELSE p.rows_a = p.rows_b END IS TRUE AS is_comparable,
       p.is_equal,
       CASE WHEN (p.role LIKE '%o_proj') = (s.axis = 'in') THEN n_a // p.heads_a END AS head_dim
FROM pairs p, (SELECT unnest(['out', 'in']) AS axis) s;

COMMENT ON MACRO TABLE axis_pairs IS 'Rows and columns of every pair of matrices: how many there are, and what tells.';

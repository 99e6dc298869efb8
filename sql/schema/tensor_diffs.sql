-- key: model_a, model_b, weight_b
-- of: a comparison
-- summed: values
CREATE TABLE tensor_diffs (
    model_a            VARCHAR NOT NULL,
    model_b            VARCHAR NOT NULL,
    weight_a           VARCHAR NOT NULL,
    weight_b           VARCHAR NOT NULL,
    component          VARCHAR NOT NULL,
    layer              INTEGER,
    role               VARCHAR NOT NULL,
    expert             INTEGER,
    part               VARCHAR NOT NULL,
    status             VARCHAR NOT NULL,
    reason             VARCHAR,
    values             BIGINT NOT NULL,
    added              BIGINT NOT NULL,
    changed            BIGINT,
    newly_zero         BIGINT,
    norm_a             DOUBLE,
    norm_b             DOUBLE,
    norm_change        DOUBLE,
    relative_change    DOUBLE,
    cosine             DOUBLE,
    max_change         DOUBLE,
    change_rank        BIGINT,
    change_stable_rank DOUBLE,
    change_sigma_max   DOUBLE,
    rounding_edge      DOUBLE
);

COMMENT ON TABLE tensor_diffs IS
    'One row per weight of model b that was compared, value by value, with the weight of model a it came of. Where b '
    'has fewer channels, a is restricted to those that b kept; where b has more at the end, b to those that a has. '
    'Sums are in float64, over positions where both are finite.';
COMMENT ON COLUMN tensor_diffs.model_a IS 'The model that is compared with: the original.';
COMMENT ON COLUMN tensor_diffs.model_b IS 'The model that came of it.';
COMMENT ON COLUMN tensor_diffs.weight_a IS 'Id of the matrix in a; of a weight without matrices its tensor''s name.';
COMMENT ON COLUMN tensor_diffs.weight_b IS 'The same in b.';
COMMENT ON COLUMN tensor_diffs.component IS 'Part of model a it belongs to: text, vision, encoder, ...; never NULL.';
COMMENT ON COLUMN tensor_diffs.layer IS 'Layer number in a, from 0; NULL only where there is none.';
COMMENT ON COLUMN tensor_diffs.role IS 'What it does in a: q_proj, down_proj, ...; other when no rule names it.';
COMMENT ON COLUMN tensor_diffs.expert IS 'Expert number in a, from 0; NULL outside mixtures of experts.';
COMMENT ON COLUMN tensor_diffs.part IS 'weight, bias, ... of its module in a.';
COMMENT ON COLUMN tensor_diffs.status IS
    'ok; degenerate where no position is finite in both; codes where values are codes or complex numbers; failed where '
    'one of them could not be read.';
COMMENT ON COLUMN tensor_diffs.reason IS 'Why the status is not ok, or why there is no rank.';
COMMENT ON COLUMN tensor_diffs.values IS 'Positions that were compared: those of b that a has too.';
COMMENT ON COLUMN tensor_diffs.added IS
    'Values of b that are not compared because a has none there: of rows that were added at the end, as new tokens '
    'are.';
COMMENT ON COLUMN tensor_diffs.changed IS 'Positions where a <> b; -0 equals 0, and NaN equals NaN.';
COMMENT ON COLUMN tensor_diffs.newly_zero IS 'Positions where b = 0 and a <> 0.';
COMMENT ON COLUMN tensor_diffs.norm_a IS 'Frobenius norm of a, restricted to what b has.';
COMMENT ON COLUMN tensor_diffs.norm_b IS 'Frobenius norm of b.';
COMMENT ON COLUMN tensor_diffs.norm_change IS 'Frobenius norm of a - b.';
COMMENT ON COLUMN tensor_diffs.relative_change IS
    'norm_change / norm_a; 0 where both norms are 0, NULL where only that of a is.';
COMMENT ON COLUMN tensor_diffs.cosine IS '<a, b> / (norm_a norm_b); NULL where a norm is 0.';
COMMENT ON COLUMN tensor_diffs.max_change IS 'Largest |a - b|.';
COMMENT ON COLUMN tensor_diffs.change_rank IS
    'Singular values of a - b that are above both rounding_edge and 1e-5 of the largest: the rank of the change, as '
    'far as it is no rounding. A merged LoRA of rank 8 gives 8. NULL unless asked for.';
COMMENT ON COLUMN tensor_diffs.change_stable_rank IS
    'Sum of the squares of the singular values of a - b over the largest square; NULL unless asked for, or without '
    'change.';
COMMENT ON COLUMN tensor_diffs.change_sigma_max IS 'Largest singular value of a - b; NULL unless asked for.';
COMMENT ON COLUMN tensor_diffs.rounding_edge IS
    'What the spectral norm of rounding is at most about: max_i sqrt(sum_j s_ij^2) + max_j sqrt(sum_i s_ij^2), with '
    's_ij^2 = ulp^2 / 12 of the value that is stored, in b or, if its dtype is coarser, in a (Bandeira & van Handel, '
    'Ann. Probab. 44, 2016). NULL unless asked for, or without change.';

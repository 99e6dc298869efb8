-- key: model_a, model_b, weight_b, axis, channel_b
-- of: a comparison
-- summed: channel_b
CREATE TABLE channel_diffs (
    model_a         VARCHAR NOT NULL,
    model_b         VARCHAR NOT NULL,
    weight_a        VARCHAR NOT NULL,
    weight_b        VARCHAR NOT NULL,
    axis            VARCHAR NOT NULL,
    channel_a       INTEGER NOT NULL,
    channel_b       INTEGER NOT NULL,
    layer           INTEGER,
    role            VARCHAR NOT NULL,
    values          BIGINT NOT NULL,
    changed         BIGINT,
    newly_zero      BIGINT,
    norm_a          DOUBLE,
    norm_b          DOUBLE,
    norm_change     DOUBLE,
    relative_change DOUBLE,
    cosine          DOUBLE,
    max_change      DOUBLE
);

COMMENT ON TABLE channel_diffs IS
    'One row per output channel (row) and input channel (column) of every matrix of model b that was compared with one '
    'of model a: see tensor_diffs, and diffs.channels for which have none.';
COMMENT ON COLUMN channel_diffs.model_a IS 'The model that is compared with: the original.';
COMMENT ON COLUMN channel_diffs.model_b IS 'The model that came of it.';
COMMENT ON COLUMN channel_diffs.weight_a IS 'Matrix id in a.';
COMMENT ON COLUMN channel_diffs.weight_b IS 'Matrix id in b.';
COMMENT ON COLUMN channel_diffs.axis IS 'out for rows, in for columns.';
COMMENT ON COLUMN channel_diffs.channel_a IS 'Index of the channel of a along the axis, from 0.';
COMMENT ON COLUMN channel_diffs.channel_b IS 'Index of the channel of b along the axis, from 0.';
COMMENT ON COLUMN channel_diffs.layer IS 'Layer of the matrix in a.';
COMMENT ON COLUMN channel_diffs.role IS 'Role of the matrix in a.';
COMMENT ON COLUMN channel_diffs.values IS 'Positions that were compared.';
COMMENT ON COLUMN channel_diffs.changed IS 'Positions where a <> b; -0 equals 0, and NaN equals NaN.';
COMMENT ON COLUMN channel_diffs.newly_zero IS 'Positions where b = 0 and a <> 0.';
COMMENT ON COLUMN channel_diffs.norm_a IS 'Norm of the channel of a, restricted to what b has.';
COMMENT ON COLUMN channel_diffs.norm_b IS 'Norm of the channel of b.';
COMMENT ON COLUMN channel_diffs.norm_change IS 'Norm of a - b.';
COMMENT ON COLUMN channel_diffs.relative_change IS
    'norm_change / norm_a; 0 where both norms are 0, NULL where only that of a is.';
COMMENT ON COLUMN channel_diffs.cosine IS '<a, b> / (norm_a norm_b); NULL where a norm is 0.';
COMMENT ON COLUMN channel_diffs.max_change IS 'Largest |a - b|.';

-- key: model, matrix, axis, channel
-- of: a scan
-- summed: channel
CREATE TABLE channels (
    model          VARCHAR NOT NULL,
    matrix         VARCHAR NOT NULL,
    axis           VARCHAR NOT NULL,
    channel        INTEGER NOT NULL,
    layer          INTEGER,
    role           VARCHAR,
    head           INTEGER,
    mean           DOUBLE,
    std            DOUBLE,
    min            DOUBLE,
    max            DOUBLE,
    mean_abs       DOUBLE,
    absmax         DOUBLE,
    rms            DOUBLE,
    kurtosis       DOUBLE,
    zeros          BIGINT,
    violations_2_4 BIGINT,
    violations_4_8 BIGINT,
    fingerprint    UBIGINT
);

COMMENT ON TABLE channels IS 'One row per output channel (row) and input channel (column) of every matrix.';
COMMENT ON COLUMN channels.model IS 'Name of the model in this store.';
COMMENT ON COLUMN channels.matrix IS 'Matrix id: see matrices.';
COMMENT ON COLUMN channels.axis IS 'out for rows, in for columns.';
COMMENT ON COLUMN channels.channel IS 'Index along the axis, from 0.';
COMMENT ON COLUMN channels.layer IS 'Layer of the matrix.';
COMMENT ON COLUMN channels.role IS 'Role of the matrix.';
COMMENT ON COLUMN channels.head IS 'Head that the channel belongs to, where the axis is split into heads.';
COMMENT ON COLUMN channels.mean IS 'Mean of the finite values.';
COMMENT ON COLUMN channels.std IS 'Population standard deviation.';
COMMENT ON COLUMN channels.min IS 'Smallest finite value.';
COMMENT ON COLUMN channels.max IS 'Largest finite value.';
COMMENT ON COLUMN channels.mean_abs IS 'Mean magnitude: the channel magnitude of outlier_channels.';
COMMENT ON COLUMN channels.absmax IS 'Largest magnitude.';
COMMENT ON COLUMN channels.rms IS 'Root of the mean square.';
COMMENT ON COLUMN channels.kurtosis IS 'E[(x-mean)^4]/std^4; NULL for a constant channel.';
COMMENT ON COLUMN channels.zeros IS 'Values equal to zero.';
COMMENT ON COLUMN channels.violations_2_4 IS
    'Groups of 4 neighbours, from the first on, with more than 2 values that are not zero; NaN is not zero. Of cols/4. '
    'Of rows only; NULL where 4 does not divide the columns, or they are no input channels (kind folded).';
COMMENT ON COLUMN channels.violations_4_8 IS 'Likewise of 8 with more than 4; NULL where 8 does not divide them.';
COMMENT ON COLUMN channels.fingerprint IS '64-bit hash of values and places; equal for a bf16 tensor and its f32 copy.';

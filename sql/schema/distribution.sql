-- key: model, tensor, bin
-- of: a scan
-- summed: count
CREATE TABLE distribution (
    model  VARCHAR NOT NULL,
    tensor VARCHAR NOT NULL,
    bin    INTEGER NOT NULL,
    lo     DOUBLE NOT NULL,
    hi     DOUBLE NOT NULL,
    count  BIGINT NOT NULL
);

COMMENT ON TABLE distribution IS 'Finite values of every tensor, counted by bit pattern; empty bins are left out.';
COMMENT ON COLUMN distribution.model IS 'Name of the model in this store.';
COMMENT ON COLUMN distribution.tensor IS 'Tensor name.';
COMMENT ON COLUMN distribution.bin IS 'Bit pattern of the value; of its bfloat16, truncated, for dtypes over 16 bits.';
COMMENT ON COLUMN distribution.lo IS 'Smallest value of the bin.';
COMMENT ON COLUMN distribution.hi IS 'Largest value of the bin; equal to lo where the distribution is exact.';
COMMENT ON COLUMN distribution.count IS 'Values in the bin.';

-- key: model, tensor
-- of: a scan
-- summed: bytes
CREATE TABLE tensors (
    model           VARCHAR NOT NULL,
    tensor          VARCHAR NOT NULL,
    file            VARCHAR NOT NULL,
    dtype           VARCHAR NOT NULL,
    shape           UBIGINT[] NOT NULL,
    parameters      BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    canonical_name  VARCHAR NOT NULL,
    component       VARCHAR,
    layer           INTEGER,
    role            VARCHAR,
    expert          INTEGER,
    part            VARCHAR NOT NULL,
    alias_of        VARCHAR,
    shared_with     VARCHAR,
    status          VARCHAR NOT NULL,
    reason          VARCHAR,
    mean            DOUBLE,
    std             DOUBLE,
    min             DOUBLE,
    max             DOUBLE,
    absmax          DOUBLE,
    absmin          DOUBLE,
    mean_abs        DOUBLE,
    rms             DOUBLE,
    kurtosis        DOUBLE,
    zeros           BIGINT,
    near_zeros      BIGINT,
    nans            BIGINT,
    infs            BIGINT,
    p99_abs         DOUBLE,
    p999_abs        DOUBLE,
    quantiles_exact BOOLEAN,
    digest          VARCHAR
);

COMMENT ON TABLE tensors IS 'One row per tensor in the headers. Statistics are of finite values; NULL: not computed.';
COMMENT ON COLUMN tensors.model IS 'Name of the model in this store.';
COMMENT ON COLUMN tensors.tensor IS 'Name in the header.';
COMMENT ON COLUMN tensors.file IS 'Shard that holds it.';
COMMENT ON COLUMN tensors.dtype IS 'Dtype code of the header: BF16, F16, F32, F8_E4M3, ...';
COMMENT ON COLUMN tensors.shape IS 'Shape in the header; [] for a scalar.';
COMMENT ON COLUMN tensors.parameters IS
    'Values; of codes the weights that they are, of their scales 0; stored elements where that cannot be told.';
COMMENT ON COLUMN tensors.bytes IS 'Bytes of its values, whether or not it shares them: see files.used_bytes.';
COMMENT ON COLUMN tensors.canonical_name IS 'Name without wrapper prefixes such as module. and _orig_mod.';
COMMENT ON COLUMN tensors.component IS 'Part of the model it belongs to: text, vision, encoder, ...; never NULL.';
COMMENT ON COLUMN tensors.layer IS 'Layer number from 0; NULL only where there is none.';
COMMENT ON COLUMN tensors.role IS
    'What it does: q_proj, qkv_proj (fused: see matrices), embed_tokens, ...; other when no rule names it.';
COMMENT ON COLUMN tensors.expert IS 'Expert number from 0; NULL outside mixtures of experts.';
COMMENT ON COLUMN tensors.part IS 'Which part of the module: weight, bias, scale, zero, index, buffer, lora_a, lora_b.';
COMMENT ON COLUMN tensors.alias_of IS 'Token embedding that this lm_head is equal to (tied); else NULL.';
COMMENT ON COLUMN tensors.shared_with IS
    'Tensor before it whose very bytes it has, stored once, as PyTorch saves tied weights; else NULL.';
COMMENT ON COLUMN tensors.status IS 'ok; degenerate (no finite value); codes (no statistics); failed; pending.';
COMMENT ON COLUMN tensors.reason IS 'Why status is not ok, or what is odd about the tensor or its place.';
COMMENT ON COLUMN tensors.mean IS 'Mean of the finite values.';
COMMENT ON COLUMN tensors.std IS 'Population standard deviation of the finite values.';
COMMENT ON COLUMN tensors.min IS 'Smallest finite value.';
COMMENT ON COLUMN tensors.max IS 'Largest finite value.';
COMMENT ON COLUMN tensors.absmax IS 'Largest magnitude.';
COMMENT ON COLUMN tensors.absmin IS 'Smallest magnitude that is not zero.';
COMMENT ON COLUMN tensors.mean_abs IS 'Mean magnitude.';
COMMENT ON COLUMN tensors.rms IS 'Root of the mean square; times the root of the finite count: the Frobenius norm.';
COMMENT ON COLUMN tensors.kurtosis IS 'E[(x-mean)^4]/std^4; 3 for a Gaussian; NULL for a constant.';
COMMENT ON COLUMN tensors.zeros IS 'Values equal to zero.';
COMMENT ON COLUMN tensors.near_zeros IS 'Finite values with |x| <= 1e-8, zeros included.';
COMMENT ON COLUMN tensors.nans IS 'NaN values.';
COMMENT ON COLUMN tensors.infs IS 'Infinite values.';
COMMENT ON COLUMN tensors.p99_abs IS 'Smallest |x| whose rank is at least ceil(n*99/100).';
COMMENT ON COLUMN tensors.p999_abs IS 'Smallest |x| whose rank is at least ceil(n*999/1000).';
COMMENT ON COLUMN tensors.quantiles_exact IS 'True where bins are single values; else quantiles are under 0.8 % low.';
COMMENT ON COLUMN tensors.digest IS
    'Hash of dtype, shape and bytes: equal for equal tensors of any models; NULL of stacks of many experts.';

-- key: model, matrix
-- of: a scan
CREATE TABLE matrices (
    model            VARCHAR NOT NULL,
    matrix           VARCHAR NOT NULL,
    kind             VARCHAR NOT NULL,
    tensor           VARCHAR,
    component        VARCHAR,
    layer            INTEGER,
    role             VARCHAR,
    expert           INTEGER,
    rows             BIGINT NOT NULL,
    cols             BIGINT NOT NULL,
    heads            INTEGER,
    queries_per_head INTEGER,
    scaling          DOUBLE,
    zeros            BIGINT,
    violations_2_4   BIGINT,
    violations_4_8   BIGINT
);

COMMENT ON TABLE matrices IS 'One row per logical 2-D weight, and per circuit and LoRA delta that was scanned.';
COMMENT ON COLUMN matrices.model IS 'Name of the model in this store.';
COMMENT ON COLUMN matrices.matrix IS
    'Tensor name, tensor#q_proj for a part, tensor[17] for an expert of a stack, tensor[17]#up_proj for a part of one; '
    'circuit:text.3.ov.12 for the OV circuit of head 12 in layer 3 of text, delta:text.3.q_proj for a LoRA pair.';
COMMENT ON COLUMN matrices.kind IS
    'whole for a 2-D tensor; part of a fused one; expert of a stack, or a part of one; folded for an n-D tensor seen '
    'as first axis x the rest; circuit for a product of two heads; delta for B A of a LoRA pair, without its scaling. '
    'Rows are outputs, however a tensor is stored.';
COMMENT ON COLUMN matrices.tensor IS 'Tensor that holds it; NULL for a circuit or delta.';
COMMENT ON COLUMN matrices.component IS 'Part of the model it belongs to: text, vision, encoder, ...; never NULL.';
COMMENT ON COLUMN matrices.layer IS 'Layer number from 0; NULL only where there is none.';
COMMENT ON COLUMN matrices.role IS
    'What it does: q_proj, down_proj, ...; other when no rule names it. Of a circuit of query head h: ov is '
    'W_O[:, h] W_V[kv(h)], qk is W_Q[h]^T W_K[kv(h)] without RoPE, biases and q/k norms (position 0, unnormalised).';
COMMENT ON COLUMN matrices.expert IS 'Expert number from 0; NULL outside mixtures of experts.';
COMMENT ON COLUMN matrices.rows IS 'Output channels.';
COMMENT ON COLUMN matrices.cols IS 'Input channels.';
COMMENT ON COLUMN matrices.heads IS 'Heads in this matrix (KV heads for k_proj, v_proj); NULL for none or unknown.';
COMMENT ON COLUMN matrices.queries_per_head IS 'Query heads per head (GQA); 1 for q_proj and o_proj; NULL if unknown.';
COMMENT ON COLUMN matrices.scaling IS
    'What B A of a LoRA pair is multiplied by before it is added to its weight: lora_alpha / r, of rsLoRA lora_alpha / '
    'sqrt(r), by the patterns in adapter_config.json; NULL of all else, and where the config does not say.';
COMMENT ON COLUMN matrices.zeros IS 'Values equal to zero; NULL of what has no statistics, such as circuits.';
COMMENT ON COLUMN matrices.violations_2_4 IS
    'Of its rows * cols/4 groups of 4 neighbours in a row, from the first on, those with more than 2 values that are '
    'not zero: 0 means 2:4 sparse. NULL where 4 does not divide cols, or they are no input channels (kind folded).';
COMMENT ON COLUMN matrices.violations_4_8 IS 'Likewise of 8 with more than 4: 0 means 4:8 sparse.';

-- key: model
-- of: a scan
CREATE TABLE models (
    model           VARCHAR NOT NULL,
    source          VARCHAR NOT NULL,
    format          VARCHAR NOT NULL,
    architecture    VARCHAR,
    family          VARCHAR,
    parameters      BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    layers          INTEGER,
    hidden_size     INTEGER,
    heads           INTEGER,
    kv_heads        INTEGER,
    head_dim        INTEGER,
    vocab_size      INTEGER,
    experts         INTEGER,
    tied_embeddings BOOLEAN,
    config          JSON,
    channels        VARCHAR NOT NULL,
    identity        VARCHAR NOT NULL,
    scan            VARCHAR NOT NULL,
    commits         INTEGER NOT NULL,
    state           VARCHAR NOT NULL
);

COMMENT ON TABLE models IS 'One row per scanned checkpoint.';
COMMENT ON COLUMN models.model IS 'Name of the model in this store; the key.';
COMMENT ON COLUMN models.source IS 'Path the checkpoint was read from; it need not exist any more.';
COMMENT ON COLUMN models.format IS 'Container format of the shards: safetensors or pytorch.';
COMMENT ON COLUMN models.architecture IS 'First entry of architectures in config.json.';
COMMENT ON COLUMN models.family IS
    'Naming families whose rules gave the tensors their places, joined by +; NULL when none fits.';
COMMENT ON COLUMN models.parameters IS 'Those of its tensors; what tensors share, as tied weights do, counts once.';
COMMENT ON COLUMN models.bytes IS
    'Bytes of tensor data in all shards, headers not counted; what tensors share counts once.';
COMMENT ON COLUMN models.layers IS 'Number of layers, from config.json.';
COMMENT ON COLUMN models.hidden_size IS 'Width of the residual stream, from config.json.';
COMMENT ON COLUMN models.heads IS 'Query heads per layer, from config.json.';
COMMENT ON COLUMN models.kv_heads IS 'Key and value heads per layer, from config.json.';
COMMENT ON COLUMN models.head_dim IS 'Width of one head, from config.json, never guessed from a shape.';
COMMENT ON COLUMN models.vocab_size IS 'Rows of the token embedding, from config.json.';
COMMENT ON COLUMN models.experts IS 'Routed experts of each layer that has any, by the config.';
COMMENT ON COLUMN models.tied_embeddings IS 'Whether config.json says that lm_head is embed_tokens.';
COMMENT ON COLUMN models.config IS 'The whole config.json.';
COMMENT ON COLUMN models.channels IS
    'Which channels have rows in the table of that name: all; dense (none of experts); none. Zarr has all.';
COMMENT ON COLUMN models.identity IS 'Hash of headers, file sizes and scanned content: equal for equal checkpoints.';
COMMENT ON COLUMN models.scan IS 'Folder of the scan''s arrays under arrays.zarr.';
COMMENT ON COLUMN models.commits IS 'Committed products that this catalog was built from.';
COMMENT ON COLUMN models.state IS 'Hash of those commits: another one where any was made again.';

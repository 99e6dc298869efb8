CREATE TABLE files (
    model        VARCHAR NOT NULL,
    file         VARCHAR NOT NULL,
    bytes        BIGINT NOT NULL,
    header_bytes BIGINT NOT NULL,
    tensors      INTEGER NOT NULL
);

COMMENT ON TABLE files IS 'One row per shard file.';
COMMENT ON COLUMN files.model IS 'Name of the model in this store.';
COMMENT ON COLUMN files.file IS 'Name of the shard within the checkpoint''s folder.';
COMMENT ON COLUMN files.bytes IS 'Size of the file in bytes.';
COMMENT ON COLUMN files.header_bytes IS 'Bytes before the first tensor: length word and header.';
COMMENT ON COLUMN files.tensors IS 'Tensors in this file.';

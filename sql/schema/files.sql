-- key: model, file
-- of: a scan
CREATE TABLE files (
    model        VARCHAR NOT NULL,
    file         VARCHAR NOT NULL,
    bytes        BIGINT NOT NULL,
    header_bytes BIGINT NOT NULL,
    used_bytes   BIGINT NOT NULL,
    unused_bytes BIGINT NOT NULL,
    tensors      INTEGER NOT NULL
);

COMMENT ON TABLE files IS 'One row per shard file.';
COMMENT ON COLUMN files.model IS 'Name of the model in this store.';
COMMENT ON COLUMN files.file IS 'Name of the shard within the checkpoint''s folder.';
COMMENT ON COLUMN files.bytes IS 'Size of the file in bytes.';
COMMENT ON COLUMN files.header_bytes IS
    'Bytes that were read to know the tensors: length word and header, or pickle and directory of a PyTorch file.';
COMMENT ON COLUMN files.used_bytes IS
    'Bytes that tensors of the model have, each counted once: tied weights and overlapping views share theirs.';
COMMENT ON COLUMN files.unused_bytes IS
    'Bytes of stored data that no tensor of the model has: what slices kept of their storage in a PyTorch file.';
COMMENT ON COLUMN files.tensors IS 'Tensors in this file.';

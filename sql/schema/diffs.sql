-- key: model_a, model_b
-- of: a comparison
CREATE TABLE diffs (
    model_a    VARCHAR NOT NULL,
    model_b    VARCHAR NOT NULL,
    comparison VARCHAR NOT NULL,
    weights    BIGINT NOT NULL,
    compared   BIGINT NOT NULL,
    failed     BIGINT NOT NULL,
    ranked     BIGINT NOT NULL,
    channels   VARCHAR NOT NULL,
    state      VARCHAR NOT NULL
);

COMMENT ON TABLE diffs IS 'One row per two models of this store whose values were compared.';
COMMENT ON COLUMN diffs.model_a IS 'The model that is compared with: the original.';
COMMENT ON COLUMN diffs.model_b IS 'The model that came of it.';
COMMENT ON COLUMN diffs.comparison IS 'Folder of the comparison under arrays.zarr and commits.';
COMMENT ON COLUMN diffs.weights IS 'Weights of b that were to be compared with one of a.';
COMMENT ON COLUMN diffs.compared IS 'Those that were; fewer than weights where a run was stopped or a weight failed.';
COMMENT ON COLUMN diffs.failed IS 'Those that could not be read: see tensor_diffs.reason.';
COMMENT ON COLUMN diffs.ranked IS 'Those whose change has a rank; 0 where nobody asked for it.';
COMMENT ON COLUMN diffs.channels IS
    'Which channels have rows in channel_diffs: all, dense (none of experts) or none, by what the catalog has of model '
    'b, or because they would be too many.';
COMMENT ON COLUMN diffs.state IS 'Hash of what these rows were built from.';

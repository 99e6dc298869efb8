-- key: model, run
-- of: a scan
CREATE TABLE runs (
    model       VARCHAR NOT NULL,
    run         INTEGER NOT NULL,
    started     TIMESTAMP NOT NULL,
    seconds     DOUBLE NOT NULL,
    tasks       INTEGER NOT NULL,
    bytes_read  BIGINT NOT NULL,
    peak_memory BIGINT,
    options     JSON NOT NULL,
    host        JSON NOT NULL,
    versions    JSON NOT NULL
);

COMMENT ON TABLE runs IS 'One row per ingest that wrote something: the only place for what differs between equal runs.';
COMMENT ON COLUMN runs.model IS 'Name of the model in this store.';
COMMENT ON COLUMN runs.run IS 'Number of the run for this model, from 1.';
COMMENT ON COLUMN runs.started IS 'Start of the run, UTC.';
COMMENT ON COLUMN runs.seconds IS 'Wall time of the run in seconds, the catalog''s building not counted.';
COMMENT ON COLUMN runs.tasks IS 'Tasks that this run committed.';
COMMENT ON COLUMN runs.bytes_read IS 'Bytes of tensor data that this run read.';
COMMENT ON COLUMN runs.peak_memory IS 'Peak anonymous memory in bytes, catalog not counted; NULL where unknown.';
COMMENT ON COLUMN runs.options IS 'Options the run was started with.';
COMMENT ON COLUMN runs.host IS 'Machine: platform, processor, logical cores.';
COMMENT ON COLUMN runs.versions IS 'Versions of shardscan, Python and the libraries that compute.';

-- key: model, spectrum, i
-- of: a scan
-- summed: i
CREATE TABLE singular_values (
    model    VARCHAR NOT NULL,
    spectrum VARCHAR NOT NULL,
    i        INTEGER NOT NULL,
    layer    INTEGER,
    role     VARCHAR,
    head     INTEGER,
    sigma    DOUBLE NOT NULL
);

COMMENT ON TABLE singular_values IS 'Every singular value, largest first.';
COMMENT ON COLUMN singular_values.model IS 'Name of the model in this store.';
COMMENT ON COLUMN singular_values.spectrum IS 'Spectrum id: see spectra.';
COMMENT ON COLUMN singular_values.i IS 'Rank of the value, from 1.';
COMMENT ON COLUMN singular_values.layer IS 'Layer of the matrix.';
COMMENT ON COLUMN singular_values.role IS 'Role of the matrix; ov or qk for a circuit.';
COMMENT ON COLUMN singular_values.head IS
    'Head number, of a circuit that of the query head; NULL for the whole matrix.';
COMMENT ON COLUMN singular_values.sigma IS 'Singular value.';

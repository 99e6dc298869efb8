-- key: model, spectrum
-- of: a scan
-- summed: rank
CREATE TABLE spectra (
    model       VARCHAR NOT NULL,
    spectrum    VARCHAR NOT NULL,
    matrix      VARCHAR NOT NULL,
    layer       INTEGER,
    role        VARCHAR,
    head        INTEGER,
    rows        BIGINT NOT NULL,
    cols        BIGINT NOT NULL,
    rank        INTEGER NOT NULL,
    sigma_max   DOUBLE,
    sigma_min   DOUBLE,
    frobenius   DOUBLE,
    floor       DOUBLE,
    below_floor INTEGER,
    method      VARCHAR NOT NULL,
    self_check  DOUBLE,
    reason      VARCHAR
);

COMMENT ON TABLE spectra IS 'One row per computed spectrum: a head, a whole matrix, a circuit, or a LoRA delta.';
COMMENT ON COLUMN spectra.model IS 'Name of the model in this store.';
COMMENT ON COLUMN spectra.spectrum IS 'Matrix id for a whole matrix or a circuit, matrix@7 for head 7 of a matrix.';
COMMENT ON COLUMN spectra.matrix IS 'Matrix id: see matrices.';
COMMENT ON COLUMN spectra.layer IS 'Layer of the matrix.';
COMMENT ON COLUMN spectra.role IS 'Role of the matrix; ov or qk for a circuit: see matrices.role.';
COMMENT ON COLUMN spectra.head IS
    'Head number from 0, of a circuit that of the query head; NULL for the whole matrix. KV heads are stored once.';
COMMENT ON COLUMN spectra.rows IS 'Rows of the matrix, head slice or circuit.';
COMMENT ON COLUMN spectra.cols IS 'Columns of the matrix, head slice or circuit.';
COMMENT ON COLUMN spectra.rank IS
    'Number of singular values: min(rows, cols), of a circuit at most head_dim, of a delta r.';
COMMENT ON COLUMN spectra.sigma_max IS 'Largest singular value.';
COMMENT ON COLUMN spectra.sigma_min IS 'Smallest singular value.';
COMMENT ON COLUMN spectra.frobenius IS 'Frobenius norm: root of the sum of squared singular values.';
COMMENT ON COLUMN spectra.floor IS
    'Singular values below this are noise of the method; for a circuit relative to the norms of its factors.';
COMMENT ON COLUMN spectra.below_floor IS 'How many singular values lie below floor.';
COMMENT ON COLUMN spectra.method IS
    'gram (float64 Gram and eigvalsh), gram_gpu (both on a GPU), qr_svd (float64 QR and SVD), qr_cores (QR of both '
    'factors), none (see reason).';
COMMENT ON COLUMN spectra.self_check IS
    'Relative difference of the sum of squared singular values from the squared norm that the statistics gave; of a '
    'circuit from its norm by Gram matrices, relative to the squared norms of its factors.';
COMMENT ON COLUMN spectra.reason IS 'Why there are no singular values.';

-- weights: every matrix of a checkpoint, and every tensor that holds none, with all that tells one from another.
--   weight          the id of the matrix, else the name of the tensor
--   canonical_name  the tensor's, without wrapper prefixes, and whatever the weight's id adds to it
--   shape           the tensor's where it is one weight, else rows and columns
--   bytes           the tensor's, in proportion
-- Circuits and LoRA deltas are no weights: no file holds them. Of tensors outside the layers that are stored once, as
-- PyTorch saves tied ones, one is a weight, the embedding if it is among them: what safetensors have of them.
CREATE VIEW weights AS
WITH owned AS (
    SELECT t.*
    FROM tensors t
    QUALIFY t.layer IS NOT NULL OR row_number() OVER (
        PARTITION BY t.model, coalesce(t.shared_with, t.tensor)
        ORDER BY t.layer IS NOT NULL, t.role = 'embed_tokens' DESC, t.shared_with IS NOT NULL, t.tensor) = 1
)
SELECT m.model, m.matrix AS weight, t.tensor,
       t.canonical_name || substr(m.matrix, length(t.tensor) + 1) AS canonical_name,
       m.component, m.layer, m.role, m.expert, t.part, m.rows, m.cols, m.heads,
       CASE WHEN m.kind IN ('whole', 'folded') THEN t.shape
            ELSE [CAST(m.rows AS UBIGINT), CAST(m.cols AS UBIGINT)] END AS shape,
       m.rows * m.cols AS parameters, t.dtype,
       CAST(CAST(t.bytes AS HUGEINT) * (m.rows * m.cols) // nullif(t.parameters, 0) AS BIGINT) AS bytes
FROM matrices m JOIN owned t ON t.model = m.model AND t.tensor = m.tensor
UNION ALL BY NAME
SELECT t.model, t.tensor AS weight, t.tensor, t.canonical_name, t.component, t.layer, t.role, t.expert, t.part,
       t.shape, t.parameters, t.dtype, t.bytes
FROM owned t ANTI JOIN matrices m ON m.model = t.model AND m.tensor = t.tensor;

COMMENT ON VIEW weights IS 'Every matrix, and every tensor that holds none: what two checkpoints are compared by.';
COMMENT ON COLUMN weights.model IS 'Name of the model in this store.';
COMMENT ON COLUMN weights.weight IS 'Matrix id, or the tensor''s name where it holds no matrix.';
COMMENT ON COLUMN weights.tensor IS 'Tensor that holds it.';
COMMENT ON COLUMN weights.canonical_name IS 'weight without wrapper prefixes such as module. and _orig_mod.';
COMMENT ON COLUMN weights.component IS 'Part of the model it belongs to.';
COMMENT ON COLUMN weights.layer IS 'Layer number from 0; NULL only where there is none.';
COMMENT ON COLUMN weights.role IS 'What it does: q_proj, input_norm, ...; other when no rule names it.';
COMMENT ON COLUMN weights.expert IS 'Expert number from 0; NULL outside mixtures of experts.';
COMMENT ON COLUMN weights.part IS 'Which part of the module: weight, bias, scale, ...';
COMMENT ON COLUMN weights.rows IS 'Output channels; NULL of what is no matrix.';
COMMENT ON COLUMN weights.cols IS 'Input channels; NULL of what is no matrix.';
COMMENT ON COLUMN weights.heads IS 'Heads in this matrix; NULL for none or unknown.';
COMMENT ON COLUMN weights.shape IS 'Shape of the tensor where it is one weight, else rows and columns.';
COMMENT ON COLUMN weights.parameters IS 'Values; of codes the weights they are: see tensors.';
COMMENT ON COLUMN weights.dtype IS 'Dtype code of the tensor.';
COMMENT ON COLUMN weights.bytes IS 'Bytes of data, of a part of a tensor in proportion.';

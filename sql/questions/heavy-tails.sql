-- title: Tensors with the heaviest tails
-- why: High kurtosis and incoherence (absmax / rms) mean that few values carry the norm: rotations (QuaRot,
--   arXiv 2404.00456) help most here; 1-D weights (norms) cannot be rotated and are left out.
-- parameter: top = 50: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask heavy-tails -p top=10 --store scans
SELECT model, layer, role, kurtosis, absmax / nullif(rms, 0) AS incoherence, absmax, tensor
FROM tensors
WHERE part = 'weight' AND len(shape) > 1 AND kurtosis IS NOT NULL AND model LIKE $model
ORDER BY kurtosis DESC, model, tensor
LIMIT $top;

-- title: Why a file is as large as it is
-- why: A pruned checkpoint that is no smaller has stored its zeros, its copies, a wider dtype, or all that its slices
--   were cut from.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask size-check --store scans -o sizes.csv
WITH sized AS (
    SELECT model, CAST(sum(parameters) AS BIGINT) AS parameters, CAST(sum(bytes) AS BIGINT) AS tensor_bytes,
           CAST(coalesce(sum(zeros * (bytes / nullif(parameters, 0))) FILTER (shared_with IS NULL), 0) AS BIGINT)
               AS zero_bytes
    FROM tensors
    GROUP BY model
),
copied AS (
    SELECT t.model, CAST(sum(t.bytes) AS BIGINT) AS copied_bytes
    FROM tensors t JOIN tensors o ON o.model = t.model AND o.tensor = t.alias_of
    WHERE coalesce(t.shared_with, t.tensor) <> coalesce(o.shared_with, o.tensor)
    GROUP BY t.model
),
typed AS (
    SELECT model, string_agg(dtype || ' ' || round(100 * share) || ' %', ', ' ORDER BY share DESC, dtype) AS dtypes
    FROM (SELECT model, dtype, sum(bytes) / nullif(sum(sum(bytes)) OVER (PARTITION BY model), 0) AS share
          FROM tensors GROUP BY model, dtype)
    GROUP BY model
),
stored AS (
    SELECT model, CAST(sum(bytes) AS BIGINT) AS file_bytes, CAST(sum(used_bytes) AS BIGINT) AS used_bytes,
           CAST(sum(unused_bytes) AS BIGINT) AS unused_bytes
    FROM files
    GROUP BY model
)
-- file_bytes = tensor_bytes - shared_bytes + unused_bytes + other_bytes, none of which is negative: shared_bytes are of
-- several tensors and stored once, unused_bytes of none, other_bytes of headers and of what the format needs.
-- copied_bytes are of output heads that are stored beside the embedding they are equal to; zero_bytes are of zeros.
SELECT model, parameters, tensor_bytes * 8 / nullif(parameters, 0) AS bits_per_parameter, file_bytes, tensor_bytes,
       tensor_bytes - used_bytes AS shared_bytes, unused_bytes, file_bytes - used_bytes - unused_bytes AS other_bytes,
       zero_bytes, coalesce(copied_bytes, 0) AS copied_bytes, dtypes
FROM sized JOIN typed USING (model) JOIN stored USING (model) LEFT JOIN copied USING (model)
WHERE model LIKE $model
ORDER BY model;

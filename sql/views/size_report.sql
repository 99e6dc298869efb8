-- size_report(model): tensors, parameters and bytes of every model whose name matches the LIKE pattern.
--   level       what a row is broken down by: model; component; role (and component); layer (and component);
--               layer_role (component, layer and role)
--   parameters  what tensors share, as tied weights do, counts for the first of them
--   bytes       of values; what tensors share counts for each of them (models.bytes and files.used_bytes count it once)
--   share       bytes / bytes of all the model's tensors
--   file_bytes  bytes of the shard files, headers and padding included; NULL except on level model
-- Every level adds up to the same totals, so never sum over two of them. A tensor outside the layers has layer NULL,
-- also at the levels that have layers.
-- Inside the macro a bare model is the parameter, so columns carry the name of their table.
CREATE MACRO size_report(model := '%') AS TABLE
WITH sized AS (
    SELECT t.model, t.component, t.layer, t.role,
           CASE GROUPING_ID(t.component, t.layer, t.role)
               WHEN 7 THEN 'model' WHEN 3 THEN 'component' WHEN 2 THEN 'role' WHEN 1 THEN 'layer'
               ELSE 'layer_role' END AS level,
           CAST(count(*) AS BIGINT) AS tensors,
           CAST(coalesce(sum(t.parameters) FILTER (t.shared_with IS NULL), 0) AS BIGINT) AS parameters,
           CAST(sum(t.bytes) AS BIGINT) AS bytes
    FROM tensors t
    WHERE t.model LIKE model
    GROUP BY GROUPING SETS (
        (t.model),
        (t.model, t.component),
        (t.model, t.component, t.role),
        (t.model, t.component, t.layer),
        (t.model, t.component, t.layer, t.role)
    )
),
totals AS (
    SELECT s.model, CAST(s.bytes AS DOUBLE) AS bytes FROM sized s WHERE s.level = 'model'
),
shards AS (
    SELECT f.model, CAST(sum(f.bytes) AS BIGINT) AS bytes FROM files f GROUP BY f.model
)
SELECT s.model, s.level, s.component, s.layer, s.role, s.tensors, s.parameters, s.bytes,
       s.bytes / nullif(t.bytes, 0) AS share,
       CASE WHEN s.level = 'model' THEN f.bytes END AS file_bytes
FROM sized s JOIN totals t ON t.model = s.model LEFT JOIN shards f ON f.model = s.model;

COMMENT ON MACRO TABLE size_report IS 'Tensors, parameters and bytes at five levels; filter by level before summing.';

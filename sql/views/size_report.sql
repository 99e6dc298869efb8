-- size_report(model): tensors, parameters and bytes of every model whose name matches the LIKE pattern, at five levels of detail.
-- `level` says which columns a row is broken down by; every level adds up to the same totals, so never sum over two of them:
--   model;  component;  role (and component);  layer (and component);  layer_role (component, layer and role)
-- A tensor outside the layers has layer NULL, also at the levels that have layers. share = bytes / bytes of the model's tensors.
-- file_bytes = bytes of the shard files, headers and padding included: on level model only, NULL on the others.
CREATE MACRO size_report(model := '%') AS TABLE
WITH sized AS (
    SELECT t.model, t.component, t.layer, t.role,
           CASE GROUPING_ID(t.component, t.layer, t.role)
               WHEN 7 THEN 'model' WHEN 3 THEN 'component' WHEN 2 THEN 'role' WHEN 1 THEN 'layer' ELSE 'layer_role' END AS level,
           CAST(count(*) AS BIGINT) AS tensors,
           CAST(sum(t.parameters) AS BIGINT) AS parameters,
           CAST(sum(t.bytes) AS BIGINT) AS bytes
    FROM tensors t
    WHERE t.model LIKE model
    GROUP BY GROUPING SETS ((t.model), (t.model, t.component), (t.model, t.component, t.role), (t.model, t.component, t.layer),
                            (t.model, t.component, t.layer, t.role))
),
shards AS (
    SELECT f.model, CAST(sum(f.bytes) AS BIGINT) AS file_bytes FROM files f GROUP BY f.model
)
SELECT s.model, s.level, s.component, s.layer, s.role, s.tensors, s.parameters, s.bytes,
       s.bytes / nullif(CAST(sum(s.bytes) FILTER (s.level = 'model') OVER (PARTITION BY s.model) AS DOUBLE), 0) AS share,
       CASE WHEN s.level = 'model' THEN f.file_bytes END AS file_bytes
FROM sized s LEFT JOIN shards f ON f.model = s.model;

COMMENT ON MACRO TABLE size_report IS 'Tensors, parameters and bytes by model, component, role and layer; filter by level before summing.';

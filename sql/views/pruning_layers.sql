-- pruning_layers(a, b): what became of every layer, and of what is outside the layers (layer and layer_b NULL).
--   layer, layer_b   numbers of the layer in a and b: layer is NULL of one that only b has, layer_b of one that is gone
--   retention        Σ parameters_b / Σ parameters_a, structured_sparsity = 1 − retention
--   is_copy          whether another layer of b is this one of a already: it was repeated
--   touched          whether a shape changed, or a weight was added or removed; NULL of a layer that only one has
--   faults           sentences about shapes that cannot be: see shape_faults
CREATE MACRO pruning_layers(a, b) AS TABLE
WITH layers AS (
    SELECT d.model_a, d.model_b, d.component, d.layer, d.layer_b,
           CAST(coalesce(sum(d.parameters_a), 0) AS BIGINT) AS parameters_a,
           CAST(coalesce(sum(d.parameters_b), 0) AS BIGINT) AS parameters_b,
           count(*) AS weights,
           count(*) FILTER (d.status = 'pruned') AS pruned,
           count(*) FILTER (d.status = 'added') AS added,
           count(*) FILTER (d.status = 'removed') AS removed,
           layer_touched(d.layer, d.layer_b, d.status) AS touched, bool_or(d.is_copy) AS is_copy
    FROM pruning_diff(a, b) d
    GROUP BY d.model_a, d.model_b, d.component, d.layer, d.layer_b
),
faults AS (
    SELECT f.component, f.layer, f.layer_b, list(DISTINCT f.detail ORDER BY f.detail) AS faults
    FROM shape_faults(a, b) f
    GROUP BY f.component, f.layer, f.layer_b
)
SELECT l.model_a, l.model_b, l.component, l.layer, l.layer_b, l.parameters_a, l.parameters_b,
       l.parameters_b / nullif(l.parameters_a, 0) AS retention, 1 - retention AS structured_sparsity,
       l.weights, l.pruned, l.added, l.removed, l.touched, l.is_copy, coalesce(f.faults, []) AS faults
FROM layers l
LEFT JOIN faults f
  ON f.component = l.component AND f.layer IS NOT DISTINCT FROM l.layer AND f.layer_b IS NOT DISTINCT FROM l.layer_b;

COMMENT ON MACRO TABLE pruning_layers IS 'Parameters before and after, and impossible shapes, of every layer.';

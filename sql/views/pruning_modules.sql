-- pruning_modules(a, b): what became of every role, over all layers; its weights, biases and experts are one module.
--   layers                         layers of a that have it; 1 where it is outside the layers
--   copied_layers                  layers of b that have it and are one of a that another layer of b is already
--   touched_layers                 layers of both in which its number of parameters changed
--   removed_layers, added_layers   layers in which only a, or only b, has it
--   retention                      Σ parameters_b / Σ parameters_a; touched_retention: over the touched layers only
--   min_, max_retention            of a touched layer
--   consistent                     whether all touched layers have one retention; NULL where none is touched
CREATE MACRO pruning_modules(a, b) AS TABLE
WITH summed AS (
    SELECT d.model_a, d.model_b, d.component, d.role,
           count(d.weight_a) > 0 AS is_in_a, count(d.weight_b) > 0 AS is_in_b, bool_or(d.is_copy) AS is_copy,
           CAST(coalesce(sum(d.parameters_a), 0) AS BIGINT) AS before,
           coalesce(sum(d.parameters_a) FILTER (NOT d.is_copy), 0) AS own,
           CAST(coalesce(sum(d.parameters_b), 0) AS BIGINT) AS after
    FROM pruning_diff(a, b) d
    GROUP BY d.model_a, d.model_b, d.component, d.role, d.layer, d.layer_b
),
modules AS (
    SELECT s.*, s.after / nullif(s.before, 0) AS retention,
           s.is_in_a AND s.is_in_b AND s.after <> s.before AND NOT s.is_copy AS touched
    FROM summed s
)
SELECT m.model_a, m.model_b, m.component, m.role,
       count(*) FILTER (m.is_in_a AND NOT m.is_copy) AS layers, count(*) FILTER (m.touched) AS touched_layers,
       count(*) FILTER (NOT m.is_in_b) AS removed_layers, count(*) FILTER (NOT m.is_in_a) AS added_layers,
       count(*) FILTER (m.is_copy) AS copied_layers,
       CAST(sum(m.own) AS BIGINT) AS parameters_a,
       CAST(sum(m.after) AS BIGINT) AS parameters_b,
       sum(m.after) / nullif(parameters_a, 0) AS retention,
       sum(m.after) FILTER (m.touched) / nullif(sum(m.before) FILTER (m.touched), 0) AS touched_retention,
       min(m.retention) FILTER (m.touched) AS min_retention, max(m.retention) FILTER (m.touched) AS max_retention,
       one_retention(m.retention, m.touched) AS consistent
FROM modules m
GROUP BY m.model_a, m.model_b, m.component, m.role;

COMMENT ON MACRO TABLE pruning_modules IS 'Retention of every role over all layers, and whether touched layers agree.';

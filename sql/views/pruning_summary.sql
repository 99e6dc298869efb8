-- pruning_summary(a, b): one row: sizes before and after, what happened to how many weights, whether it is consistent.
--   retention       parameters_b / parameters_a, structured_sparsity = 1 − retention
--   bytes, file_bytes   of tensors, and of the files that hold them
--   layers          layers of a; touched_layers: those of both whose shapes changed; untouched: numbers of the others
--   removed_layers, added_layers   layers that only a, or only b, has; copied_layers: those of b that are one of a that
--                       another layer of b is already
--   equal … removed     numbers of weights: see pruning_diff; unread: of those whose status is NULL
--   by_content          of weights without a place in one of the models, how many were paired by their values
--   consistent      whether the touched layers of every role have one retention (pruning_modules); inconsistent: roles
--   faults          impossible shapes (shape_faults)
--   sparsity        zeros / elements of all tensors
-- Layers of several components are counted together; their numbers are those of all.
CREATE MACRO pruning_summary(a, b) AS TABLE
WITH diffs AS MATERIALIZED (  -- once: planning what tells which weight is which takes longer than all the rest
    FROM pruning_diff(a, b)
),
weighed AS (
    SELECT count(*) FILTER (d.status = 'equal') AS equal, count(*) FILTER (d.status = 'changed') AS changed,
           count(*) FILTER (d.status = 'pruned') AS pruned, count(*) FILTER (d.status = 'grown') AS grown,
           count(*) FILTER (d.status = 'reshaped') AS reshaped, count(*) FILTER (d.status = 'added') AS added,
           count(*) FILTER (d.status = 'removed') AS removed, count(*) FILTER (d.status IS NULL) AS unread,
           count(*) FILTER (d.paired_by = 'content') AS by_content
    FROM diffs d
),
layers AS (
    SELECT d.layer, d.layer_b, layer_touched(d.layer, d.layer_b, d.status) AS touched, bool_or(d.is_copy) AS is_copy
    FROM diffs d
    GROUP BY d.component, d.layer, d.layer_b
),
layered AS (
    SELECT count(l.layer) FILTER (NOT l.is_copy) AS layers,
           count(l.layer) FILTER (l.touched AND NOT l.is_copy) AS touched_layers,
           count(l.layer) FILTER (l.layer_b IS NULL) AS removed_layers,
           count(l.layer_b) FILTER (l.layer IS NULL) AS added_layers,
           count(l.layer_b) FILTER (l.is_copy) AS copied_layers,
           coalesce(list(l.layer ORDER BY l.layer) FILTER (l.layer IS NOT NULL AND NOT l.touched AND NOT l.is_copy), [])
               AS untouched
    FROM layers l
),
faulty AS (
    SELECT count(DISTINCT (f.component, f.layer, f.detail)) AS faults FROM shape_faults(a, b) f
),
retained AS (  -- of each module in each layer: what is left of it, and whether that is not all of it
    SELECT d.component, d.role,
           coalesce(sum(d.parameters_b), 0) / nullif(sum(d.parameters_a), 0) AS retention,
           count(d.weight_a) > 0 AND count(d.weight_b) > 0 AND NOT bool_or(d.is_copy)
               AND coalesce(sum(d.parameters_a), 0) <> coalesce(sum(d.parameters_b), 0) AS touched
    FROM diffs d
    GROUP BY d.component, d.role, d.layer, d.layer_b
),
modules AS (
    SELECT r.role, one_retention(r.retention, r.touched) AS consistent
    FROM retained r
    GROUP BY r.component, r.role
),
modular AS (
    SELECT coalesce(bool_and(m.consistent), true) AS consistent,
           coalesce(list(m.role ORDER BY m.role) FILTER (NOT m.consistent), []) AS inconsistent
    FROM modules m
),
sized AS (
    SELECT m.model, m.parameters, m.bytes,
           (SELECT CAST(sum(f.bytes) AS BIGINT) FROM files f WHERE f.model = m.model) AS file_bytes,
           (SELECT sum(t.zeros) / nullif(sum(t.parameters) FILTER (t.zeros IS NOT NULL), 0)
            FROM tensors t WHERE t.model = m.model) AS sparsity
    FROM models m
)
SELECT x.model AS model_a, y.model AS model_b, x.parameters AS parameters_a, y.parameters AS parameters_b,
       y.parameters / nullif(x.parameters, 0) AS retention, 1 - retention AS structured_sparsity,
       x.bytes AS bytes_a, y.bytes AS bytes_b, x.file_bytes AS file_bytes_a, y.file_bytes AS file_bytes_b,
       l.layers, l.touched_layers, l.removed_layers, l.added_layers, l.copied_layers, l.untouched, w.*,
       m.consistent, m.inconsistent, f.faults,
       x.sparsity AS sparsity_a, y.sparsity AS sparsity_b
FROM sized x, sized y, weighed w, layered l, modular m, faulty f
WHERE x.model = existing_model(a) AND y.model = existing_model(b);

COMMENT ON MACRO TABLE pruning_summary IS 'Two models in one row: sizes, what became of how many weights, consistency.';

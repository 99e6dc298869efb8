-- shape_faults(a, b): shapes of b that no model of a's kind can have; what a has too is no fault, and between models of
-- two families nothing is.
--   head_dim    rows of q, k or v, or columns of o, that are no multiple of the length of a head
--   kv_groups   query heads that are no multiple of the KV heads, or other KV heads in k than in v
--   o_proj      columns of o that are not what the query heads give: heads of q × length of a head of v
--   mlp         gate, up and down that disagree about the intermediate width
--   experts     a router with another number of rows than there are experts
--   bias        a bias of another length than its weight has rows
--   residual    a weight that reads or writes another hidden size than the embedding has
--   vocabulary  an lm_head of another number of rows than the embedding has
-- layer is a's number, layer_b b's; a layer that only one model has is not looked at.
CREATE MACRO shape_faults(a, b) AS TABLE
WITH pairs AS MATERIALIZED (
    FROM weight_pairs(a, b)
),
-- of attention weights, how long they are along the axis that heads divide, and how long a head is: in b, where its
-- config and shapes agree about that, else in a
divided AS (
    SELECT p.component, p.layer, p.layer_b, p.role, p.heads_a, p.cols_a,
           CASE p.role WHEN 'o_proj' THEN p.cols_b ELSE p.rows_b END AS length,
           CASE p.role WHEN 'o_proj' THEN p.cols_a ELSE p.rows_a END AS length_a,
           coalesce(length // nullif(p.heads_b, 0), length_a // p.heads_a) AS d
    FROM pairs p
    WHERE p.part = 'weight' AND p.role IN ('q_proj', 'k_proj', 'v_proj', 'o_proj')
      AND p.rows_a IS NOT NULL AND p.rows_b IS NOT NULL
),
attention AS (
    SELECT p.component, p.layer, p.layer_b,
           any_value(p.length) FILTER (p.role = 'q_proj') AS q, any_value(p.d) FILTER (p.role = 'q_proj') AS dq,
           any_value(p.length) FILTER (p.role = 'k_proj') AS k, any_value(p.d) FILTER (p.role = 'k_proj') AS dk,
           any_value(p.length) FILTER (p.role = 'v_proj') AS v, any_value(p.d) FILTER (p.role = 'v_proj') AS dv,
           any_value(p.length) FILTER (p.role = 'o_proj') AS o, any_value(p.d) FILTER (p.role = 'o_proj') AS d_o,
           any_value(p.heads_a) FILTER (p.role = 'q_proj') AS queries,
           any_value(p.cols_a) FILTER (p.role = 'o_proj') = queries * dv AS usual_o,
           queries % any_value(p.heads_a) FILTER (p.role = 'k_proj') = 0 AS usual_groups
    FROM divided p
    GROUP BY p.component, p.layer, p.layer_b
),
widths AS (
    SELECT p.component, p.layer, p.layer_b,
           any_value(p.rows_a) FILTER (p.role = 'gate_proj') AS gate_a,
           any_value(p.rows_b) FILTER (p.role = 'gate_proj') AS gate,
           any_value(p.rows_a) FILTER (p.role = 'up_proj') AS up_a,
           any_value(p.rows_b) FILTER (p.role = 'up_proj') AS up,
           any_value(p.cols_a) FILTER (p.role = 'down_proj') AS down_a,
           any_value(p.cols_b) FILTER (p.role = 'down_proj') AS down
    FROM pairs p
    WHERE p.part = 'weight' AND p.role IN ('gate_proj', 'up_proj', 'down_proj')
    GROUP BY p.component, p.layer, p.layer_b, p.expert, p.expert_b
),
routed AS (
    SELECT p.component, p.layer, p.layer_b,
           any_value(p.rows_a) FILTER (p.role = 'router') AS router_a,
           any_value(p.rows_b) FILTER (p.role = 'router') AS router,
           count(DISTINCT p.expert) FILTER (p.weight_a IS NOT NULL) AS experts_a,
           count(DISTINCT p.expert_b) FILTER (p.weight_b IS NOT NULL) AS experts
    FROM pairs p
    WHERE p.part = 'weight'
    GROUP BY p.component, p.layer, p.layer_b
),
hidden AS (
    SELECT p.component, p.cols_a, p.cols_b, p.rows_a, p.rows_b FROM pairs p
    WHERE p.role = 'embed_tokens' AND p.part = 'weight' AND p.rows_a IS NOT NULL AND p.rows_b IS NOT NULL
),
stream AS (
    SELECT p.component, p.layer, p.layer_b, p.role, p.expert, h.cols_a AS hidden_a, h.cols_b AS hidden,
           CASE WHEN p.rows_a IS NULL THEN 'values' WHEN p.role IN ('o_proj', 'down_proj') THEN 'rows'
                ELSE 'columns' END AS axis,
           CASE axis WHEN 'values' THEN p.parameters_a WHEN 'rows' THEN p.rows_a ELSE p.cols_a END AS length_a,
           CASE axis WHEN 'values' THEN p.parameters_b WHEN 'rows' THEN p.rows_b ELSE p.cols_b END AS length
    FROM pairs p JOIN hidden h ON h.component = p.component
    WHERE p.part = 'weight' AND p.weight_a IS NOT NULL AND p.weight_b IS NOT NULL
      AND (p.rows_a IS NOT NULL AND p.role IN (
               'q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj', 'router', 'lm_head')
           OR p.rows_a IS NULL AND p.role LIKE '%norm' AND p.role NOT IN ('q_norm', 'k_norm'))
),
-- many modules of one layer can have the role other: a bias is of the weight whose name begins as its own does
biased AS (
    SELECT p.component, p.layer, p.layer_b, CASE WHEN p.role = 'other' THEN w.weight_b ELSE p.role END AS module,
           w.rows_a, w.rows_b, p.parameters_a, p.parameters_b
    FROM pairs p JOIN pairs w
      ON w.component = p.component AND w.layer IS NOT DISTINCT FROM p.layer
     AND w.layer_b IS NOT DISTINCT FROM p.layer_b AND w.role = p.role
     AND w.expert IS NOT DISTINCT FROM p.expert AND w.part = 'weight'
     AND (p.role <> 'other'
          OR regexp_replace(w.tensor_a, '[^.]*$', '') = regexp_replace(p.tensor_a, '[^.]*$', ''))
    WHERE p.part = 'bias' AND len(p.shape_a) = 1 AND w.rows_a = p.parameters_a
),
faults AS (
    SELECT p.component, p.layer, p.layer_b, 'head_dim' AS kind,
           format('{} has {} {}, which is no multiple of the head length {}', p.role, p.length,
                  CASE p.role WHEN 'o_proj' THEN 'columns' ELSE 'rows' END, p.d) AS detail
    FROM divided p WHERE p.length % p.d <> 0
    UNION ALL
    SELECT t.component, t.layer, t.layer_b, 'kv_groups',
           format('{} query heads are no multiple of {} KV heads', t.q // t.dq, t.k // t.dk)
    FROM attention t WHERE t.usual_groups AND (t.q // t.dq) % nullif(t.k // t.dk, 0) <> 0
    UNION ALL
    SELECT t.component, t.layer, t.layer_b, 'kv_groups',
           format('k_proj has {} heads and v_proj has {}', t.k // t.dk, t.v // t.dv)
    FROM attention t WHERE t.k // t.dk <> t.v // t.dv
    UNION ALL
    SELECT t.component, t.layer, t.layer_b, 'o_proj',
           format('o_proj has {} columns where {} query heads with {} values each of v_proj are {}',
                  t.o, t.q // t.dq, t.dv, t.q // t.dq * t.dv)
    FROM attention t WHERE t.usual_o AND t.o <> t.q // t.dq * t.dv
    UNION ALL
    SELECT w.component, w.layer, w.layer_b, 'mlp', format('gate_proj has {} rows and up_proj has {}', w.gate, w.up)
    FROM widths w WHERE w.gate_a = w.up_a AND w.gate <> w.up
    UNION ALL
    SELECT w.component, w.layer, w.layer_b, 'mlp',
           format('down_proj has {} columns and up_proj has {} rows', w.down, w.up)
    FROM widths w WHERE w.down_a = w.up_a AND w.down <> w.up
    UNION ALL
    SELECT r.component, r.layer, r.layer_b, 'experts',
           format('the router has {} rows and there are {} experts', r.router, r.experts)
    FROM routed r WHERE r.router_a = r.experts_a AND r.experts > 0 AND r.router <> r.experts
    UNION ALL
    SELECT i.component, i.layer, i.layer_b, 'bias',
           format('{} has {} rows and a bias of {}', i.module, i.rows_b, i.parameters_b)
    FROM biased i WHERE i.rows_b <> i.parameters_b
    UNION ALL
    SELECT s.component, s.layer, s.layer_b, 'residual',
           format('{} has {} {} where the embedding has {} columns', s.role, s.length, s.axis, s.hidden)
    FROM stream s WHERE s.length_a = s.hidden_a AND s.length <> s.hidden
    UNION ALL
    SELECT p.component, p.layer, p.layer_b, 'vocabulary',
           format('lm_head has {} rows and embed_tokens has {}', p.rows_b, h.rows_b)
    FROM pairs p JOIN hidden h ON h.component = p.component
    WHERE p.role = 'lm_head' AND p.part = 'weight' AND p.rows_a = h.rows_a AND p.rows_b <> h.rows_b
)
SELECT existing_model(a) AS model_a, existing_model(b) AS model_b, f.*
FROM faults f
WHERE (SELECT count(DISTINCT split_part(m.family, '+', 1)) FROM models m WHERE m.model IN (a, b)) <= 1;

COMMENT ON MACRO TABLE shape_faults IS 'Shapes of model b that cannot work together although those of model a do.';

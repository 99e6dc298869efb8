-- surviving_experts(a, b): which expert of b every expert of a is, layer by layer (expert_map); one row for each expert
-- of a, for each of b that is none of a's, and for each of b's in a layer that is a copy.
--   layer, layer_b   numbers of the layer in a and b; NULL where the layer is not there
--   status           kept; dropped; added: only b has it; unknown: the other model has experts, or layers with some, of
--                    which nobody knows what they are
CREATE MACRO surviving_experts(a, b) AS TABLE
WITH experts AS MATERIALIZED (
    SELECT DISTINCT w.model, w.component, w.layer, w.expert
    FROM weights w
    WHERE w.model IN (a, b) AND w.expert IS NOT NULL
),
layers AS MATERIALIZED (
    FROM layer_map(a, b)
),
pairs AS MATERIALIZED (
    SELECT coalesce(x.component, y.component) AS component, x.layer, y.layer AS layer_b,
           x.expert AS expert_a, y.expert AS expert_b
    FROM (FROM experts WHERE model = a) x
    LEFT JOIN expert_map(a, b) e ON e.component = x.component AND e.layer_a = x.layer AND e.expert_a = x.expert
    FULL JOIN (FROM experts WHERE model = b) y
      ON y.component = e.component AND y.layer = e.layer_b AND y.expert = e.expert_b
),
layered AS MATERIALIZED (
    SELECT p.component, coalesce(p.layer, y.layer_a) AS layer, coalesce(p.layer_b, x.layer_b) AS layer_b,
           p.expert_a, p.expert_b
    FROM pairs p
    LEFT JOIN layers x ON x.component = p.component AND x.layer_a = p.layer AND NOT x.is_copy
    LEFT JOIN layers y ON y.component = p.component AND y.layer_b = p.layer_b
),
-- layers that only one model has may be each other's
left_over AS (
    SELECT p.*, count(*) FILTER (p.expert_b IS NULL) OVER alike AS of_a,
           count(*) FILTER (p.expert_a IS NULL) OVER alike AS of_b
    FROM layered p
    WINDOW alike AS (
        PARTITION BY p.component, CASE WHEN (p.layer IS NULL) = (p.layer_b IS NULL) THEN coalesce(p.layer, -1) END)
)
SELECT existing_model(a) AS model_a, existing_model(b) AS model_b, o.component, o.layer, o.layer_b,
       o.expert_a, o.expert_b,
       CASE WHEN o.expert_a IS NOT NULL AND o.expert_b IS NOT NULL THEN 'kept'
            WHEN o.expert_a IS NULL AND o.of_a > 0 THEN 'unknown' WHEN o.expert_a IS NULL THEN 'added'
            WHEN o.of_b > 0 THEN 'unknown' ELSE 'dropped' END AS status
FROM left_over o
UNION ALL
-- without experts nothing above asks whether there are such models
SELECT m.a, m.b, NULL, NULL, NULL, NULL, NULL, NULL
FROM (SELECT existing_model(a) AS a, existing_model(b) AS b) m WHERE m.a IS NULL OR m.b IS NULL;

COMMENT ON MACRO TABLE surviving_experts IS 'Which experts of model a are in model b: kept, dropped or unknown.';

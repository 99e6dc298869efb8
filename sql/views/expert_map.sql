-- expert_map(a, b): which expert of b is which of a, in each layer that both have (layer_map).
-- Where a layer has as many experts in both, by number; else by content: an expert of b is the one of a with which it
-- shares most weights to the last value. No expert of a is two of b's. Where no weight is shared, they are not told.
-- What several experts of a layer have alike that are no copies of each other, as biases of zeros are, tells nothing.
CREATE MACRO expert_map(a, b) AS TABLE
WITH layers AS MATERIALIZED (
    FROM layer_map(a, b)
),
experts AS (
    SELECT DISTINCT w.model, w.component, w.layer, w.expert
    FROM weights w
    WHERE w.model IN (a, b) AND w.expert IS NOT NULL
),
numbered AS (
    SELECT e.*, count(*) OVER layer AS experts, row_number() OVER (layer ORDER BY e.expert) AS i
    FROM experts e
    WINDOW layer AS (PARTITION BY e.model, e.component, e.layer)
),
sides AS (
    SELECT DISTINCT l.component, l.layer_a, l.layer_b, x.experts AS experts_a, y.experts AS experts_b
    FROM layers l
    JOIN numbered x ON x.model = a AND x.component = l.component AND x.layer = l.layer_a
    JOIN numbered y ON y.model = b AND y.component = l.component AND y.layer = l.layer_b
),
unlike AS (
    FROM sides WHERE experts_a <> experts_b
),
known AS (
    SELECT w.model, w.component, w.layer, w.role, w.part, w.expert, c.content,
           sum(hash(w.role, w.part, coalesce(c.content, hash(w.weight)))) OVER (
               PARTITION BY w.model, w.component, w.layer, w.expert) AS whole
    FROM weights w
    SEMI JOIN (SELECT a AS model, component, layer_a AS layer FROM unlike
               UNION ALL SELECT b, component, layer_b FROM unlike) u
      ON u.model = w.model AND u.component = w.component AND u.layer = w.layer
    LEFT JOIN contents c ON c.model = w.model AND c.weight = w.weight
    WHERE w.expert IS NOT NULL
),
told AS (
    SELECT k.*
    FROM known k
    WHERE k.content IS NOT NULL
    WINDOW alike AS (PARTITION BY k.model, k.component, k.layer, k.role, k.part, k.content)
    QUALIFY min(k.whole) OVER alike = max(k.whole) OVER alike
),
shared AS (
    SELECT s.component, s.layer_a, s.layer_b, x.expert AS expert_a, y.expert AS expert_b, count(*) AS weights
    FROM unlike s
    JOIN told x ON x.model = a AND x.component = s.component AND x.layer = s.layer_a
    JOIN told y ON y.model = b AND y.component = s.component AND y.layer = s.layer_b
               AND y.role = x.role AND y.part = x.part AND y.content = x.content
    GROUP BY ALL
)
SELECT s.component, s.layer_a, s.layer_b, x.expert AS expert_a, y.expert AS expert_b
FROM sides s
JOIN numbered x ON x.model = a AND x.component = s.component AND x.layer = s.layer_a
JOIN numbered y ON y.model = b AND y.component = s.component AND y.layer = s.layer_b AND y.i = x.i
WHERE s.experts_a = s.experts_b
UNION ALL
SELECT s.component, s.layer_a, s.layer_b, s.expert_a, s.expert_b
FROM shared s
QUALIFY row_number() OVER (
            PARTITION BY s.component, s.layer_b, s.expert_b ORDER BY s.weights DESC, s.expert_a) = 1
    AND row_number() OVER (
            PARTITION BY s.component, s.layer_a, s.expert_a ORDER BY s.weights DESC, s.expert_b) = 1;

COMMENT ON MACRO TABLE expert_map IS 'Which expert of model b is which of model a, also where experts were dropped.';
